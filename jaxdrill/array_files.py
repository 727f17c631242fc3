"""Read and write arrays: safetensors with a checksum of the whole content, and npz with zip's."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxdrill.errors import RunError
from jaxdrill.files import MAX_BYTES, check_regular_file, read_bytes, write_bytes

Arrays = dict[str, np.ndarray]


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Replace a safetensors file. Add the checksum of arrays and metadata to the metadata.

    Raises:
        OSError: The file cannot be written.
    """
    contiguous = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    write_bytes(path, save(contiguous, {**metadata, "sha256": digest(contiguous, metadata)}))


def read(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file. Any program may have written it.

    Raises:
        FileNotFoundError: The file is missing.
        RunError: The file cannot be read, or its checksum does not match.
    """
    try:
        check_regular_file(path)
        with safe_open(path, "numpy") as content:
            arrays = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            metadata = content.metadata() or {}
    except FileNotFoundError:
        raise
    # TypeError and AttributeError: NumPy lacks the type of an array, such as float8.
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path} cannot be read as safetensors ({_reason(error)})") from error
    checksum = metadata.pop("sha256", None)
    if checksum is not None and checksum != digest(arrays, metadata):
        raise RunError(f"{path} is damaged: its content does not match its SHA-256 checksum")
    return arrays, metadata


def digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 checksum of named arrays and of metadata."""
    total = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return total.hexdigest()


def write_npz(path: Path, arrays: Mapping[str, Any], compress: bool = True) -> None:
    """Replace an npz file.

    Raises:
        OSError: The file cannot be written.
    """
    packed = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(packed, allow_pickle=False, **arrays)
    write_bytes(path, packed.getvalue())


def read_npz(path: Path) -> Arrays:
    """Return the arrays of an npz file.

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError: The file is missing, or the user
            may not read it.
        ValueError: The file cannot be read, or would unpack to more than MAX_BYTES bytes.
    """
    try:
        content = io.BytesIO(read_bytes(path))
        with zipfile.ZipFile(content) as packed:
            if sum(member.file_size for member in packed.infolist()) > MAX_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_BYTES:,} bytes")
        with np.load(content, allow_pickle=False) as file:
            arrays = dict(file)
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):  # NumPy returns other members as bytes.
                raise ValueError(f"{name} is not an array")
        return arrays
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        raise
    # zipfile and NumPy document no common exception for damaged files.
    except Exception as error:
        raise ValueError(f"{path.name} cannot be read ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Return why a file cannot be read, without its path."""
    return f"{getattr(error, 'strerror', None) or error}"
