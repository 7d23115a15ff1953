"""Data sources of the runtime: open a `data` section, split it, and iterate over batches."""

from importlib import import_module
from typing import Any

# Imported when asked for: `netc run` reads one image and should not pay for splits, loaders and augmentation.
HOMES = {"AUGMENTATIONS": "augment", "Augment": "config", "DataConfig": "config", "Dataset": "dataset", "Field": "config",
         "Part": "dataset", "batches": "loader", "open_data": "dataset", "steps_in": "loader"}
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
