"""Change the bytes of files at random, also inside gzip, zip and safetensors."""

import gzip
import io
import json
import random
import re
import struct
import tempfile
import zipfile
from pathlib import Path

from soak.damage import TEXTS

from jaxdrill import array_files

INTEGERS = [0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]
VALUES = [
    "1e999",
    "-1",
    "9" * 30,
    "9" * 400,
    "9" * 5000,
    "NaN",
    "Infinity",
    "null",
    "true",
    "[]",
    "{}",
    '""',
    "0.5",
    "[" * 3000,
]


def mutated(content: bytes, r: random.Random) -> bytes:
    """Change content in one to four places."""
    for _ in range(r.randint(1, 4)):
        at = r.randrange(len(content) + 1)
        span = slice(at, at + r.choice([1, 2, 4, 8, 64, 1000]))
        change = r.randrange(8)
        if change == 0 and content:
            at = min(at, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ 1 << r.randrange(8)]) + content[at + 1 :]
        elif change == 1:
            content = content[: span.start] + content[span.stop :]
        elif change == 2:
            content = content[:at] + r.randbytes(r.choice([1, 4, 100])) + content[at:]
        elif change == 3:
            content = content[:at]
        elif change == 4:
            content = content[:at] + content[span] * r.choice([2, 3, 50]) + content[at:]
        elif change == 5:
            form = r.choice(["B", "<H", ">H", "<I", ">I", "<Q", ">Q"])
            number = struct.pack(form, r.choice(INTEGERS) % 2 ** (8 * struct.calcsize(form)))
            content = content[:at] + number + content[at + len(number) :]
        elif found := list(re.finditer(rb'-?\d+(\.\d+)?|"[^"]*"', content)):
            token = r.choice(found)
            text = json.dumps(r.choice(TEXTS)) if change == 6 else r.choice(VALUES)
            content = content[: token.start()] + text.encode() + content[token.end() :]
    return content


def inside_gzip(content: bytes, r: random.Random) -> bytes:
    """Change the content of a gzip file."""
    return gzip.compress(mutated(gzip.decompress(content), r), 1)


def inside_zip(content: bytes, r: random.Random) -> bytes:
    """Change a member of a zip file. Its CRC is valid."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        chosen = r.choice(old.namelist())
        for name in old.namelist():
            new.writestr(name, mutated(old.read(name), r) if name == chosen else old.read(name))
    return packed.getvalue()


def inside_safetensors(content: bytes, r: random.Random) -> bytes:
    """Change the header of a safetensors file. Its length is valid."""
    (length,) = struct.unpack("<Q", content[:8])
    header = mutated(content[8 : 8 + length], r)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def with_valid_checksum(content: bytes, r: random.Random) -> bytes:
    """Change the metadata of a checkpoint. Its checksum is valid."""
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "x").write_bytes(content)
        arrays, about = array_files.read(file)
        about["metadata"] = mutated(about["metadata"].encode(), r).decode(errors="replace")
        array_files.write(file, arrays, about)
        return file.read_bytes()
