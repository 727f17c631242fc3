"""Files that are replaced whole: a reader sees the old content or the new, never half of it. And reading them, whatever
somebody put in their place."""

import errno
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

LARGEST = 2**28  # bytes of a file that are read


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file; its folder is made if need be.

    Raises:
        OSError: it cannot be written; the old one, if any, is as it was.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else the name may survive a power cut, and the content not
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, f"{path}") from error  # `write` names no file
        raise


def write_text(path: Path, text: str) -> None:
    """Replaces a text file, in UTF-8."""
    write_bytes(path, text.encode())


def remove_leftovers(folder: Path) -> None:
    """Removes what writers that were killed have left in a folder and those below."""
    for path in folder.rglob("*.tmp"):
        if path.suffixes[-2:-1] and path.suffixes[-2][1:].isdecimal():
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
