"""Write files atomically, and read untrusted files within limits.

A reader of a file sees the old or the new content, never a part of it. Every other module reads
files through this module, which rejects pipes, devices and files larger than MAX_BYTES.
"""

import errno
import gzip
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

MAX_BYTES = 2**28  # of a file, and of the arrays that a file unpacks to
# Names of the temporary files of `write_bytes`, and of those that versions up to 0.1.0 wrote.
TEMPORARY = re.compile(
    r"\.jaxdrill-.+\.\d+\.tmp"
    r"|(config\.json|run\.json|metrics\.jsonl|images\.npz|report\.(html|md)"
    r"|seed_\d+\.(npz|safetensors)|step_\d+\.safetensors)\.\d+\.tmp"
)


def write_bytes(path: Path, content: bytes) -> bool:
    """Replace a file atomically. Create its folder if it is missing.

    If the path is a symbolic link, replace its target. The new file keeps the mode and the owner of
    the old file. A device, a pipe or an open file (`/dev/stdout`) is written to and not replaced.

    Returns:
        True if a file was replaced or created, False if a device, a pipe or an open file was
        written to.

    Raises:
        OSError: The file cannot be written. The old file, if any, is unchanged.
    """
    if (descriptor := _descriptor(path)) is not None:
        return _write_in_place(descriptor, content)
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".jaxdrill-{target.name}.{os.getpid()}.tmp")
    try:
        if target.exists() and not target.is_file():
            return _write_in_place(target, content)
        with suppress(FileExistsError):  # The parent is a file: opening raises NotADirectoryError.
            target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            if target.exists():
                shutil.copymode(target, temporary)
                # Only root may change the owner, and Windows has no os.chown.
                with suppress(OSError, AttributeError):
                    os.chown(temporary, target.stat().st_uid, target.stat().st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # Without it, a power cut can leave the name without content.
        os.replace(temporary, target)
        return True
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):  # Errors of `file.write` do not name the file.
            raise OSError(error.errno, error.strerror, f"{path}") from error
        raise


def _write_in_place(target: Path | int, content: bytes) -> bool:
    """Write to a device, a pipe or a file descriptor, which stays open. Return False."""
    with open(target, "wb", closefd=isinstance(target, Path)) as stream:
        stream.write(content)
    return False


def _descriptor(path: Path) -> int | None:
    """Return the file descriptor that a path refers to, such as 1 for /dev/stdout, else None."""
    for _ in range(40):  # Linux follows at most 40 links.
        folder = os.path.realpath(path.parent)
        if folder in (f"/proc/{os.getpid()}/fd", "/dev/fd") and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def write_text(path: Path, text: str) -> bool:
    """Replace a text file in UTF-8, as `write_bytes` does. Escape lone surrogates (file names)."""
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))


def remove_stale_temporaries(folders: Iterable[Path]) -> None:
    """Remove the temporary files that killed processes left in folders, and no other file."""
    for folder in folders:
        for path in folder.glob("*.tmp"):
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)


def check_regular_file(path: Path, max_bytes: int = MAX_BYTES) -> None:
    """Check that a path is a regular file of at most `max_bytes` bytes. A pipe would block readers.

    Raises:
        OSError: The path is missing, not a regular file, or too large.
    """
    size = path.stat().st_size
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), f"{path}")
    if not path.is_file():
        raise OSError(errno.EINVAL, "Not a regular file", f"{path}")
    if size > max_bytes:
        raise OSError(errno.EFBIG, f"Larger than {max_bytes:,} bytes", f"{path}")


def open_unpacked(path: Path) -> IO[bytes]:
    """Open a file for reading. Decompress it if its content is gzip's.

    Raises:
        OSError: As `check_regular_file`, or the file cannot be opened.
    """
    check_regular_file(path)
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path)) if is_gzip else path.open("rb")


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: As `check_regular_file`, or the file cannot be read.
    """
    check_regular_file(path, max_bytes)
    return path.read_bytes()


def sha256(path: Path) -> str:
    """Return the SHA-256 checksum of a file.

    Raises:
        OSError: As `read_bytes`.
    """
    return hashlib.sha256(read_bytes(path)).hexdigest()


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        OSError: As `read_bytes`.
        ValueError: As `parse_json`.
    """
    return parse_json(read_bytes(path))


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: The text is not JSON, is nested too deeply, or contains NaN or infinity.
    """

    def reject(name: str) -> None:
        raise ValueError(f"{name} is not a finite number")

    try:
        return json.loads(text, parse_constant=reject)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
