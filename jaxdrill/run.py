"""One run: trains the seeds of a recipe into a run folder, and continues what a signal or a crash cut short."""

import dataclasses
import json
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, cast

import jax
import numpy as np
from scipy.special import softmax
from tqdm import tqdm

from jaxdrill import __version__, data, events, models, parallel
from jaxdrill.checkpoint import Checkpoints
from jaxdrill.config import Config
from jaxdrill.errors import RunError, Stopped, UsageError
from jaxdrill.folder import FORMAT, flat, predictions_file, read_arrays, write_arrays, write_text
from jaxdrill.train import EpochResult, Program, Progress, fit

Rows = list[dict[str, Any]]


def run(config: Config, workdir: Path, data_dir: Path | None, offline: bool, command: list[str]) -> None:
    """Trains every seed of the recipe to its last epoch. A run that the folder holds in part is continued.

    Raises:
        UsageError: the recipe does not fit the data, or the folder holds a run of another recipe.
        RunError: the data or the folder cannot be had, or a loss is not finite.
        Stopped: SIGINT or SIGTERM came; the progress is saved.
    """
    parameters = sum(row.parameters for row in models.layer_table(config))
    began = time.perf_counter()
    dataset = data.load(config.data, data_dir, offline)
    config = dataclasses.replace(config, data=dataset.name)
    data_seconds = time.perf_counter() - began
    if config.batch_size > len(dataset.train_labels):
        allowed = f"at most {len(dataset.train_labels)}, the training images of {dataset.name}"
        raise UsageError(f"batch_size is {config.batch_size}; allowed: {allowed}")
    rows, before = _open_folder(config, workdir)
    about = _about(config, dataset, parameters, command)
    about["earlier_sessions"] = _earlier_sessions(before, about)
    seconds = before.get("seconds", {"data": 0.0, "compile": 0.0, "train": 0.0, "evaluation": 0.0})
    seconds["data"] += data_seconds
    devices = f"{len(jax.devices())} {jax.devices()[0].platform} device(s)"
    images = f"{len(dataset.train_labels):,} training and {len(dataset.test_labels):,} test images"
    print(f"{config.name} on {dataset.name}: {parameters:,} parameters, {images}, {devices}")
    groups = _groups(config, workdir, parallel.resolve(config.execution, config.seeds).seeds_together)
    groups = [group for group in groups if not _finished(config, workdir, group, rows)]
    programs: dict[int, Program] = {}
    try:
        for seeds in groups:
            write_text(workdir / "run.json", json.dumps(about | {"seconds": seconds}, indent=1))
            if len(seeds) not in programs:
                programs[len(seeds)] = Program(config, dataset, len(seeds))
                seconds["compile"] += programs[len(seeds)].compile_seconds
            for result in _train_group(programs[len(seeds)], dataset, seeds, workdir, rows):
                seconds["train"] += result.train_seconds
                seconds["evaluation"] += result.test_seconds
        if groups or not (workdir / "images.npz").exists():
            _keep_images(workdir, dataset)
    finally:
        if groups:
            write_text(workdir / "run.json", json.dumps(about | {"seconds": seconds}, indent=1))


def _about(config: Config, dataset: data.Dataset, parameters: int, command: list[str]) -> dict[str, Any]:
    """What `run.json` says of this session."""
    return {
        "format": FORMAT,
        "command": command,
        "step": config.name,
        "parameters": parameters,
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256,
        "versions": {"python": platform.python_version(), "jaxdrill": __version__}
        | {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")},
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()],
        "processor": _processor(),
        "git_commit": _git_commit(),
    }


def _earlier_sessions(before: dict[str, Any], about: dict[str, Any]) -> list[dict[str, Any]]:
    """What earlier sessions of the run were made by, where that was something else than now."""
    keys = ("versions", "devices", "processor", "git_commit")
    sessions = [*before.get("earlier_sessions", []), {key: before[key] for key in keys}] if before else []
    return [each for each in sessions if any(each[key] != about[key] for key in keys)]


def _finished(config: Config, workdir: Path, seeds: range, rows: Rows) -> bool:
    """Whether the seeds have all their epochs, and the predictions of the last one."""
    for seed in seeds:
        if sum(row["seed"] == seed for row in rows) < config.epochs:
            return False
        try:
            if int(read_arrays(predictions_file(workdir, seed))["epoch"]) != config.epochs - 1:
                return False
        except (ValueError, KeyError):
            return False
    return True


