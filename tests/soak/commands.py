"""Run every command on a run folder in which one file is damaged.

The command must read the file correctly or end with a one-line error, and no file of the user may
be lost. A command runs in a monitored fork (`fuzz`) of a process that has not used JAX yet.
"""

import contextlib
import io
import json
import os
import random
from collections.abc import Callable
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path, PurePath

from conftest import TINY, idx_bytes
from soak import damage, faults

Change = Callable[[bytes, random.Random], bytes]
MODULES = (
    "page.__main__",
    "report.__main__",
    "report.text",
    "report.plots",
    "report.pictures",
    "runs.verify",
    "predict.__main__",
    "export.__main__",
)
RECIPE = TINY.replace("479", "100")
CHANGES: dict[str, Change] = {
    "run.json": damage.of_json,
    "config.json": damage.of_json,
    "metrics.jsonl": damage.of_lines,
    "*.npz": damage.of_npz,
    "*.safetensors": damage.of_safetensors,
}


def prepare() -> None:
    """Import what the commands need, and shrink the dataset. JAX must not run before the forks."""
    for name in ("matplotlib.font_manager", *(f"jaxdrill.{each}" for each in MODULES)):
        import_module(name)
    from jaxdrill.data import digits

    train, labels, test, test_labels = digits.load_arrays()
    few = train[:300], labels[:300], test[:100], test_labels[:100]
    digits.load_arrays = lambda: few


class Runs:
    """Two runs of different recipes, whose files can be exchanged, and commands on the first."""

    def __init__(self, base: Path) -> None:
        self.base, self.run, self.other = base, base / "trained", base / "other"
        (base / "tiny.toml").write_text(RECIPE)
        (base / "wide.toml").write_text(RECIPE.replace("conv = 4", "conv = 6"))
        images = five_images()
        (base / "images").write_bytes(images)
        out = base / "out.txt"
        for folder, recipe, seed in ((self.run, "tiny", "3"), (self.other, "wide", "3")):
            arguments = self.train(folder, recipe, seed)
            assert faults.forked(lambda arguments=arguments: _main(arguments), out) == 0, (
                out.read_text()
            )
        self.good = contents(self.run)
        others = [*contents(self.other).items(), *self.good.items()]
        self.swapped = sorted(others)
        self.rows = kept_rows(self.run)

    def train(self, folder: Path, recipe: str, seed: str) -> list[str]:
        """Return the arguments of a training."""
        where = ["--step", f"{self.base / recipe}.toml", "--workdir", f"{folder}"]
        return [*where, "--seed", seed, "--seeds", "2", "--execution.seeds-together", "1"]

    def commands(self) -> dict[str, Callable[[], int]]:
        """Return the commands by name."""
        from jaxdrill.export import __main__ as export
        from jaxdrill.page import __main__ as page
        from jaxdrill.predict import __main__ as predict
        from jaxdrill.report import __main__ as report

        run, out = f"{self.run}", self.base / "written"
        return {
            "train": lambda: _main(self.train(self.run, "tiny", "3")),
            "report": lambda: report.main([run, "--out", f"{out}"]),
            "page": lambda: page.main([run, "--out", f"{out / 'page.html'}"]),
            "check": lambda: _main(["check", run, "--min-accuracy", "0.001"]),
            "verify": lambda: _main(["verify", run, "--epochs", "1"]),
            "predict": lambda: predict.main([run, f"{self.base / 'images'}"]),
            "export": lambda: export.main([run, "--to", "safetensors", "--out", f"{out / 'x'}"]),
        }

    def files(self, command: str, count: int, r: random.Random) -> list[tuple[str, bytes]]:
        """Return the paths and contents of a valid file and of damaged files for a command.

        A tenth of the damaged files are files of the other run.
        """
        good, found = sorted(self.good), []
        if command != "train":
            good = [path for path in good if not path.startswith("checkpoints")]
        for number in range(count):
            path = good[number % len(good)]
            change = next(each for pattern, each in CHANGES.items() if fnmatch(path, pattern))
            swapped = [
                content
                for other, content in self.swapped
                if PurePath(other).suffix == PurePath(path).suffix
            ]
            content = r.choice(swapped) if r.random() < 0.1 else change(self.good[path], r)
            found.append((f"{self.run.name}/{path}", content))
        return [(f"{self.run.name}/run.json", self.good["run.json"]), *found]

    def read(self, command: str) -> None:
        """Run a command while a file is damaged. Restore all other files.

        Raises:
            AssertionError: The command neither succeeded nor ended with one line, or a file was
                lost.
        """
        before = contents(self.run)
        name = next((path for path in self.good if before.get(path) != self.good[path]), "")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = self.commands()[command]()
        after, rows = (
            contents(self.run),
            kept_rows(self.run) if command == "train" and not code else self.rows,
        )
        for path in before.keys() | after.keys():
            if path == name or after.get(path) == self.good.get(path):
                continue
            if path in self.good:
                (self.run / path).write_bytes(self.good[path])
            else:
                (self.run / path).unlink()
        lines = err.getvalue().splitlines()
        messages = [
            line for line in lines if "warning: " not in line and "was damaged; it is" not in line
        ]
        wrong = [
            line for line in lines if not line.startswith("jaxdrill: ") or not line.isprintable()
        ]
        assert not wrong, f"{command} said {wrong[:3]}"
        assert code in ((0, 1, 2, 3) if command in ("check", "verify") else (0, 1, 2)), (
            f"{command} ended with {code}"
        )
        assert name or not code, f"{command} of a good run ended with {code} and {lines}"
        assert not code or len(messages) == 1, f"{command} ended with {code} and {messages}"
        changed = {
            path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
        }
        if command != "train":
            assert not changed, f"{command} changed {changed}"
        elif code:
            assert not changed - {"metrics.jsonl", "run.json"}, (
                f"{command} ended with {code}, and changed {changed}"
            )
        elif "checkpoints" not in name:
            assert rows == self.rows, f"{command} left other rows: {out.getvalue()[-500:]}"


def _main(arguments: list[str]) -> int:
    from jaxdrill.main import main

    return main(arguments)


def five_images() -> bytes:
    """Return an idx file of five images."""
    from jaxdrill.data import digits

    return idx_bytes(digits.load_arrays()[2][:5, ..., 0])


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a run by relative path, without the lock and TensorBoard's files."""
    return {
        os.path.relpath(file, folder): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != ".lock" and "tensorboard" not in file.parts
    }


def kept_rows(folder: Path) -> list[dict]:
    """Return the rows of seeds 3 and 4 without their times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in rows
        if row["seed"] in (3, 4)
    ]
