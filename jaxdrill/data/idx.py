"""Read idx files, the format of MNIST, and folders of them."""

import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxdrill.errors import RunError
from jaxdrill.files import MAX_BYTES, open_unpacked, sha256

# The third byte of a file is the type of its elements, the fourth is the number of dimensions
# (LeCun, yann.lecun.com/exdb/mnist). Only uint8 is supported.
TYPES = {
    0x08: "uint8",
    0x09: "int8",
    0x0B: "int16",
    0x0C: "int32",
    0x0D: "float32",
    0x0E: "float64",
}
# The likely content of a file, by its number of dimensions.
CONTENTS = {1: "labels", 2: "images as rows of a table", 3: "images", 4: "colour images"}
FILES = {  # array: MNIST's file
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


def is_idx(path: Path) -> bool:
    """Return True if a file starts as an idx file of any element type with 1 to 4 dimensions."""
    try:
        with open_unpacked(path) as file:
            return _type_and_dimensions(file.read(4)) is not None
    except (OSError, EOFError, ValueError, zlib.error):
        return False


def _type_and_dimensions(header: bytes) -> tuple[str, int] | None:
    """Return what the first four bytes of an idx file state, None if it is another file."""
    if len(header) == 4 and header[:2] == b"\0\0" and header[2] in TYPES and header[3] in CONTENTS:
        return TYPES[header[2]], header[3]
    return None


def is_emnist(name: str) -> bool:
    """Return True for the name of a file or a dataset of EMNIST.

    EMNIST stores its images transposed (tensorflow.org/datasets/catalog/emnist).
    """
    return name.lower().startswith("emnist")


def read(path: Path, dimensions: int, dataset: str = "") -> np.ndarray:
    """Read the array of an idx file, gzipped or not. Transpose EMNIST's images to upright digits.

    Args:
        path: the file.
        dimensions: 3 for images, 1 for labels.
        dataset: the name of the dataset. This name or the file's name identifies EMNIST.

    Returns:
        uint8[N, H, W] for images, uint8[N] for labels.

    Raises:
        RunError: The file is not such an idx file, or is empty, truncated or too large.
    """
    content = CONTENTS[dimensions]
    try:
        with open_unpacked(path) as file:
            found = _type_and_dimensions(file.read(4))
            if found is None:
                raise RunError(
                    f"{path} is not an idx file of {content}. Use MNIST's format, gzipped or not."
                )
            if found != ("uint8", dimensions):
                guess = f" ({CONTENTS[found[1]]}?)" if found[1] != dimensions else ""
                raise RunError(
                    f"{path} contains {found[1]}-D {found[0]} data{guess}. "
                    f"Allowed for {content}: {dimensions}-D uint8 data."
                )
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            size = math.prod(shape)
            if not 0 < size <= MAX_BYTES:
                raise RunError(
                    f"{path} has {size:,} bytes of data according to its header. "
                    f"Allowed: 1 to {MAX_BYTES:,}."
                )
            values = file.read(size + 1)  # The additional byte shows whether the file ends there.
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{path} cannot be read ({reason})") from error
    if len(values) != size:
        difference = "more" if len(values) > size else "less"
        raise RunError(f"{path} is damaged: it contains {difference} data than its header states")
    array = np.frombuffer(values, np.uint8).reshape(shape)
    transposed = dimensions == 3 and (is_emnist(path.name) or is_emnist(dataset))
    return array.swapaxes(1, 2) if transposed else array


def read_folder(folder: Path, dataset: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    """Read a user's four idx files.

    The name of a file states its content: `train` or `test` (or `t10k`), and `images` or `labels`,
    in upper or lower case. Files whose name starts with a dot are ignored, because macOS writes a
    file `._NAME` beside each file on other disks.

    Args:
        folder: contains the files.
        dataset: the name of the dataset. If several files match, those whose name contains this
            name are used.

    Returns:
        The arrays by name: images uint8[N, 28, 28, 1] and labels uint8[N], 0..9. The SHA-256
        checksum of each file by its name.

    Raises:
        RunError: A file is missing, cannot be used, or does not match the others.
    """
    arrays, checksums = {}, {}
    for part in ("train", "test"):
        paths = [_find(folder, f"{part}_{content}", dataset) for content in ("images", "labels")]
        images, labels = read(paths[0], 3, dataset), read(paths[1], 1)
        for path in paths:
            if path.name in checksums:
                raise RunError(
                    f"{path} matches both train and test. Keep one of these words in its name."
                )
            checksums[path.name] = sha256(path)
        _check_images_and_labels(images, labels, *paths)
        arrays[f"{part}_images"] = np.ascontiguousarray(images[..., None])
        arrays[f"{part}_labels"] = labels
    return arrays, checksums


def _find(folder: Path, array: str, dataset: str) -> Path:
    """Return the one file of a folder whose name states that it contains an array of FILES."""
    try:
        names = sorted(
            path.name
            for path in folder.iterdir()
            if path.is_file() and not path.name.startswith(".")
        )
    except OSError as error:
        raise RunError(f"the --data-dir {folder} cannot be read ({error.strerror})") from error
    part, content = array.split("_")
    spellings = ("test", "t10k") if part == "test" else (part,)
    # `latest` never matches test. `training` matches train only if no name has the whole word.
    for end in ("(?![a-z])", ""):
        word = re.compile(f"(?<![a-z])({'|'.join(spellings)}){end}", re.IGNORECASE)
        found = [name for name in names if word.search(name) and content in name.lower()]
        if found:
            break
    if len(found) > 1 and dataset:  # The release of EMNIST contains six datasets.
        found = [name for name in found if _normalized(dataset) in _normalized(name)] or found
    if len(found) == 1:
        return folder / found[0]
    described = f"with {' or '.join(spellings)} and {content} in the name"
    if found:
        raise RunError(
            f"{folder} contains several files {described}: {', '.join(found)}. Keep one of them "
            "there, or choose a --data that is part of one of these names only, such as "
            "emnist_digits."
        )
    raise RunError(f"{folder} contains no file {described}. Add one, such as {FILES[array]}.")


def _normalized(name: str) -> str:
    """Return the letters and digits of a name in lower case."""
    return re.sub("[^a-z0-9]", "", name.lower())


def _check_images_and_labels(
    images: np.ndarray, labels: np.ndarray, images_path: Path, labels_path: Path
) -> None:
    """Check that a network can be trained on images uint8[N, H, W] and labels uint8[N].

    Raises:
        RunError: It cannot.
    """
    _, height, width = images.shape
    if (height, width) != (28, 28):
        raise RunError(f"{images_path} contains images of {height}x{width}; allowed: 28x28")
    if images.max() < 2:
        raise RunError(
            f"{images_path} has no pixel above {images.max()}; pixels must use the range 0 to 255"
        )
    if labels.max() > 9:
        raise RunError(
            f"{labels_path} has labels up to {labels.max()}; allowed: 0 to 9, ten classes"
        )
    if len(labels) != len(images):
        raise RunError(f"{labels_path} contains {len(labels):,} labels for {len(images):,} images")
