"""Files that are replaced whole: a reader sees the old content or the new, never half of it. And reading them, whatever
somebody put in their place."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

LARGEST = 2**28  # bytes of a file that are read
# The names of `write_bytes`, and those that it gave up to 0.1.0 to the files of a run.
TEMPORARY = re.compile(
    r"\.jaxdrill-.+\.\d+\.tmp"
    r"|(config\.json|run\.json|metrics\.jsonl|images\.npz|report\.(html|md)|seed_\d+\.(npz|safetensors)"
    r"|step_\d+\.safetensors)\.\d+\.tmp"
)


def write_bytes(path: Path, content: bytes) -> bool:
    """Replace a file; its folder is created if it is missing.

    A symbolic link stays, and its target is replaced. The new file has the mode and the owner of the old one. A device,
    a pipe or an open file (`/dev/stdout`) is written into and never replaced.

    Returns:
        True if there is a new file, False if the content went into a device, a pipe or an open file.

    Raises:
        OSError: it cannot be written; the old file, if any, is unchanged.
    """
    if (number := _descriptor(path)) is not None:
        with open(number, "wb", closefd=False) as stream:
            stream.write(content)
        return False
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".jaxdrill-{target.name}.{os.getpid()}.tmp")
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as stream:
                stream.write(content)
            return False
        with suppress(FileExistsError):  # it is a file: opening says that it is not a directory
            target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            if target.exists():
                shutil.copymode(target, temporary)
                with suppress(
                    OSError, AttributeError
                ):  # only root may give files away; Windows has no owners
                    os.chown(temporary, target.stat().st_uid, target.stat().st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else the name may survive a power cut, and the content not
        os.replace(temporary, target)
        return True
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(
                error.errno, error.strerror, f"{path}"
            ) from error  # `write` names no file
        raise


def _descriptor(path: Path) -> int | None:
    """Return the number of the open file that a path stands for, such as 1 for /dev/stdout, else None."""
    for _ in range(40):  # links, as the kernel follows them
        folder = os.path.realpath(path.parent)
        if folder in (f"/proc/{os.getpid()}/fd", "/dev/fd") and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def write_text(path: Path, text: str) -> bool:
    """Replace a text file, in UTF-8, as `write_bytes` does. What UTF-8 cannot hold, parts of file names, is escaped."""
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))


def remove_stale_temporaries(folders: Iterable[Path]) -> None:
    """Remove the temporary files that killed writers have left in folders, and no other file."""
    for folder in folders:
        for path in folder.glob("*.tmp"):
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)


def assert_regular(path: Path, most: int = LARGEST) -> None:
    """Raises:
    OSError: it is missing, no regular file (a pipe would be waited for), or larger than `most` bytes.
    """
    if not path.is_file():
        path.stat()  # which says so if it is missing
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), f"{path}")
        raise OSError(errno.EINVAL, "Not a regular file", f"{path}")
    if path.stat().st_size > most:
        raise OSError(errno.EFBIG, f"Larger than {most:,} bytes", f"{path}")


def read_bytes(path: Path, most: int = LARGEST) -> bytes:
    """The content of a file.

    Raises:
        OSError: as `assert_regular`, or it cannot be read.
    """
    assert_regular(path, most)
    return path.read_bytes()


def sha256(path: Path) -> str:
    """The SHA-256 sum of a file.

    Raises:
        OSError: as `read_bytes`.
    """
    return hashlib.sha256(read_bytes(path)).hexdigest()


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: as `read_bytes`.
        ValueError: it is no JSON.
    """
    return parse_json(read_bytes(path))


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or a number in it is not finite.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
