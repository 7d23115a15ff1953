"""Data sources of the runtime: open a `data` section, split it, and iterate over batches."""

from runtime.data.augment import AUGMENTATIONS
from runtime.data.config import Augment, DataConfig, Field
from runtime.data.dataset import Dataset, Part, open_data
from runtime.data.loader import batches, steps_in

__all__ = ["AUGMENTATIONS", "Augment", "DataConfig", "Dataset", "Field", "Part", "batches",
           "open_data", "steps_in"]
