"""Damage the values of files that stay valid JSON, arrays or TOML.

Keys are missing, values have other types, rows are repeated. Random changes of bytes almost never
give such files: a key is removed only if exactly its name, its value and a comma are.
"""

import io
import json
import math
import random
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdrill import array_files

TEXTS = [
    "<script>alert(1)</script>",
    "\x1b]0;owned\x07\x1b[2J",
    "a\u202eb",
    "../../../../tmp/x",
    "${7*7}{{7*7}}",
    "__import__('os').system('id')",
    "[x](javascript:alert(1))",
    "|",
    "\x00",
    "x" * 5000,
    "\ud800",
]
OTHERS = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    2**31,
    2**63,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
    -1e308,
    5e-324,
    "",
    "1",
    "x",
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"x": {"y": [1]}},
    [1] * 1000,
    *TEXTS,
]
WHOLE = [
    {},
    [],
    None,
    0,
    "",
    True,
    [{}],
    {"format": 3},
    {"format": None},
    {"format": 99},
    {"name": "step_5"},
    {"seed": 1, "epoch": 0},
]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every list or table in a value with each of its indices or keys."""
    for key in (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    ):
        yield value, key
        yield from _places(value[key])


def of_value(value: Any, r: random.Random) -> Any:
    """Remove, replace, rename, exchange or add one to three items of a JSON value."""
    if r.random() < 0.03:
        return r.choice(WHOLE)
    value = json.loads(json.dumps(value))
    for _ in range(r.randint(1, 3)):
        if not (places := list(_places(value))):
            return r.choice(OTHERS)
        inside, key = r.choice(places)
        change = r.randrange(6)
        if change <= 1:
            del inside[key]
        elif change == 2:
            inside[key] = r.choice(OTHERS)
        elif change == 3:
            other, at = r.choice(places)
            inside[key] = (
                json.loads(json.dumps(other[at]))
                if at in other or isinstance(other, list)
                else None
            )
        elif change == 4 and isinstance(inside, dict):
            inside[r.choice(TEXTS)] = inside.pop(key)
        elif isinstance(inside, list):
            inside.insert(key, r.choice(OTHERS) if change == 4 else inside[key])
        else:
            inside[r.choice(["extra", "", "seed", *TEXTS])] = r.choice(OTHERS)
    return value


def of_json(content: bytes, r: random.Random) -> bytes:
    """Change a JSON file."""
    return json.dumps(of_value(json.loads(content), r)).encode()


def of_lines(content: bytes, r: random.Random) -> bytes:
    """Remove, repeat, exchange and change lines of a JSON lines file."""
    lines = content.splitlines()
    for _ in range(r.randint(1, 3)):
        at, change = r.randrange(len(lines) or 1), r.randrange(6)
        if not lines or change == 0:
            lines.insert(at, json.dumps(r.choice(WHOLE)).encode())
        elif change == 1:
            del lines[at]
        elif change == 2:
            lines.insert(r.randrange(len(lines)), lines[at])
        elif change == 3:
            r.shuffle(lines)
        else:
            try:
                lines[at] = of_json(lines[at], r)
            except ValueError:  # An earlier change gave a number with too many digits.
                lines[at] = b"{}"
    return b"\n".join(lines) + b"\n"


def of_array(array: np.ndarray, r: random.Random) -> np.ndarray:
    """Change the type, the shape or the values of an array."""
    change = r.randrange(7)
    if change == 0:
        kind = r.choice(["u1", "i8", "f2", "f4", "f8", "c16", "?", "S3", "U3"])
        with np.errstate(all="ignore"):
            return array.astype(kind)
    if change == 1:
        return array[..., None]
    if change == 2:
        return array.reshape(-1)
    if change == 3:
        return array[: r.randrange(2)] if array.ndim else np.zeros((r.randrange(3),), array.dtype)
    if change == 4:
        return np.concatenate([array, array]) if array.ndim else array + 1
    if change == 5 and array.dtype.kind == "f":
        return np.full_like(array, r.choice([np.nan, np.inf, -np.inf, -1, 0, 65_000]))
    limits = np.iinfo(array.dtype) if array.dtype.kind in "iu" else None
    return np.full_like(array, r.choice([limits.min, limits.max, 0, 10, 99]) if limits else 0)


def of_arrays(arrays: dict[str, np.ndarray], r: random.Random) -> dict[str, np.ndarray]:
    """Remove, rename, exchange, change or add one or two of the named arrays."""
    arrays = dict(arrays)
    for _ in range(r.randint(1, 2)):
        if not arrays:
            break
        name, other = r.choice(sorted(arrays)), r.choice(sorted(arrays))
        change = r.randrange(6)
        if change == 0:
            del arrays[name]
        elif change == 1:
            arrays["x"] = arrays.pop(name)
        elif change == 2:
            arrays[name], arrays[other] = arrays[other], arrays[name]
        elif change == 3:
            arrays["extra"] = np.zeros(3)
        else:
            arrays[name] = of_array(arrays[name], r)
    return arrays


def of_npz(content: bytes, r: random.Random) -> bytes:
    """Change an npz file. Its CRCs are valid."""
    with np.load(io.BytesIO(content)) as file:
        arrays = of_arrays(dict(file), r)
    np.savez(packed := io.BytesIO(), allow_pickle=False, **arrays)  # type: ignore[arg-type]
    return packed.getvalue()


def of_safetensors(content: bytes, r: random.Random) -> bytes:
    """Change arrays, metadata or JSON in the metadata. The checksum is valid."""
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "x").write_bytes(content)
        arrays, texts = array_files.read(file)
        name = r.choice(sorted(texts))
        change = r.randrange(4)
        if change == 0:
            arrays = {name: a for name, a in of_arrays(arrays, r).items() if a.dtype.kind in "iufb"}
        elif change == 1:
            texts.pop(name)
        elif change == 2:
            texts[name] = r.choice(
                ["", "-1", "1e9", "[]", "{}", "null", "9" * 30, "9" * 4000, *TEXTS[:-1]]
            )
        else:
            try:
                texts[name] = of_json(texts[name].encode(), r).decode()
            except ValueError:
                texts[name] = "{}"
        array_files.write(file, arrays, texts)
        return file.read_bytes()


def of_idx(content: bytes, r: random.Random) -> bytes:
    """Change the type, the dimensions or the order of the lengths of an idx file."""
    (dimensions,) = content[3:4]
    lengths = list(struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions]))
    values = content[4 + 4 * dimensions :]
    change = r.randrange(4)
    if change == 0:
        r.shuffle(lengths)
    elif change == 1:
        lengths.insert(r.randrange(len(lengths) + 1), r.choice([0, 1, 3]))
    elif change == 2:
        lengths = [math.prod(lengths)]
    kind = r.choice([0x08, 0x08, 0x09, 0x0A, 0x0B, 0x0D, 0x0E, 0xFF])
    return struct.pack(f">I{len(lengths)}I", 256 * kind + len(lengths), *lengths) + values


def as_toml(table: dict[str, Any]) -> str:
    """Return a table as TOML, one line per key, with inline tables. None becomes `nan`."""

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return (
                "{ "
                + ", ".join(f"{json.dumps(key)} = {text(each)}" for key, each in value.items())
                + " }"
            )
        if isinstance(value, list):
            return "[" + ", ".join(map(text, value)) + "]"
        return (
            "nan"
            if value is None
            else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        )

    lines = [f"{json.dumps(key)} = {text(value)}\n" for key, value in table.items()]
    return "".join(lines).encode(errors="replace").decode()
