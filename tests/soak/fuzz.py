"""Read damaged and hostile files with every reader.

    python tests/soak/fuzz.py [--files 10000] [--seed 0] [--json FILE] [--only commands|readers]

A reader must return a correct result or raise an error of one line, within limits of time and
memory. `mutations` damages the bytes of files, `damage` their values. One file in twenty is read by
a whole command (`commands`), the others by the functions that read them.

A monitored fork reads a few hundred files. Python's audit events show what no reader may do: write
outside its folder, start a program, unpickle. The exit code is 1 if a reader failed.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
if __name__ == "__main__":  # A test imports this file, and its processes keep their platforms.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
from soak import commands  # noqa: E402
from soak.corpus import corpus, hostile_files  # noqa: E402

from jaxdrill.errors import RunError, UsageError, printable  # noqa: E402
from jaxdrill.runs import provenance  # noqa: E402

MAX_SECONDS, MAX_BYTES, CHUNK = 10, 2**30, 250
MAX_COMMAND_SECONDS, MAX_COMMAND_BYTES = 120, 3 * 2**30  # A command may train.
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def forbid(folder: str, report: Callable[[str], None]) -> None:
    """Report what no reader may do, from now on. It cannot be undone."""

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
            # `rmtree` names files relative to an open folder.
            if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:
                path = os.path.join(os.path.realpath(f"/proc/self/fd/{arguments[1]}"), path)
            if str(path).startswith(folder) or path == os.devnull:
                return
        elif not event.startswith(
            ("subprocess.", "os.exec", "os.posix_spawn", "os.system", "pickle.", "socket.connect")
        ):
            return
        report(f"{event} {arguments!r:.200}")

    sys.addaudithook(hook)


def read_one(read: Callable[[], object]) -> str | None:
    """Call a reader. Return why its behaviour is wrong, or None."""
    try:
        read()
    except (RunError, UsageError, OSError) as error:
        line = printable(" ".join(f"{error}".split()))
        return None if line and line.isprintable() else f"an empty line: {error!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def chunk(
    files: list[tuple[str, bytes]],
    read: Callable[[], object],
    base: Path,
    pipe: int,
    max_bytes: int,
) -> None:
    """Read files in a fork, each at its path. Write a line to the pipe after each file."""
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
            wrong = wrong or (f"took {used:,} bytes" if used > max_bytes else None)
            (base / name).write_bytes(good)
            os.write(pipe, (json.dumps(wrong) + "\n").encode())
            if wrong:
                break
    os._exit(0)


def watched(
    files: list[tuple[str, bytes]],
    read: Callable[[], object],
    base: Path,
    max_seconds: int = MAX_SECONDS,
    max_bytes: int = MAX_BYTES,
) -> Iterator[tuple[int, str]]:
    """Yield the index of each file whose reader failed, and why. Continue in a new fork."""
    at = 0
    while at < len(files):
        lines, pipe = os.pipe()
        if not (child := os.fork()):
            os.close(lines)
            chunk(files[at:], read, base, pipe, max_bytes)
        os.close(pipe)
        good = (base / files[at][0]).read_bytes()
        with os.fdopen(lines) as results:
            while True:
                start = time.monotonic()
                ready, _, _ = select.select([results], [], [], max_seconds)
                line = results.readline() if ready else None
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
                        f"not read in {time.monotonic() - start:.0f} s"
                        if line is None
                        else f"died with {ended}"
                    )
                    yield at, how
                    at += 1
                break


class Fuzz:
    """Count the files that were read, and collect the failures."""

    def __init__(self, base: Path) -> None:
        self.base, self.tried, self.wrong = base, Counter[str](), list[str]()

    def __call__(
        self, kind: str, files: list[tuple[str, bytes]], read: Callable[[], object], *limits: int
    ) -> None:
        """Read files, a few hundred per fork. Keep the files whose reader failed."""
        self.tried[kind] += len(files)
        for start in range(0, len(files), CHUNK):
            part = files[start : start + CHUNK]
            for at, what in watched(part, read, self.base, *limits):
                kept = self.base.parent / f"fuzz_{len(self.wrong)}"
                kept.write_bytes(part[at][1])
                self.wrong.append(f"{part[at][0]} ({kept}): {what}")
                print(self.wrong[-1], flush=True)


def fuzz_commands(fuzz: Fuzz, count: int, r: random.Random) -> None:
    """Run every command on damaged run folders. Training, which also writes, gets half of them."""
    commands.prepare()
    runs = commands.Runs(fuzz.base)
    for command in runs.commands():
        share = {"train": 0.5, "verify": 0.02}.get(command, 0.096)
        files = runs.files(command, round(share * count), r)
        fuzz(
            f"command {command}",
            files,
            partial(runs.read, command),
            MAX_COMMAND_SECONDS,
            MAX_COMMAND_BYTES,
        )


def fuzz_readers(fuzz: Fuzz, count: int, r: random.Random) -> None:
    """Call every function that reads a file."""
    cases = corpus(fuzz.base)
    for _, _, read in cases:
        read()  # The valid files are accepted, and all modules are imported before the forks.
    readers: dict[str, list[Callable[[], object]]] = {}
    for name, _, read in cases:
        readers.setdefault(name, []).append(read)
    work = [
        ([(name, content)], read)
        for name, content in hostile_files(fuzz.base)
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
    """Run the command. Return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--only", choices=("commands", "readers"), help="which readers (default: both)"
    )
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="jaxdrill_fuzz_"))
    for name, folder in (("TFDS_DATA_DIR", "cache"), ("XDG_CACHE_HOME", "xdg")):
        os.environ[name] = f"{base / folder}"
    # JAX has read the environment already.
    jax.config.update("jax_compilation_cache_dir", f"{base / 'programs'}")
    provenance.git_commit = lambda package: None  # It starts a program, which no fork may do.
    fuzz, r = Fuzz(base), random.Random(options.seed)
    if options.only != "readers":
        fuzz_commands(fuzz, options.files // 20, r)  # First: it must fork before JAX runs.
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