def _keep_predictions(workdir: Path, seeds: range, epoch: int, labels: np.ndarray, logits: np.ndarray) -> None:
    """Writes the predictions' file of each seed."""
    for seed, each in zip(seeds, logits, strict=True):
        arrays = {
            "epoch": np.int64(epoch),
            "labels": labels,
            "predicted": each.argmax(axis=-1).astype(np.uint8),
            "probabilities": np.round(softmax(each, axis=-1), 4).astype(np.float16),  # rounded they pack to a third
        }
        write_arrays(predictions_file(workdir, seed), arrays)


def _keep_images(workdir: Path, dataset: data.Dataset) -> None:
    """Writes `images.npz`, the test images that a report shows: the first of each class, and those that a seed got
    wrong. index int64[K], images uint8[K, 28, 28]."""
    shown = {int(np.argmax(dataset.test_labels == label)) for label in np.unique(dataset.test_labels)}
    for file in workdir.glob("predictions/seed_*.npz"):
        shown |= set(np.flatnonzero(read_arrays(file)["predicted"] != dataset.test_labels).tolist())
    index = np.array(sorted(shown))
    write_arrays(workdir / "images.npz", {"index": index, "images": dataset.test_images[index, :, :, 0]})


def _groups(config: Config, workdir: Path, together: int) -> list[range]:
    """The seeds of the run in groups that are trained together; a group that was begun stays one."""
    names = [re.findall(r"\d+", path.name) for path in workdir.glob("checkpoints/seed*_[0-9]*")]
    begun = [range(int(name[0]), int(name[-1]) + 1) for name in names]
    wanted = range(config.seed, config.seed + config.seeds)
    groups = [group for group in begun if set(group) & set(wanted)]
    fresh = sorted(set(wanted).difference(*groups))
    while fresh:
        size = next((n for n, (a, b) in enumerate(pairwise(fresh), start=1) if b != a + 1 or n == together), len(fresh))
        groups.append(range(fresh[0], fresh[0] + size))
        fresh = fresh[size:]
    return sorted(groups, key=min)


