"""Load datasets as uint8 arrays in memory.

MNIST and its variants are downloaded through tfds, and then packed in its cache for later starts.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import chex
import numpy as np

from jaxdrill import array_files
from jaxdrill.config.config import DATASETS
from jaxdrill.data import digits, download, idx
from jaxdrill.data.idx import FILES
from jaxdrill.data.preparation import Preparation, measure
from jaxdrill.errors import RunError, UsageError, nearest, print_error
from jaxdrill.files import sha256

REGISTERED = ("mnist", "fashion_mnist", "kmnist")  # with tfds, which knows their checksums


@dataclass(frozen=True)
class Dataset:
    """Contain images uint8[N, 28, 28, 1], 0..255, and labels uint8[N], 0..9.

    The test images are the images to evaluate. If `split` is `validation`, they are training images
    that were held out.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    split: str = "test"
    # int[N]: the source of each training image, if several images are drawn from one source. All
    # groups have the same size, and the images of a group have the same label.
    groups: np.ndarray | None = None
    # SHA-256 checksums of a user's own files, by file name.
    files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for images, labels in (
            (self.train_images, self.train_labels),
            (self.test_images, self.test_labels),
        ):
            chex.assert_shape(images, (len(labels), 28, 28, 1))
            chex.assert_type([images, labels], np.uint8)
        if self.groups is not None:
            chex.assert_shape(self.groups, self.train_labels.shape)

    @property
    def sha256(self) -> str:
        """Compute the SHA-256 checksum of the four arrays' bytes, in the order of the fields."""
        return _checksum(*(getattr(self, name) for name in FILES))

    @property
    def evaluated_sha256(self) -> str:
        """Compute the SHA-256 checksum of the evaluated images' and labels' bytes."""
        return _checksum(self.test_images, self.test_labels)

    @property
    def preparation(self) -> Preparation:
        """Return how a picture must be prepared to look like the training images."""
        return measure(self.name, self.train_images)


def _checksum(*arrays: np.ndarray) -> str:
    """Return the SHA-256 checksum of the bytes of arrays."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def load(name: str, data_dir: Path | None = None, offline: bool = False) -> Dataset:
    """Load a dataset by name.

    `auto` is MNIST, or scikit-learn's digits with a warning if MNIST is not available.

    Args:
        name: auto, mnist, fashion_mnist, kmnist, digits, or any other name for a user's own data.
        data_dir: a folder with the four idx files of the dataset, official ones or the user's own.
            If given, neither the cache nor the network is needed.
        offline: make no network call.

    Raises:
        UsageError: The arguments contradict each other.
        RunError: The dataset is not available. No partial file is left.
    """
    if name == "digits":
        if data_dir is not None:
            raise UsageError("--data-dir is for idx files, which digits does not use. Omit it.")
        return _digits()
    name, is_default = ("mnist", True) if name == "auto" else (name, False)
    if data_dir is not None:
        return _read_official(name, data_dir) if name in REGISTERED else _read_own(name, data_dir)
    if name not in REGISTERED:
        raise UsageError(
            f"data is {name}{nearest(name, DATASETS)}; allowed: {', '.join(DATASETS)}, or any name "
            "for your own idx files in --data-dir"
        )
    if packed := _read_pack(name):
        return packed
    try:
        if offline:
            raise RunError(f"{name} is not in {_cache_name()}, and --offline forbids a download")
        with download.verified_files(name) as (paths, checksums):
            return _read_and_pack(name, paths, checksums)
    except RunError as error:
        ways = "connect to the network once, or pass its four idx files with --data-dir"
        if not is_default:
            raise RunError(f"{error}; {ways}") from error
        print_error(
            f"warning: {error}: training on digits instead (scikit-learn's: 11,496 training images "
            "drawn from 1,437 digits, 360 test images). No number below is a result on MNIST; "
            f"{ways}"
        )
        return _digits()


def _digits() -> Dataset:
    """Return scikit-learn's digits. A group contains the drawings of one source digit."""
    arrays = digits.load_arrays()
    return Dataset("digits", *arrays, groups=np.arange(len(arrays[1])) % digits.NUM_SOURCES)


def _read_own(name: str, folder: Path) -> Dataset:
    """Read a user's own idx files."""
    arrays, checksums = idx.read_folder(folder, name)
    return Dataset(name, **arrays, files=checksums)


def _read_official(name: str, folder: Path) -> Dataset:
    """Read the four official files from a folder, and compare their checksums with tfds's.

    File names may be in upper case, as some disks store them.
    """
    present = {path.name.lower(): path for path in sorted(folder.glob("*"))}
    paths = {array: present.get(file, folder / file) for array, file in FILES.items()}
    try:
        checksums = [sha256(path) for path in paths.values()]
    except OSError as error:
        raise RunError(
            f"{error.filename} cannot be read ({error.strerror}); --data-dir must contain "
            f"{', '.join(FILES.values())}"
        ) from error
    if packed := _read_pack(name, checksums):
        return packed
    official = [info.checksum for _, info in download.registered_files(name).values()]
    for path, found, expected in zip(paths.values(), checksums, official, strict=True):
        if found != expected:
            reason = f"has SHA-256 {found[:12]}..., not {expected[:12]}..."
            if found in official:
                reason = f"is {list(FILES.values())[official.index(found)]}"
            raise RunError(
                f"{path} is not the official file of {name}: it {reason}. Download it again, or "
                "choose another name for your own data, such as --data my_digits."
            )
    return _read_and_pack(name, paths, checksums)


def pack_file(name: str) -> Path:
    """Return the file that keeps a dataset packed for later starts.

    Raises:
        FileNotFoundError: As `download.cache_folder`.
    """
    return download.cache_folder() / "jaxdrill" / f"{name}.npz"


def _cache_name() -> str:
    """Describe the cache for a message."""
    try:
        return f"the cache {download.cache_folder()}"
    except FileNotFoundError:
        return "a cache (the home folder is missing)"


def _read_pack(name: str, checksums: list[str] | None = None) -> Dataset | None:
    """Read a packed dataset.

    Returns:
        None if the dataset is not packed, is damaged, or was packed from files with checksums other
        than `checksums`.
    """
    try:
        arrays = array_files.read_npz(pack_file(name))
        if checksums is not None and arrays["sums"].tolist() != checksums:
            return None
        return Dataset(name, **{array: cast(Any, arrays[array]) for array in FILES})
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, ValueError, KeyError, AssertionError):
        print_error(f"warning: {pack_file(name)} is damaged; {name} is read or downloaded again")
        return None


def _read_and_pack(name: str, paths: dict[str, Path], checksums: list[str]) -> Dataset:
    """Read four verified idx files. Pack the dataset for later starts if the cache is writable."""
    arrays: dict[str, Any] = {
        array: idx.read(path, 3)[..., None] if array.endswith("images") else idx.read(path, 1)
        for array, path in paths.items()
    }
    with suppress(OSError):  # Without a pack, only the next start takes longer.
        packed = {"sums": np.array(checksums)} | arrays
        array_files.write_npz(pack_file(name), packed, compress=False)
        print_error(f"{name} is stored in {pack_file(name)} for later starts")
    return Dataset(name, **arrays)
