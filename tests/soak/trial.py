"""Disturb small runs, rerun the command, and compare the run folder with an undisturbed run.

    python tests/soak/trial.py FOLDER [--faults kill kill_inside full] [--each-kind] [--random N]
        [--json FILE]

The folder must be empty. For `full` it must be a small disk (`small_disk` mounts one). The exit
code is 1 if anything differs.
"""

import argparse
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from soak import faults  # noqa: E402

SETUPS = {"two seeds together": [], "one seed after the other": ["--execution.seeds-together", "1"]}
TINY = """
epochs = 2
batch_size = 512
network = [{ conv = 4, kernel = 5, batch_norm = true, dropout = 0.1 }, { pool = "max", size = 4 },
           { conv = 10, kernel = 6 }]
augmentation = { rotation_degrees = 7 }
"""


def small_disk(folder: Path, megabytes: int, command: list[str]) -> list[str]:
    """Return a command that runs with a small disk at a folder, visible only to it."""
    mount = f'mount -t tmpfs -o size={megabytes}m tmpfs "$0" && exec "$@"'
    return [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        mount,
        str(folder),
        *command,
    ]


def prepare() -> None:
    """Import what a run needs, and shrink the dataset. JAX must not run before the forks."""
    from jaxdrill.data import digits

    train, labels, test, test_labels = digits.load_arrays()
    digits.load_arrays = lambda: (train[:1437], labels[:1437], test, test_labels)
    import jaxdrill.report.text
    import jaxdrill.runs.session  # noqa: F401
    from jaxdrill.runs import checkpoints

    checkpoints.Checkpoints.due = lambda self: True  # After each epoch.


class Setup:
    """One set of flags, and the files that an undisturbed run with them leaves."""

    def __init__(self, base: Path, flags: list[str]) -> None:
        self.base, self.workdir, self.out = base, base / "run", base / "out"
        recipe = base / "tiny.toml"
        recipe.write_text(TINY)
        self.arguments = [
            "--step",
            f"{recipe}",
            "--data",
            "digits",
            "--workdir",
            f"{self.workdir}",
            "--seeds",
            "2",
        ]
        self.arguments += flags
        self.moments = faults.moments(self.workdir, self.run, self.out)
        self.expected = self.left()
        shutil.rmtree(self.workdir)

    def run(self) -> int:
        from jaxdrill.main import main

        return main(self.arguments)

    def left(self) -> dict[str, Any]:
        """Return the contents of a finished run, without times."""
        from jaxdrill import array_files
        from jaxdrill.runs.reader import read

        run = read(self.workdir)
        found: dict[str, Any] = {"seeds": run.seeds}
        found |= {key: values.tolist() for key, values in run.metrics.items() if key != "seconds"}
        for file in sorted(self.workdir.rglob("*")):
            name = f"{file.relative_to(self.workdir)}"
            if file.suffix == ".safetensors" and "weights" in name:
                found[name] = array_files.digest(array_files.read(file)[0], {})
            elif file.suffix == ".npz":
                arrays = array_files.read_npz(file)
                # Evaluated again from a checkpoint with one seed, the logits round differently.
                found[name] = {
                    key: a.round(3 if key == "probabilities" else 0).tolist()
                    for key, a in arrays.items()
                }
            elif file.suffix == ".tmp":
                found["leftover"] = name
        return found

    def trial(self, disturb: Callable[[], int]) -> str | None:
        """Disturb a run and rerun the command. Return what is wrong, or None."""
        shutil.rmtree(self.workdir, ignore_errors=True)
        self.out.unlink(missing_ok=True)
        try:
            ended = disturb()
        except AssertionError as error:
            return f"was not reported: {error}"
        printed = self.out.read_text() if self.out.exists() else ""
        if "Traceback" in printed:
            return f"a traceback: {printed[-1000:]}"
        self.out.unlink(missing_ok=True)
        if faults.forked(self.run, self.out):
            return f"ended with {ended}, and then: {self.out.read_text()[-1000:]}"
        left = self.left()
        wrong = [
            name
            for name in self.expected.keys() | left.keys()
            if self.expected.get(name) != left.get(name)
        ]
        return f"ended with {ended}, and then differs: {sorted(wrong)}" if wrong else None


