"""idx files, MNIST's format: whole, of the right sizes, and never larger than they say."""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from jaxdrill.errors import RunError
from jaxdrill.files import assert_regular, sha256

# The third byte of a file is the type of its elements, the fourth their number of dimensions (LeCun,
# yann.lecun.com/exdb/mnist). Only uint8 is read.
TYPES = {
    0x08: "uint8",
    0x09: "int8",
    0x0B: "int16",
    0x0C: "int32",
    0x0D: "float32",
    0x0E: "float64",
}
CONTENTS = {
    1: "labels",
    2: "images as rows of a table",
    3: "images",
    4: "colour images",
}  # likely ones, by dimensions
LARGEST = 2**28  # bytes of an array: 342,000 images
PARTS = {
    "train_images": ("train", "images"),
    "train_labels": ("train", "labels"),
    "test_images": ("test", "images"),
    "test_labels": ("test", "labels"),
}


def opened(path: Path) -> IO[bytes]:
    """A file to read, unpacked if it is gzip's."""
    assert_regular(path, LARGEST + 2**10)
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path)) if packed else path.open("rb")


def is_idx(path: Path) -> bool:
    """Return True if a file begins as an idx file, of any element type and up to four dimensions."""
    try:
        with opened(path) as file:
            return _kind(file.read(4)) is not None
    except (OSError, EOFError, ValueError, zlib.error):
        return False


def _kind(header: bytes) -> tuple[str, int] | None:
    """Return the element type and the number of dimensions that the first four bytes state, None if they are others."""
    if (
        len(header) < 4
        or header[:2] != b"\0\0"
        or header[2] not in TYPES
        or header[3] not in CONTENTS
    ):
        return None
    return TYPES[header[2]], header[3]


def is_emnist(name: str) -> bool:
    """Return True for the name of a file or a dataset of EMNIST, whose images are stored transposed
    (tensorflow.org/datasets/catalog/emnist)."""
    return name.lower().startswith("emnist")


def read(path: Path, dimensions: int, dataset: str = "") -> np.ndarray:
    """Read the array of an idx file, gzipped or not. Images of EMNIST are transposed, so that digits are upright.

    Args:
        path: the file.
        dimensions: 3 for images, 1 for labels.
        dataset: name of the dataset that the file belongs to. EMNIST is recognised by it or by the file's name.

    Returns:
        uint8[N, H, W] of images, uint8[N] of labels.

    Raises:
        RunError: it is another file, empty, cut short, or too large.
    """
    what = CONTENTS[dimensions]
    try:
        with opened(path) as file:
            kind = _kind(file.read(4))
            if kind is None:
                raise RunError(
                    f"{path} is not an idx file of {what}. Use MNIST's format, gzipped or not."
                )
            if kind != ("uint8", dimensions):
                found = f"{kind[1]}-D {kind[0]} data" + (
                    f" ({CONTENTS[kind[1]]}?)" if kind[1] != dimensions else ""
                )
                raise RunError(
                    f"{path} holds {found}. Allowed for {what}: {dimensions}-D uint8 data."
                )
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            if not 0 < (size := math.prod(shape)) <= LARGEST:
                limit = f"at most {LARGEST:,} are read" if size else "that is none"
                raise RunError(f"{path} says that it holds {size:,} bytes; {limit}")
            content = file.read(size + 1)  # one more, to see whether it ends there
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise RunError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error
    if len(content) != size:
        raise RunError(
            f"{path} is damaged: it holds {'more' if len(content) > size else 'less'} than it says"
        )
    array = np.frombuffer(content, np.uint8).reshape(shape)
    return (
        array.swapaxes(1, 2)
        if dimensions == 3 and (is_emnist(path.name) or is_emnist(dataset))
        else array
    )


def read_folder(folder: Path, dataset: str = "") -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a user's four idx files.

    A file's name says what it holds, in letters of either case: `train` or `test` (or `t10k`), and `images` or
    `labels`. Files whose name begins with a dot are ignored: macOS writes a `._NAME` beside each file on other disks.

    Args:
        folder: where the files are.
        dataset: name of the dataset. Where several files fit, those whose name contains it are used.

    Returns:
        The arrays by name, images uint8[N, 28, 28, 1], labels uint8[N], 0..9; and the SHA-256 sum of each file.

    Raises:
        RunError: a file is missing or wrong, or does not fit the others.
    """
    arrays, sums = {}, {}
    for name, (part, what) in PARTS.items():
        path = _find(folder, part, what, dataset)
        if path.name in sums:
            raise RunError(
                f"{path} is found for training and for the test. Keep one of these words in its name."
            )
        arrays[name] = read(path, 3 if what == "images" else 1, dataset)
        sums[path.name] = sha256(path)
        if wrong := _wrong(
            what, arrays[name], len(arrays.get(name.replace("labels", "images"), ()))
        ):
            raise RunError(f"{path} {wrong}")
        if what == "images":
            arrays[name] = np.ascontiguousarray(arrays[name][..., None])
    return arrays, sums


def _find(folder: Path, part: str, what: str, dataset: str) -> Path:
    """Return the one file of a folder whose name says that it holds this part."""
    try:
        names = sorted(
            path.name
            for path in folder.iterdir()
            if path.is_file() and not path.name.startswith(".")
        )
    except OSError as error:
        raise RunError(f"the --data-dir {folder} cannot be read ({error.strerror})") from error
    spellings = ("test", "t10k") if part == "test" else (part,)
    found: list[str] = []
    for end in (
        "(?![a-z])",
        "",
    ):  # whole words come before words that only begin so; `latest` is never a test
        word = re.compile(f"(?<![a-z])({'|'.join(spellings)}){end}", re.IGNORECASE)
        found = found or [name for name in names if word.search(name) and what in name.lower()]
    if len(found) > 1 and dataset:  # EMNIST's release holds six datasets
        found = [name for name in found if _letters(dataset) in _letters(name)] or found
    if len(found) == 1:
        return folder / found[0]
    described = f"with {' or '.join(spellings)} and {what} in the name"
    if found:
        raise RunError(
            f"{folder} holds several files {described}: {', '.join(found)}. Keep one of them there, or choose a --data "
            "that is part of one of these names only, such as emnist_digits."
        )
    example = f"{spellings[-1]}-{what}-idx{3 if what == 'images' else 1}-ubyte.gz"
    raise RunError(f"{folder} holds no file {described}. Add one, such as {example}.")


def _letters(name: str) -> str:
    """Return a name's letters and digits, in lower case."""
    return re.sub("[^a-z0-9]", "", name.lower())


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
