"""idx files, MNIST's format: whole, of the right sizes, and never larger than they say."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from jaxdrill.errors import RunError
from jaxdrill.files import assert_regular, sha256

MAGIC = {1: b"\0\0\x08\x01", 3: b"\0\0\x08\x03"}  # by dimensions: unsigned bytes (LeCun, yann.lecun.com/exdb/mnist)
LARGEST = 2**28  # bytes of an array: 342,000 images
PARTS = {"train_images": ("train", "images"), "train_labels": ("train", "labels"),
         "test_images": ("test", "images"), "test_labels": ("test", "labels")}  # fmt: skip


def opened(path: Path) -> IO[bytes]:
    """A file to read, unpacked if it is gzip's."""
    assert_regular(path, LARGEST + 2**10)
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path)) if packed else path.open("rb")


def is_idx(path: Path) -> bool:
    """Whether a file begins as an idx file of images or labels."""
    try:
        with opened(path) as file:
            return file.read(4) in MAGIC.values()
    except (OSError, EOFError, ValueError, zlib.error):
        return False


def read(path: Path, dimensions: int) -> np.ndarray:
    """The array of an idx file, gzipped or not: uint8[N, H, W] of images (3 dimensions), uint8[N] of labels (1). Images
    of files named `emnist...` are transposed, as theirs are stored (tensorflow.org/datasets/catalog/emnist).

    Raises:
        RunError: it is another file, empty, cut short, or too large.
    """
    what = {1: "labels", 3: "images"}[dimensions]
    try:
        with opened(path) as file:
            if file.read(4) != MAGIC[dimensions]:
                raise RunError(f"{path} is no idx file of {what}")
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            if not 0 < (size := math.prod(shape)) <= LARGEST:
                limit = f"at most {LARGEST:,} are read" if size else "that is none"
                raise RunError(f"{path} says that it holds {size:,} bytes; {limit}")
            content = file.read(size + 1)  # one more, to see whether it ends there
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise RunError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(content) != size:
        raise RunError(f"{path} is damaged: it holds {'more' if len(content) > size else 'less'} than it says")
    array = np.frombuffer(content, np.uint8).reshape(shape)
    return array.swapaxes(1, 2) if dimensions == 3 and path.name.startswith("emnist") else array


def read_folder(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Anybody's four idx files: the arrays by name, images uint8[N, 28, 28, 1], labels uint8[N], 0..9, and the SHA-256
    sum of each file. A file's name says what it holds: `train` or `test` (or `t10k`), `images` or `labels`.

    Raises:
        RunError: a file is missing or wrong, or does not fit the others.
    """
    arrays, sums = {}, {}
    for name, (part, what) in PARTS.items():
        path = _find(folder, part, what)
        arrays[name] = read(path, 3 if what == "images" else 1)
        sums[path.name] = sha256(path)
        if wrong := _wrong(what, arrays[name], len(arrays.get(name.replace("labels", "images"), ()))):
            raise RunError(f"{path} {wrong}")
        if what == "images":
            arrays[name] = np.ascontiguousarray(arrays[name][..., None])
    return arrays, sums


def _find(folder: Path, part: str, what: str) -> Path:
    """The one file of a folder whose name says so."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise RunError(f"the --data-dir {folder} cannot be read ({error.strerror})") from error
    spellings = ("test", "t10k") if part == "test" else (part,)
    found = [name for name in names if what in name and any(spelling in name for spelling in spellings)]
    if len(found) != 1:
        several = "several files: " + ", ".join(found) if found else "no file"
        raise RunError(
            f"{folder} holds {several} with {' or '.join(spellings)} and {what} in the name; one is needed, such as "
            f"{spellings[-1]}-{what}-idx{3 if what == 'images' else 1}-ubyte.gz"
        )
    return folder / found[0]


def _wrong(what: str, array: np.ndarray, images: int) -> str | None:
    """What keeps an array from being trained on, or None; labels are for so many images."""
    if what == "images" and array.shape[1:] != (28, 28):
        return f"holds images of {array.shape[1]}x{array.shape[2]}; allowed: 28x28"
    if what == "images" and array.max() < 2:
        return f"has no pixel above {array.max()}; pixels go from 0 to 255"
    if what == "labels" and array.max() > 9:
        return f"has labels up to {array.max()}; allowed: 0 to 9, ten classes"
    if what == "labels" and len(array) != images:
        return f"holds {len(array):,} labels, for {images:,} images"
    return None
