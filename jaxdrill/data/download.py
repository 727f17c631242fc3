"""Download datasets that tfds registers, without TensorFlow, into the cache of tfds."""

import os
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from jaxdrill.data.idx import FILES
from jaxdrill.errors import RunError, is_terminal, print_error
from jaxdrill.files import sha256

TIMEOUT_SECONDS = 4.0


def cache_folder() -> Path:
    """Return the cache folder of tfds.

    Raises:
        FileNotFoundError: The user has no home folder (no entry in /etc/passwd).
    """
    try:
        return Path(
            os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets"
        ).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError("The home folder is missing.") from error


def registered_files(name: str) -> dict[str, tuple[str, Any]]:
    """Return the URL, and the registered size and SHA-256 checksum, of each idx file of a dataset.

    The keys are the arrays' names, as in `idx.FILES`.
    """
    import tensorflow_datasets as tfds  # Slow, and not needed once the dataset is packed.

    infos = cast(Any, tfds.builder_cls(name)).url_infos
    by_file = {url.rsplit("/", 1)[1]: (url, info) for url, info in infos.items()}
    return {array: by_file[file] for array, file in FILES.items()}


@contextmanager
def verified_files(name: str) -> Iterator[tuple[dict[str, Path], list[str]]]:
    """Download the four files of a dataset, or find them in the cache, and verify their checksums.

    The files may be removed when the context ends.

    Yields:
        The path of each file by the array's name, and the checksums.

    Raises:
        RunError: A file cannot be downloaded.
    """
    registered = registered_files(name)
    check_reachable(registered["train_labels"][0])
    with _download_folder() as folder:
        try:
            paths = _fetch(name, registered, folder)
            damaged = [
                path
                for array, path in paths.items()
                if sha256(path) != registered[array][1].checksum
            ]
            for path in damaged:  # Since their download, which is when tfds verified them.
                print_error(f"warning: {path} is damaged. It is downloaded again.")
                path.unlink()
            if damaged:
                paths = _fetch(name, registered, folder)
        # tfds documents no common exception for network, disk and checksum errors.
        except Exception as error:
            reason = (f"{error}".splitlines() or [""])[0]
            raise RunError(
                f"{name} could not be downloaded: {type(error).__name__}: {reason}"
            ) from error
        yield paths, [info.checksum for _, info in registered.values()]


def _fetch(name: str, registered: dict[str, tuple[str, Any]], folder: Path) -> dict[str, Path]:
    """Download the registered files that are not in a folder yet."""
    import tensorflow_datasets as tfds

    if not is_terminal(sys.stderr):
        tfds.disable_progress_bar()
    manager = tfds.download.DownloadManager(
        download_dir=folder,
        dataset_name=name,
        force_checksums_validation=True,
        url_infos=dict(registered.values()),
    )
    urls = {array: url for array, (url, _) in registered.items()}
    return {array: Path(path) for array, path in cast(Any, manager.download(urls)).items()}


@contextmanager
def _download_folder() -> Iterator[Path]:
    """Yield the download folder of tfds, or a temporary folder if the cache is not writable."""
    try:
        (folder := cache_folder() / "downloads").mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError
    except OSError:
        with tempfile.TemporaryDirectory(prefix="jaxdrill_") as temporary:
            yield Path(temporary)
    else:
        yield folder


def check_reachable(url: str) -> None:
    """Send a HEAD request. The retries of tfds would take minutes.

    Raises:
        RunError: The server does not answer within TIMEOUT_SECONDS.
    """
    failure = ["no answer"]

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
                failure.clear()
        except OSError as error:
            failure[0] = str(getattr(error, "reason", error))

    thread = threading.Thread(target=ask, daemon=True)  # Name resolution has no timeout.
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    if failure:
        raise RunError(f"{url.split('/')[2]} cannot be reached ({failure[0]})")
