"""Spoilt and hostile files through every reader: a right result or one line, in time, in memory, and nothing else.

    python tests/soak/fuzz.py [--files 10000] [--seed 0] [--json FILE] [--only commands|readers]

Files are spoilt byte by byte (`mutated` and those beside it), or by what they say (`damage`).
One in twenty is read by a whole command (`commands`), the others by the functions that read them.

A watched fork reads each few hundred files. What no reader may do is found by Python's audit events: write outside its
folder, start a program, unpickle. Exits with 1 if anything went wrong.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import tomllib
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
if __name__ == "__main__":  # a test imports this file, and its processes keep their own platforms
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from conftest import TINY, idx_bytes  # noqa: E402
from PIL import Image  # noqa: E402
from runs_on_disk import write_run, write_trained  # noqa: E402
from soak import commands, damage  # noqa: E402

from jaxdrill import array_files, config, data, weights  # noqa: E402
from jaxdrill.data import idx
from jaxdrill.errors import RunError, UsageError, printable  # noqa: E402
from jaxdrill.predict import digit  # noqa: E402
from jaxdrill.report import summary  # noqa: E402
from jaxdrill.runs import checkpoints, provenance, reader, resume  # noqa: E402

SECONDS, BYTES, CHUNK = 10, 2**30, 250
COMMAND_SECONDS, COMMAND_BYTES = 120, 3 * 2**30  # of a command, which may train
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
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
    """Content with one to four things changed."""
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
            text = json.dumps(r.choice(damage.TEXTS)) if change == 6 else r.choice(VALUES)
            content = content[: token.start()] + text.encode() + content[token.end() :]
    return content


def inside_gzip(content: bytes, r: random.Random) -> bytes:
    """Changed before it is packed."""
    return gzip.compress(mutated(gzip.decompress(content), r), 1)


def inside_zip(content: bytes, r: random.Random) -> bytes:
    """A member changed, with a right sum."""
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
    """The header changed, with its right length."""
    (length,) = struct.unpack("<Q", content[:8])
    header = mutated(content[8 : 8 + length], r)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def with_a_right_sum(content: bytes, r: random.Random) -> bytes:
    """A checkpoint whose metadata are changed, and whose sum is made anew."""
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "x").write_bytes(content)
        arrays, about = array_files.read(file)
        about["metadata"] = mutated(about["metadata"].encode(), r).decode(errors="replace")
        array_files.write(file, arrays, about)
        return file.read_bytes()


def recipe_of_other_values(content: bytes, r: random.Random) -> bytes:
    """A recipe of valid TOML, with other keys and values."""
    table = damage.of_value(tomllib.loads(content.decode()), r)
    return damage.as_toml(table if isinstance(table, dict) else {"network": table}).encode()


Case = tuple[str, Callable[[bytes, random.Random], bytes], Callable[[], object]]


def corpus(base: Path) -> list[Case]:
    """Good files, how each is spoilt, and what reads it."""
    run = write_run(base / "run", "5", {1: [0.9, 0.98], 2: [0.91, 0.97]})
    write_trained(run, "5", (1,))
    recipe = config.load("5")
    (run / "checkpoints" / "seed_1").mkdir(parents=True)
    arrays = {
        name: a[None]
        for name, a in weights.read_weights(run / "weights" / "seed_1.safetensors")[0].items()
    }
    rows = [row for row in resume.folder.read_rows(run)[0] if row["seed"] == 1]
    identity = provenance.identity(recipe.model_copy(update={"data": "mnist"}), "sum of mnist")
    about = {"seeds": [1], "rows": rows, "identity": identity, "epoch_seconds": 1.5}
    checkpoints.Checkpoints(run / "checkpoints" / "seed_1").save(938, arrays, about)
    own = base / "own"
    own.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    for name, values in (
        ("train-images", images),
        ("train-labels", np.arange(30, dtype=np.uint8) % 10),
        ("test-images", images[:10]),
        ("test-labels", np.arange(10, dtype=np.uint8)),
    ):
        (own / name).write_bytes(
            gzip.compress(idx_bytes(values)) if "train" in name else idx_bytes(values)
        )
    pack = data.pack_file("mnist")
    names = dict(zip(data.FILES, (images[..., None], np.zeros(30, np.uint8)) * 2, strict=True))
    array_files.write_npz(pack, names, compress=False)
    (base / "mine.toml").write_text(
        'extends = "step_5"\ngoal = "mine"\n' + TINY.replace('data = "digits"', "")
    )

    def report() -> object:
        return reader.read(run), summary(
            [run]
        )  # no pictures: they run JAX, which a fork cannot

    def continued() -> object:
        mine = recipe.model_copy(update={"data": "mnist", "seeds": 2})
        _, previous, _ = resume.open_run(mine, run, identity, 469)
        dataset = data.Dataset("mnist", **names)
        return (
            provenance.describe_run(mine, dataset, identity, 9606, [], previous)["seconds"]["data"]
            + 1.0
        )

    def load() -> object:
        return data.load("mnist", offline=True)

    cases: list[Case] = [
        ("own/train-images", mutated, lambda: idx.read_folder(own)),
        ("own/train-images", inside_gzip, lambda: idx.read(own / "train-images", 3)),
        ("own/train-labels", inside_gzip, lambda: idx.read_folder(own)),
        (
            "own/test-images",
            mutated,
            lambda: (idx.is_idx(own / "test-images"), idx.read_folder(own)),
        ),
        (f"{pack.relative_to(base)}", mutated, load),
        (f"{pack.relative_to(base)}", inside_zip, load),
        ("mine.toml", mutated, lambda: config.load(str(base / "mine.toml"))),
        ("run/metrics.jsonl", mutated, continued),
        ("run/config.json", mutated, continued),
        ("run/run.json", mutated, continued),
        ("run/checkpoints/seed_1/step_938.safetensors", mutated, continued),
        ("run/checkpoints/seed_1/step_938.safetensors", with_a_right_sum, continued),
    ]
    for name in ("run.json", "config.json", "metrics.jsonl"):
        change = damage.of_lines if name == "metrics.jsonl" else damage.of_json
        cases += [
            (f"run/{name}", each, read)
            for each, read in ((mutated, report), (change, report), (change, continued))
        ]
    for name in ("predictions/seed_1.npz", "images.npz"):
        cases += [
            (f"run/{name}", change, report) for change in (mutated, inside_zip, damage.of_npz)
        ]
    cases += [
        ("own/test-images", damage.of_idx, lambda: idx.read_folder(own)),
        (f"{pack.relative_to(base)}", damage.of_npz, load),
        ("run/checkpoints/seed_1/step_938.safetensors", damage.of_safetensors, continued),
        ("mine.toml", recipe_of_other_values, lambda: config.load(str(base / "mine.toml"))),
    ]
    file = run / "weights" / "seed_1.safetensors"
    for change in (mutated, inside_safetensors, damage.of_safetensors):
        cases.append(("run/weights/seed_1.safetensors", change, lambda: weights.read_weights(file)))
        cases.append(
            (
                "run/weights/seed_1.safetensors",
                change,
                lambda: weights.initial_weights(file, recipe.network),
            )
        )
    picture = Image.fromarray(np.kron(images[0], np.ones((9, 9), np.uint8)))
    for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"):
        drawn = base / f"picture.{kind}"
        picture.convert("RGB" if kind in ("jpeg", "webp") else "L").save(drawn)
        cases.append((drawn.name, mutated, lambda drawn=drawn: digit.read(drawn)))
    return cases


def bombs(base: Path) -> Iterator[tuple[str, bytes]]:
    """Small files that would become large, or count to very much."""
    zeros = gzip.compress(bytes(2**20), 9)
    yield (
        "own/train-images",
        gzip.compress(idx_bytes(np.zeros((1, 28, 28), np.uint8))[:4] + b"\xff" * 12),
    )
    yield (
        "own/train-images",
        gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 3_000_000, 28, 28), 9) + zeros * 2400,
    )
    header = b"\x93NUMPY\x01\0" + struct.pack("<H", 118)
    shape = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }"
    for claimed, real in ((2**40, 100), (2**30, 2**30)):
        packed = io.BytesIO()
        with (
            zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file,
            file.open("labels.npy", "w") as member,
        ):
            member.write(header + (shape % claimed).ljust(117) + b"\n")
            for _ in range(real // 2**20):
                member.write(bytes(2**20))
        yield "run/predictions/seed_1.npz", packed.getvalue()
        yield "run/images.npz", packed.getvalue()
    objects = io.BytesIO()
    np.savez(objects, allow_pickle=True, labels=np.array([print], dtype=object))
    yield "run/predictions/seed_1.npz", objects.getvalue()
    for length in (2**20, 2**40, 2**63):
        yield "run/weights/seed_1.safetensors", struct.pack("<Q", length) + b"{}"
    yield "run/weights/seed_1.safetensors", struct.pack("<Q", 10**6) + b'{"a":' * 200_000
    yield "mine.toml", b"a = " + b"[" * 500_000
    for parts in (30_000, 100_000):
        yield "mine.toml", b".".join([b"a"] * parts) + b" = 1"
    yield "mine.toml", b"network = [" + b"{ conv = 1 }, " * 50_000 + b"]"
    yield "mine.toml", b"x" * 2**21
    yield "mine.toml", b'extends = "mine"'
    for name in ("run.json", "config.json", "metrics.jsonl"):
        yield f"run/{name}", b"[" * 2**20
        yield f"run/{name}", b'{"seeds": 1' + b"0" * 4000 + b"}"
    yield (
        "run/config.json",
        (base / "run/config.json").read_bytes().replace(b'"seeds":2', b'"seeds":' + b"9" * 18),
    )
    yield (
        "run/config.json",
        (base / "run/config.json").read_bytes().replace(b'"epochs":2', b'"epochs":' + b"9" * 18),
    )
    for side in (7000, 20_000, 60_000):
        picture = io.BytesIO()
        Image.new("L", (side, side // 10 if side > 20_000 else side)).save(picture, "PNG")
        yield "picture.png", picture.getvalue()
    yield "picture.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n(%pipe%id) (r) file\n"


def forbid(folder: str, told: Callable[[str], None]) -> None:
    """From now on tells of what no reader may do."""

    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and not (
            (arguments[2] or 0) & WRITING and isinstance(arguments[0], str | os.PathLike)
        ):
            return
        if event in (
            "open",
            "os.rename",
            "os.remove",
            "os.mkdir",
            "os.rmdir",
            "os.symlink",
            "os.link",
        ):
            path = os.fspath(arguments[0])
            if (
                event in ("os.remove", "os.rmdir") and arguments[1] >= 0
            ):  # `rmtree` names files within an open folder
                path = os.path.join(os.path.realpath(f"/proc/self/fd/{arguments[1]}"), path)
            if str(path).startswith(folder) or path == os.devnull:
                return
        elif not event.startswith(
            ("subprocess.", "os.exec", "os.posix_spawn", "os.system", "pickle.", "socket.connect")
        ):
            return
        told(f"{event} {arguments!r:.200}")

    sys.addaudithook(hook)


def read_one(read: Callable[[], object]) -> str | None:
    """What is wrong with how a file was read, or None."""
    try:
        read()
    except (RunError, UsageError, OSError) as error:
        line = printable(" ".join(f"{error}".split()))
        return None if line and line.isprintable() else f"an empty line: {error!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def chunk(
    files: list[tuple[str, bytes]], read: Callable[[], object], base: Path, pipe: int, most: int
) -> None:
    """Reads files in a fork, each in its place; a line into the pipe after each."""
    forbidden: list[str] = []
    os.environ["TMPDIR"] = f"{base}"
    tempfile.tempdir = f"{base}"
    forbid(f"{base}", forbidden.append)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for name, content in files:
            good = (base / name).read_bytes()
            (base / name).write_bytes(content)
            wrong = read_one(read) or (f"did {forbidden[0]}" if forbidden else None)
            used = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            wrong = wrong or (f"took {used:,} bytes" if used > most else None)
            (base / name).write_bytes(good)
            os.write(pipe, (json.dumps(wrong) + "\n").encode())
            if wrong:
                break
    os._exit(0)


def watched(
    files: list[tuple[str, bytes]],
    read: Callable[[], object],
    base: Path,
    seconds: int = SECONDS,
    most: int = BYTES,
) -> Iterator[tuple[int, str]]:
    """What went wrong with which files; those after one that went wrong are read in a new fork."""
    at = 0
    while at < len(files):
        lines, pipe = os.pipe()
        if not (child := os.fork()):
            os.close(lines)
            chunk(files[at:], read, base, pipe, most)
        os.close(pipe)
        good = (base / files[at][0]).read_bytes()
        with os.fdopen(lines) as told:
            while True:
                began = time.monotonic()
                ready, _, _ = select.select([told], [], [], seconds)
                line = told.readline() if ready else None
                if line:
                    at += 1
                    if (wrong := json.loads(line)) is not None:
                        yield at - 1, wrong
                    continue
                if line is None:
                    os.kill(child, signal.SIGKILL)
                ended = os.waitpid(child, 0)[1]
                if line is None or (at < len(files) and ended):
                    (base / files[at][0]).write_bytes(good)
                    how = (
                        f"not read in {time.monotonic() - began:.0f} s"
                        if line is None
                        else f"died with {ended}"
                    )
                    yield at, how
                    at += 1
                break


class Fuzz:
    """What was tried, and what went wrong."""

    def __init__(self, base: Path) -> None:
        self.base, self.tried, self.wrong = base, Counter[str](), list[str]()

    def __call__(
        self, kind: str, files: list[tuple[str, bytes]], read: Callable[[], object], *limits: int
    ) -> None:
        """Reads files, a few hundred in a fork; keeps those that went wrong."""
        self.tried[kind] += len(files)
        for start in range(0, len(files), CHUNK):
            part = files[start : start + CHUNK]
            for at, what in watched(part, read, self.base, *limits):
                kept = self.base.parent / f"fuzz_{len(self.wrong)}"
                kept.write_bytes(part[at][1])
                self.wrong.append(f"{part[at][0]} ({kept}): {what}")
                print(self.wrong[-1], flush=True)


def fuzz_commands(fuzz: Fuzz, count: int, r: random.Random) -> None:
    """Every command on spoilt run folders. Half of the files are for training, which also writes."""
    commands.prepare()
    runs = commands.Runs(fuzz.base)
    for command in runs.commands():
        share = {"train": 0.5, "verify": 0.02}.get(command, 0.096)
        files = runs.files(command, round(share * count), r)
        fuzz(
            f"command {command}", files, partial(runs.read, command), COMMAND_SECONDS, COMMAND_BYTES
        )


def fuzz_readers(fuzz: Fuzz, count: int, r: random.Random) -> None:
    """Every function that reads a file."""
    cases = corpus(fuzz.base)
    for _, _, read in cases:
        read()  # the good files are right, and everything is loaded before the forks
    readers: dict[str, list[Callable[[], object]]] = {}
    for name, _, read in cases:
        readers.setdefault(name, []).append(read)
    work = [
        ([(name, content)], read)
        for name, content in bombs(fuzz.base)
        for read in dict.fromkeys(readers[name])
    ]
    for number, (name, change, read) in enumerate(cases):
        good = (fuzz.base / name).read_bytes()
        own = count // len(cases) + (number < count % len(cases))
        work.append(([(name, change(good, r)) for _ in range(own)], read))
    for files, read in work:
        if files:
            fuzz(re.sub(r"\d+|\.safetensors|run/|own/", "", files[0][0]), files, read)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--only", choices=("commands", "readers"), help="what reads the files (default: both)"
    )
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="jaxdrill_fuzz_"))
    for name, folder in (("TFDS_DATA_DIR", "cache"), ("XDG_CACHE_HOME", "xdg")):
        os.environ[name] = f"{base / folder}"
    jax.config.update(
        "jax_compilation_cache_dir", f"{base / 'programs'}"
    )  # JAX has read the environment already
    provenance.git_commit = lambda package: None  # it starts a program, which no fork may
    fuzz, r = Fuzz(base), random.Random(options.seed)
    if options.only != "readers":
        fuzz_commands(fuzz, options.files // 20, r)  # first: it forks before JAX has run
    if options.only != "commands":
        fuzz_readers(fuzz, options.files - options.files // 20, r)
    shutil.rmtree(base)
    found = {
        "files": sum(fuzz.tried.values()),
        "of each": dict(sorted(fuzz.tried.items())),
        "wrong": fuzz.wrong,
    }
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 1 if fuzz.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
