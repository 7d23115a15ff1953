"""Where NVIDIA's tools are on this machine: on PATH, under CUDA_HOME or CUDA_PATH, or where PyPI's packages put them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def find(tool: str) -> str | None:
    """The path of a program of the CUDA toolkit, or None."""
    homes = [os.path.join(os.environ[name], "bin") for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    packaged = [str(folder / "bin") for folder in packages()]
    return shutil.which(tool, path=os.pathsep.join([os.environ.get("PATH", ""), *homes, *packaged]))


def packages() -> list[Path]:
    """The folders of PyPI's CUDA packages: `nvidia/cu13` beside the other packages, the newest first."""
    return sorted((f for root in sys.path for f in Path(root or ".", "nvidia").glob("cu[0-9]*")), reverse=True)
