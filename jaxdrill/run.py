"""One run: trains the seeds of a recipe into a run folder, and continues what a signal or a crash cut short."""

import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from jaxdrill import data, models
from jaxdrill.checkpoint import Checkpoints
from jaxdrill.config import Config
from jaxdrill.errors import RunError, Stopped, UsageError
from jaxdrill.train import EpochResult, Program, Progress, compile_program, fit

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
    rows = _open_folder(config, workdir)
    about = {
        "command": command,
        "step": config.name,
        "parameters": parameters,
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")},
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()],
        "git_commit": _git_commit(),
    }
    seconds = {"data": data_seconds, "compile": 0.0, "train": 0.0, "evaluation": 0.0}
    _write(workdir / "run.json", json.dumps(about | {"seconds": seconds}, indent=1))
    devices = f"{len(jax.devices())} {jax.devices()[0].platform} device(s)"
    images = f"{len(dataset.train_labels):,} training and {len(dataset.test_labels):,} test images"
    print(f"{config.name} on {dataset.name}: {parameters:,} parameters, {images}, {devices}")
    program = compile_program(config, dataset)
    seconds["compile"] = program.compile_seconds
    try:
        for seed in range(config.seed, config.seed + config.seeds):
            for result in _train_seed(program, seed, workdir, rows):
                seconds["train"] += result.train_seconds
                seconds["evaluation"] += result.test_seconds
    finally:
        _write(workdir / "run.json", json.dumps(about | {"seconds": seconds}, indent=1))


def _train_seed(program: Program, seed: int, workdir: Path, rows: Rows) -> Iterator[EpochResult]:
    """Trains one seed from its checkpoint, if any; after each epoch the row is written first, then the checkpoint."""
    config, steps = program.config, program.steps_per_epoch
    checkpoints = Checkpoints(workdir / "checkpoints" / f"seed_{seed}")
    progress = checkpoints.restore(program.start(jax.device_put(jax.random.key(seed), program.sharding)))
    done = 0 if progress is None else int(progress.state.step)
    # A row whose checkpoint was never written is trained again, to the same bits.
    rows[:] = [row for row in rows if row["seed"] != seed or row["epoch"] < done // steps]
    if done:
        print(f"{config.data} seed {seed}: continuing at epoch {done // steps} of {config.epochs}, step {done}")
    bar = tqdm(total=config.epochs * steps, initial=done, disable=None, leave=False, unit="step")
    bar.set_description(f"{config.data} seed {seed}")
    with bar, _signals() as received:

        def watch(progress: Progress, loss: float) -> None:
            bar.update()
            if not bar.disable:
                bar.set_postfix(loss=f"{loss:.4f}", accuracy=f"{100 * progress.totals.accuracy:.2f} %", refresh=False)
            if received and int(progress.state.step) % steps:  # at the end of an epoch its row comes first
                stop(progress)

        def stop(progress: Progress) -> None:
            if int(progress.state.step) % steps:
                checkpoints.save(progress)
            raise Stopped(
                f"stopped at step {int(progress.state.step)} of seed {seed}; the state is saved in {workdir}, "
                "and the same command continues from there", received[0]
            )  # fmt: skip

        for result in fit(program, seed, progress, watch):
            rows.append(_row(seed, result))
            _write(workdir / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            checkpoints.save(result.progress)
            with bar.external_write_mode():
                print(_line(config, rows[-1]), flush=True)
            yield result
            if received:
                stop(result.progress)


def _row(seed: int, result: EpochResult) -> dict[str, Any]:
    """One line of `metrics.jsonl`: accuracies in 0..1, losses in nats."""
    return {
        "seed": seed,
        "epoch": result.epoch,
        "step": int(result.progress.state.step),
        "learning_rate": result.learning_rate,
        "train_loss": result.train.mean_loss,
        "train_accuracy": result.train.accuracy,
        "test_loss": result.test.mean_loss,
        "test_accuracy": result.test.accuracy,
        "test_examples": int(result.test.count),
        "seconds": round(result.train_seconds + result.test_seconds, 3),
    }


def _line(config: Config, row: dict[str, Any]) -> str:
    """The row for a person."""
    return (
        f"{config.data} seed {row['seed']} epoch {row['epoch']:2d}  learning rate {row['learning_rate']:<8.3g} "
        f"train {100 * row['train_accuracy']:5.2f} %  test {100 * row['test_accuracy']:5.2f} %  "
        f"test loss {row['test_loss']:.4f}  {row['seconds']:.1f} s"
    )


def _open_folder(config: Config, workdir: Path) -> Rows:
    """Creates the run folder, or checks that the run in it can be continued; returns the rows that it holds."""
    resolved = json.loads(json.dumps(dataclasses.asdict(config)))
    config_file, metrics_file = workdir / "config.json", workdir / "metrics.jsonl"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        before = json.loads(config_file.read_text()) if config_file.exists() else resolved
        rows = [json.loads(line) for line in metrics_file.read_text().splitlines()] if metrics_file.exists() else []
        old, new = _flat(before), _flat(resolved)
        for key in sorted((old.keys() | new.keys()) - {"epochs", "seed", "seeds"}):
            if old.get(key) != new.get(key):
                raise UsageError(
                    f"{workdir} holds a run with {key} = {old.get(key)}, now it is {new.get(key)}; "
                    "choose another --workdir, or delete that one"
                )
        done = max((row["epoch"] + 1 for row in rows), default=0)
        if done > config.epochs:
            raise UsageError(
                f"{workdir} holds {done} epochs, more than the {config.epochs} asked; choose another --workdir"
            )
        _write(config_file, json.dumps(resolved, indent=1))
    except OSError as error:
        raise RunError(f"the workdir {workdir} cannot be used: {error.strerror}; choose another --workdir") from error
    except ValueError as error:
        raise RunError(f"the run in {workdir} is damaged ({error}); choose another --workdir") from error
    return rows


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """The config with dotted names in place of tables."""
    tables = {key for key, value in config.items() if isinstance(value, dict)}
    inner = {f"{key}.{name}": value for key in tables for name, value in config[key].items()}
    return {key: value for key, value in config.items() if key not in tables} | inner


def _write(path: Path, text: str) -> None:
    """Replaces the file in one go: a reader sees the old text or the new, never half."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


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


def _git_commit() -> str | None:
    """The commit of this code, `-dirty` if it was changed since, if it runs from a repository."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
