"""Datasets as uint8 arrays in memory. tfds provides them, without TensorFlow: URLs, downloads, cache, SHA-256 sums."""

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import chex
import numpy as np

from jaxdrill import array_files
from jaxdrill.config.config import DATASETS
from jaxdrill.data import embedded, idx
from jaxdrill.data.preparation import Preparation, measure
from jaxdrill.data.reachability import assert_reachable
from jaxdrill.errors import RunError, UsageError, is_terminal, nearest, print_error
from jaxdrill.files import sha256

REGISTERED = ("mnist", "fashion_mnist", "kmnist")  # with tfds: their files have known sums
FILES = {  # array: official idx file
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


@dataclass(frozen=True)
class Dataset:
    """Images uint8[N, 28, 28, 1], 0..255, and labels uint8[N], 0..9. The test images are those that are evaluated:
    with a `split` of validation they are a part of the training images that was held out. All `groups` have one size,
    and the images of a group one label."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    split: str = "test"
    groups: np.ndarray | None = (
        None  # int[N], where several training images are drawn from one: the source of each
    )
    files: dict[str, str] = field(
        default_factory=dict
    )  # of one's own data: SHA-256 sums by file name

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
        """Of the four arrays' bytes, in the order of the fields."""
        digest = hashlib.sha256()
        for name in FILES:
            digest.update(getattr(self, name).data)
        return digest.hexdigest()

    @property
    def evaluated_sha256(self) -> str:
        """Compute the SHA-256 checksum of the evaluated images' and labels' bytes."""
        digest = hashlib.sha256(np.ascontiguousarray(self.test_images).data)
        digest.update(np.ascontiguousarray(self.test_labels).data)
        return digest.hexdigest()

    @property
    def preparation(self) -> Preparation:
        """Return how a picture must be prepared to look like the training images."""
        return measure(self.name, self.train_images)


def load(name: str, data_dir: Path | None = None, offline: bool = False) -> Dataset:
    """A dataset by name; `auto` is MNIST if it can be had, otherwise digits, with a warning.

    Args:
        name: auto, mnist, fashion_mnist, kmnist or digits; or another, of one's own data.
        data_dir: a folder with the four official idx files, used instead of cache and network; or with one's own.
        offline: make no network call.

    Raises:
        UsageError: the arguments contradict each other.
        RunError: the dataset asked for cannot be had; nothing half-written is left.
    """
    if data_dir is not None and name == "digits":
        raise UsageError(
            "--data-dir holds idx files, and digits has none; leave out one of the two"
        )
    if name == "digits":
        return _digits()
    wanted = "mnist" if name == "auto" else name
    if wanted not in REGISTERED:
        if data_dir is None:
            own = "or any name for your own idx files in --data-dir"
            raise UsageError(
                f"data is {name}{nearest(name, DATASETS)}; allowed: {', '.join(DATASETS)}, {own}"
            )
        arrays, sums = idx.read_folder(data_dir, name)
        return Dataset(name, **cast(dict[str, Any], arrays), files=sums)
    if data_dir is not None:
        return _from_folder(wanted, data_dir)
    if cached := _read_pack(wanted):
        return cached
    try:
        if offline:
            raise RunError(f"{wanted} is not in {_cache_name()}, and --offline forbids a download")
        return _download(wanted)
    except RunError as error:
        ways = "connect to the network once, or give its four idx files with --data-dir"
        if name != "auto":
            raise RunError(f"{error}; {ways}") from error
        print_error(
            f"warning: {error}: training on digits instead (scikit-learn's, 1,437 drawn eight times for training, 360 "
            f"for the test), so no number below is one of MNIST; {ways}"
        )
        return _digits()


def _digits() -> Dataset:
    """Return the embedded digits. A group contains the drawings of one source digit."""
    arrays = embedded.digits()
    return Dataset("digits", *arrays, groups=np.arange(len(arrays[1])) % embedded.SOURCES)


def cache_folder() -> Path:
    """Return the cache folder of tfds.

    Raises:
        FileNotFoundError: there is no home folder, as for a user without an entry in /etc/passwd.
    """
    try:
        return Path(
            os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets"
        ).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError("There is no home folder.") from error


def _cache_name() -> str:
    try:
        return f"the cache {cache_folder()}"
    except FileNotFoundError:
        return "a cache (there is no home folder)"


@contextlib.contextmanager
def _download_folder() -> Iterator[Path]:
    """Yield the folder of tfds's downloads, or a temporary one if the cache cannot be written."""
    try:
        (folder := cache_folder() / "downloads").mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError
    except OSError:
        with tempfile.TemporaryDirectory(prefix="jaxdrill_") as temporary:
            yield Path(temporary)
    else:
        yield folder


def pack_file(name: str) -> Path:
    """Return the file that keeps a dataset packed for later starts.

    Raises:
        FileNotFoundError: as `cache_folder`.
    """
    return cache_folder() / "jaxdrill" / f"{name}.npz"


def _read_pack(name: str, sums: list[str] | None = None) -> Dataset | None:
    """The packed dataset, or None if there is none, it is damaged, or it was made of files with other sums."""
    try:
        arrays = array_files.read_npz(pack_file(name))
        if sums is not None and arrays["sums"].tolist() != sums:
            return None
        return Dataset(name, **cast(dict[str, Any], {key: arrays[key] for key in FILES}))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, ValueError, KeyError, AssertionError):
        print_error(f"warning: {pack_file(name)} is damaged; {name} is read or fetched again")
        return None


