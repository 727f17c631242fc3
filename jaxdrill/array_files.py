"""Arrays in files: safetensors, with a sum over everything that is read of them, and npz, which has its own."""

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
from jaxdrill.files import LARGEST, assert_regular, read_bytes, write_bytes

Arrays = dict[str, np.ndarray]


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Replaces a file of arrays by name, and texts that it says of itself, to which the sum of all is added.

    Raises:
        OSError: it cannot be written.
    """
    whole = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    write_bytes(path, save(whole, {**metadata, "sha256": digest(whole, metadata)}))


def read(path: Path) -> tuple[Arrays, dict[str, str]]:
    """The arrays of a safetensors file and what it says of itself; any program may have written it.

    Raises:
        FileNotFoundError: it is missing.
        RunError: it cannot be read, or it is not what its sum was made of.
    """
    try:
        assert_regular(path)
        with safe_open(path, "numpy") as content:
            arrays = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            metadata = content.metadata() or {}
    except FileNotFoundError:
        raise
    except (
        OSError,
        SafetensorError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:  # NumPy has no float8
        raise RunError(
            f"{path} cannot be read as safetensors ({getattr(error, 'strerror', None) or error})"
        ) from error
    expected = metadata.pop("sha256", None)
    if expected is not None and expected != digest(arrays, metadata):
        raise RunError(
            f"{path} is damaged: its bytes are not those that its SHA-256 sum was made of"
        )
    return arrays, metadata


def digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """The SHA-256 sum of arrays by name, and of texts."""
    total = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return total.hexdigest()


def write_npz(path: Path, arrays: Mapping[str, Any], compress: bool = True) -> None:
    """Replaces an npz file of arrays by name.

    Raises:
        OSError: it cannot be written.
    """
    packed = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(packed, allow_pickle=False, **arrays)
    write_bytes(path, packed.getvalue())


def read_npz(path: Path) -> Arrays:
    """The arrays of an npz file.

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError: it is missing, or this user may not read it.
        ValueError: it cannot be read, or would unpack to more than LARGEST bytes.
    """
    try:
        content = io.BytesIO(read_bytes(path))
        with zipfile.ZipFile(content) as packed:
            if sum(member.file_size for member in packed.infolist()) > LARGEST:
                raise ValueError(f"it unpacks to more than {LARGEST:,} bytes")
        with np.load(content, allow_pickle=False) as file:
            arrays = dict(file)
        if others := [
            name for name, array in arrays.items() if not isinstance(array, np.ndarray)
        ]:  # NumPy gives bytes
            raise ValueError(f"{others[0]} is not an array")
        return arrays
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        raise
    except (
        Exception
    ) as error:  # zipfile and NumPy name no common type for what a damaged file can do
        raise ValueError(
            f"{path.name} cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error