def full(base: Path) -> Callable[[faults.Moment], None]:
    """Return a fault that fills the disk before a file is opened."""

    def fill(_: faults.Moment) -> None:
        with contextlib.suppress(OSError), (base / "filler").open("wb", buffering=0) as file:
            while file.write(b"0" * 4096):
                pass

    return fill


def at_random(setup: Setup, seconds: float, number: int) -> int:
    """Send a signal to a run after some seconds. Return the exit code, or minus the signal."""

    def run() -> int:
        threading.Timer(seconds, os.kill, (os.getpid(), number)).start()
        code = setup.run()
        os._exit(code)  # Do not wait for the timer.

    return faults.forked(run, setup.out)


class Trials:
    """Count the trials, and collect the failures."""

    def __init__(self, base: Path, chosen: list[str], each_kind: bool) -> None:
        self.base, self.chosen, self.each_kind = base, chosen, each_kind
        self.tried, self.at, self.wrong = Counter[str](), Counter[str](), list[str]()

    def at_moments(self, name: str, setup: Setup) -> None:
        """Inject each fault at each moment, or at the first for each kind of file."""
        seen = set()
        for number, (event, kind) in enumerate(setup.moments):
            kind = kind.removesuffix("..tmp")
            if self.each_kind and (kind in seen or event != "open"):
                continue
            seen.add(kind)
            for fault in self.chosen:
                if fault == "full" and event != "open":
                    continue
                problem = setup.trial(
                    lambda number=number, fault=fault: self._disturbed(setup, number, fault)
                )
                self.tried[fault] += 1
                self.at[f"{event} {kind}"] += 1
                if problem:
                    self.wrong.append(f"{name}, {fault} at {number} ({event} {kind}): {problem}")

    def _disturbed(self, setup: Setup, number: int, fault: str) -> int:
        makers = {"kill": faults.kill, "kill_inside": faults.kill_inside, "full": full(self.base)}
        ended = faults.at(number, makers[fault], setup.workdir, setup.run, setup.out)
        printed = setup.out.read_text()
        (self.base / "filler").unlink(missing_ok=True)
        if fault == "full":
            line = printed.splitlines()[-1]
            enough = os.strerror(errno.ENOSPC) in line and "rerun the command to resume" in line
            assert ended == 1 and enough and printed.count("jaxdrill: ") == 1, (ended, printed)
        else:
            assert ended in (-signal.SIGKILL, -signal.SIGXFSZ), (ended, printed[-1000:])
        return ended

    def at_random(self, name: str, setup: Setup, count: int, seconds: float) -> None:
        """Kill or stop `count` runs at random moments within `seconds`."""
        generator = random.Random(0)
        for _ in range(count):
            number, after = (
                generator.choice([signal.SIGKILL, signal.SIGTERM]),
                generator.uniform(0, seconds),
            )
            problem = setup.trial(
                lambda number=number, after=after: at_random(setup, after, number)
            )
            self.tried[f"{number.name} at a random moment"] += 1
            if problem:
                self.wrong.append(f"{name}, {number.name} after {after:.2f} s: {problem}")


def main() -> int:
    """Run the command. Return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--faults",
        nargs="*",
        default=["kill", "kill_inside"],
        choices=["kill", "kill_inside", "full"],
    )
    parser.add_argument(
        "--each-kind",
        action="store_true",
        help="only the first time that each kind of file is opened",
    )
    parser.add_argument(
        "--random", type=int, default=0, metavar="N", help="kills and stops at random moments"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    prepare()
    base = options.folder.resolve()
    trials = Trials(base, options.faults, options.each_kind)
    for name, flags in list(SETUPS.items())[: 1 if options.each_kind else None]:
        shutil.rmtree(base / "run", ignore_errors=True)
        start = time.monotonic()
        setup = Setup(base, flags)
        seconds = time.monotonic() - start
        trials.at_moments(name, setup)
        trials.at_random(name, setup, options.random // len(SETUPS), seconds)
    found = {
        "tried": dict(trials.tried),
        "at": dict(sorted(trials.at.items())),
        "wrong": trials.wrong,
    }
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text)
    return 1 if trials.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