def _train_group(
    program: Program, dataset: data.Dataset, seeds: range, workdir: Path, rows: Rows
) -> Iterator[EpochResult]:
    """Trains seeds from their checkpoint, if any; after each epoch the rows are written first, then the checkpoint, and
    after the last one the predictions."""
    config, steps = program.config, program.steps_per_epoch
    group = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    name, checkpoints = f"{config.data} {group}", Checkpoints(workdir / "checkpoints" / group.replace(" ", "_"))
    progress = checkpoints.restore(program.start(program.root_keys(seeds)))
    done = 0 if progress is None else int(progress.state.step[0])
    # A row whose checkpoint was never written is trained again, to the same bits.
    rows[:] = [row for row in rows if row["seed"] not in seeds or row["epoch"] < done // steps]
    if done:
        print(f"{name}: continuing at epoch {done // steps} of {config.epochs}, step {done}")
    bar = tqdm(total=config.epochs * steps, initial=done, disable=None, leave=False, unit="step", desc=name)
    with bar, _signals() as received, events.opened(workdir / "tensorboard", seeds, done) as scalars:

        def watch(progress: Progress, step: int, losses: np.ndarray) -> None:
            bar.update(step - bar.n)
            if not bar.disable:
                correct, count = np.asarray(progress.totals.correct).sum(), np.asarray(progress.totals.count).sum()
                bar.set_postfix(loss=f"{losses.mean():.4f}", accuracy=f"{100 * correct / count:.2f} %", refresh=False)
            if received and step % steps:  # at the end of an epoch its rows come first
                checkpoints.save(step, progress)
                stop(step)

        def stop(step: int) -> NoReturn:
            raise Stopped(
                f"stopped at step {step} of {name}; the state is saved in {workdir}, "
                "and the same command continues from there", received[0]
            )  # fmt: skip

        result = None
        for result in fit(program, seeds, progress, watch):
            new = _rows(seeds, result)
            rows.extend(new)
            rows.sort(key=lambda row: (row["seed"], row["epoch"]))
            write_text(workdir / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            if received or result.epoch + 1 == config.epochs or checkpoints.due():
                checkpoints.save(result.step, result.progress)
            scalars.write(new, len(seeds) * len(dataset.train_labels) / result.train_seconds)
            with bar.external_write_mode():
                print(_line(name, new), flush=True)
            yield result
            if received:
                stop(result.step)
        # Without a result all epochs were there, and only the predictions are missing.
        logits = result.logits if result else program.evaluate(cast(Progress, progress).state)[1]
        _keep_predictions(workdir, seeds, config.epochs - 1, dataset.test_labels, logits)


def _rows(seeds: range, result: EpochResult) -> Rows:
    """Lines of `metrics.jsonl`, one a seed: accuracies in 0..1, losses in nats, a seed's share of the seconds."""
    train, test = jax.device_get((result.train, result.test))
    return [
        {
            "seed": seed,
            "epoch": result.epoch,
            "step": result.step,
            "learning_rate": result.learning_rate,
            "train_loss": float(train.loss[n]) / int(train.count[n]),
            "train_accuracy": int(train.correct[n]) / int(train.count[n]),
            "test_loss": float(test.loss[n]) / int(test.count[n]),
            "test_accuracy": int(test.correct[n]) / int(test.count[n]),
            "test_examples": int(test.count[n]),
            "seconds": round((result.train_seconds + result.test_seconds) / len(seeds), 3),
        }
        for n, seed in enumerate(seeds)
    ]


def _line(name: str, rows: Rows) -> str:
    """The rows of an epoch for a person: means over the seeds, and their standard deviation if there are several."""
    mean = {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
    spread = f" ± {100 * statistics.stdev(row['test_accuracy'] for row in rows):.2f}" if len(rows) > 1 else ""
    return (
        f"{name} epoch {rows[0]['epoch']:2d}  learning rate {mean['learning_rate']:<8.3g} "
        f"train {100 * mean['train_accuracy']:5.2f} %  test {100 * mean['test_accuracy']:5.2f}{spread} %  "
        f"test loss {mean['test_loss']:.4f}  {mean['seconds'] * len(rows):.1f} s"
    )


def _open_folder(config: Config, workdir: Path) -> tuple[Rows, dict[str, Any]]:
    """Creates the run folder, or checks that the run in it can be continued; returns the rows and the `run.json` that
    it holds."""
    resolved = json.loads(json.dumps(dataclasses.asdict(config)))
    config_file, metrics_file, run_file = (workdir / name for name in ("config.json", "metrics.jsonl", "run.json"))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        before = json.loads(config_file.read_text()) if config_file.exists() else resolved
        rows = [json.loads(line) for line in metrics_file.read_text().splitlines()] if metrics_file.exists() else []
        about = json.loads(run_file.read_text()) if rows and run_file.exists() else {}
        if about and about.get("format") != FORMAT:
            raise UsageError(
                f"{workdir} holds a run of another version of jaxdrill (its format is {about.get('format', 1)}, now it "
                f"is {FORMAT}); choose another --workdir, or continue it with that version"
            )
        old, new = flat(before), flat(resolved)
        for key in sorted((old.keys() | new.keys()) - {"epochs", "seed", "seeds", "goal", "extends"}):
            if old.get(key) != new.get(key) and not key.startswith("execution."):
                raise UsageError(
                    f"{workdir} holds a run with {key} = {old.get(key)}, now it is {new.get(key)}; "
                    "choose another --workdir, or delete that one"
                )
        done = max((row["epoch"] + 1 for row in rows), default=0)
        if done > config.epochs:
            raise UsageError(
                f"{workdir} holds {done} epochs, more than the {config.epochs} asked; choose another --workdir"
            )
        write_text(config_file, json.dumps(resolved, indent=1))
    except OSError as error:
        raise RunError(f"the workdir {workdir} cannot be used: {error.strerror}; choose another --workdir") from error
    except ValueError as error:
        raise RunError(f"the run in {workdir} is damaged ({error}); choose another --workdir") from error
    return rows, about


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; a second one kills at once."""
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        received.append(number)
        print("\njaxdrill: stopping after this step; once more to stop at once", file=sys.stderr)
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _processor() -> str:
    """The processor's model and how many of its cores this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {parallel.cores()} cores"


def _git_commit() -> str | None:
    """The commit of this code, `-dirty` if it was changed since, if it runs from a repository."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