def _packed(name: str, files: dict[str, Path], sums: list[str]) -> Dataset:
    """The dataset in four verified idx files. It is packed for the next start where the cache can be written."""
    arrays = {}
    for key, path in files.items():
        arrays[key] = idx.read(path, 3)[..., None] if key.endswith("images") else idx.read(path, 1)
    with contextlib.suppress(
        OSError
    ):  # a cache that cannot be written costs time at the next start, not this run
        pack = pack_file(name)
        array_files.write_npz(pack, {"sums": np.array(sums)} | arrays, compress=False)
        print_error(f"{name} is kept in {pack} for later starts")
    return Dataset(name, **arrays)


def _registered(name: str) -> dict[str, tuple[str, Any]]:
    """By file name, the URL that tfds knows of an idx file, and its registered size and SHA-256 sum."""
    import tensorflow_datasets as tfds  # slow, and not needed once the dataset is packed

    return {
        url.rsplit("/", 1)[1]: (url, info)
        for url, info in cast(Any, tfds.builder_cls(name)).url_infos.items()
    }


def _from_folder(name: str, folder: Path) -> Dataset:
    """Read the four official files from a folder, and compare each with its registered sum. Some disks write their
    names in capital letters."""
    there = {path.name.lower(): path for path in sorted(folder.glob("*"))}
    files = {key: there.get(file, folder / file) for key, file in FILES.items()}
    sums = []
    for path in files.values():
        try:
            sums.append(sha256(path))
        except OSError as error:
            raise RunError(
                f"{path} cannot be read ({error.strerror}); --data-dir must hold {', '.join(FILES.values())}"
            ) from error
    if cached := _read_pack(name, sums):
        return cached
    right = {file: info.checksum for file, (_, info) in _registered(name).items()}
    for (key, path), found in zip(files.items(), sums, strict=True):
        if found != (expected := right[FILES[key]]):
            swapped = [file for file, checksum in right.items() if checksum == found]
            why = (
                f"holds {swapped[0]}"
                if swapped
                else f"has SHA-256 {found[:12]}..., not {expected[:12]}..."
            )
            raise RunError(
                f"{path} is not the official file of {name}: it {why}; download it again, or name it as data of your "
                "own, such as --data my_digits"
            )
    return _packed(name, files, sums)


def _download(name: str) -> Dataset:
    """Downloads through tfds, which verifies the sums, into tfds's cache."""
    import tensorflow_datasets as tfds

    registered = _registered(name)
    urls = {key: registered[file][0] for key, file in FILES.items()}
    assert_reachable(urls["train_labels"])
    if not is_terminal(sys.stderr):
        tfds.disable_progress_bar()

    def fetched(folder: Path) -> dict[str, Path]:
        manager = tfds.download.DownloadManager(
            download_dir=folder,
            dataset_name=name,
            force_checksums_validation=True,
            url_infos=dict(registered.values()),
        )
        return {
            key: Path(path) for key, path in cast(dict[str, Any], manager.download(urls)).items()
        }

    with _download_folder() as folder:
        try:
            files = fetched(folder)
            if damaged := [
                path
                for key, path in files.items()
                if sha256(path) != registered[FILES[key]][1].checksum
            ]:
                for path in damaged:  # since it was fetched; tfds looks at the sum only then
                    print_error(f"warning: {path} is damaged; it is fetched again")
                    path.unlink()
                files = fetched(folder)
        except (
            Exception
        ) as error:  # tfds names no common type for what a network, a disk or a wrong sum can do
            first_line = (str(error).splitlines() or [""])[0]
            raise RunError(
                f"{name} could not be downloaded: {type(error).__name__}: {first_line}"
            ) from error
        return _packed(name, files, [registered[file][1].checksum for file in FILES.values()])
