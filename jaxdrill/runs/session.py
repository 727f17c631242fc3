"""One run: trains the seeds of a recipe into a run folder, and continues what a signal or a crash cut short."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import jax

from jaxdrill import array_files, data
from jaxdrill.config.config import Config
from jaxdrill.config.layers import infer_shapes
from jaxdrill.data import Dataset, splits
from jaxdrill.errors import UsageError, say
from jaxdrill.files import write_text
from jaxdrill.runs import folder, provenance
from jaxdrill.runs.elapsed import show_elapsed
from jaxdrill.runs.group import Group, Session
from jaxdrill.runs.resume import CannotWrite, archive_run, is_finished, locked, open_run
from jaxdrill.runs.stopping import StopRequest
from jaxdrill.training import backend, devices, processes
from jaxdrill.training.program import Program
from jaxdrill.weights import initial_weights


@backend.single_precision()
def train(
    config: Config,
    workdir: Path | None,
    stop: StopRequest,
    data_dir: Path | None = None,
    offline: bool = False,
    command: list[str] | None = None,
    parent: Path = Path("runs"),
    restart: bool = False,
) -> Path:
    """Train every seed of the recipe to its last epoch, resuming an unfinished run. Return the run folder.

    The settings of the process stay as they are; a command calls `backend.set_up_for` first.

    Args:
        config: the recipe, with its seeds and epochs.
        workdir: the run folder; if None, a folder in `parent` named after the recipe, and after the dataset unless it
            is MNIST.
        stop: is asked between all parts of the work.
        data_dir: as `data.load`.
        offline: make no network call.
        command: is kept in `run.json`, and error messages advise to repeat it.
        parent: of the default run folder.
        restart: rename an existing run folder first.

    Raises:
        UsageError: the recipe does not fit the data, or the folder contains a run of another recipe.
        RunError: the data or the folder cannot be read, memory or disk is full, or a loss is not finite.
        Stopped: a signal came; the progress is saved.
    """
    network = infer_shapes(config.network)[-1]
    backend.available_devices()  # before anything is fetched or written
    began = time.perf_counter()
    dataset, sha256 = _load_data(config, data_dir, offline)
    config = config.model_copy(update={"data": dataset.name, "evaluate_on": dataset.split})
    count = len(dataset.train_labels)
    workdir = workdir or parent / (
        config.name + (f"_{dataset.name}" if dataset.name != "mnist" else "")
    )
    stop.check("stopped before anything was trained")
    initial = initial_weights(Path(config.init_from), config.network) if config.init_from else None
    identity = provenance.identity(
        config, sha256, array_files.digest(initial, {}) if initial else ""
    )
    _assert_common({"epochs": config.epochs, "seed": config.seed, "seeds": config.seeds} | identity)
    if restart:
        processes.broadcast_from_first(lambda: archive_run(workdir))
    with locked(workdir), _explained_write_errors():
        rows, previous, latest = open_run(config, workdir, identity, -(-count // config.batch_size))
        metadata = provenance.describe_run(
            config, dataset, identity, network.parameters, command or [], previous
        )
        metadata["seconds"]["data"] += time.perf_counter() - began
        images = f"{count:,} training and {len(dataset.test_labels):,} {dataset.split} images"
        where = f"{len(jax.devices())} {jax.default_backend()} device(s)"
        say(
            f"{config.name} on {dataset.name}: {network.parameters:,} parameters, {images}, {where}"
        )
        run = Session(config, dataset, workdir, identity, rows, latest, metadata, stop, initial)
        _train_seeds(run, range(config.seed, config.seed + config.seeds))
        stop.check(f"stopped; {config.name} is finished in {workdir}")
    return workdir


def _load_data(config: Config, data_dir: Path | None, offline: bool) -> tuple[Dataset, str]:
    """Load the dataset of a recipe, without the images held out, and the checksum of the whole dataset.

    Raises:
        UsageError: the recipe does not fit the data.
        RunError: the data cannot be read.
    """
    whole = data.load(config.data, data_dir, offline)
    dataset = splits.hold_out(whole, config.hold_out, config.evaluate_on, config.fold)
    if config.batch_size > (count := len(dataset.train_labels)):
        most = f"at most {count}, the training images of {dataset.name}"
        raise UsageError(f"batch_size is {config.batch_size}; allowed: {most}")
    return dataset, whole.sha256


def _assert_common(mine: dict[str, Any]) -> None:
    """Raises:
    UsageError: this process, or another, is not to train what process 0 trains.
    """
    theirs = processes.broadcast_from_first(lambda: mine)
    other = [key for key, value in theirs.items() if json.loads(json.dumps(mine.get(key))) != value]
    differing = processes.all_reduce_max(jax.process_index() if other else 0)
    if other:
        values = (
            "" if other[0] == "network" else f": {mine.get(other[0])}, there {theirs[other[0]]}"
        )
        raise UsageError(
            f"process {jax.process_index()} has another {other[0]} than process 0{values}"
        )
    if differing:
        raise UsageError(
            f"process {differing} is to train something else, as it says; give all the same command"
        )


@contextmanager
def _explained_write_errors() -> Iterator[None]:
    """What cannot be written becomes one line that says how to go on."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename or 'the run folder'} cannot be written ({error.strerror or error})"
        raise CannotWrite(
            f"{what}; what was saved before is whole: mend that, and the same command continues from there"
        ) from error


def _train_seeds(run: Session, asked: range) -> None:
    """Trains what is unfinished of the seeds asked for."""
    if others := sorted({row["seed"] for row in run.rows} - set(asked)):
        say(
            f"{run.workdir} also holds seed(s) {', '.join(map(str, others))}, which stay as they are"
        )
    epochs, first = run.config.epochs, processes.is_first()

    def unfinished() -> list[int]:
        return [seed for seed in asked if not is_finished(run.workdir, run.rows, seed, epochs)]

    groups = _plan(run, processes.broadcast_from_first(unfinished))
    if groups or not all((run.workdir / name).exists() for name in ("config.json", "run.json")):
        if first:
            every = {row["seed"] for row in run.rows} | set(run.latest) | set(asked)
            folder.write_config(run.workdir, run.config, sorted(every))
            write_text(run.workdir / "run.json", json.dumps(run.metadata, indent=1))
        try:
            _train_groups(run, groups)
        finally:
            if first:
                write_text(run.workdir / "run.json", json.dumps(run.metadata, indent=1))
    if first and (groups or not (run.workdir / "images.npz").exists()):
        folder.write_images(run.workdir, run.dataset.test_images, run.dataset.test_labels)


def _train_groups(run: Session, groups: list[list[int]]) -> None:
    """Trains groups of seeds one after another; those of the same size share a program."""
    config, programs = run.config, {}
    for seeds in groups:
        stopped = f"stopped before seed {seeds[0]} of {config.name}; the same command continues from there"
        run.stop.check(stopped)
        with devices.explained_memory_errors(config, len(seeds)):
            if len(seeds) not in programs:
                with show_elapsed(f"compiling for {len(seeds)} seed(s)"):
                    program = Program(config, run.dataset, len(seeds), initial=run.initial)
                say(f"compiled for {len(seeds)} seed(s) in {program.compile_seconds:.1f} s")
                run.metadata["seconds"]["compile"] += program.compile_seconds
                programs[len(seeds)] = program
            run.stop.check(stopped)
            Group(run, programs[len(seeds)], seeds).train()


def first_group(config: Config) -> list[int]:
    """Return the first seeds of a recipe, as many as this machine trains together."""
    backend.available_devices()
    return _groups(config, range(config.seed, config.seed + config.seeds))[0]


def _plan(run: Session, seeds: list[int]) -> list[list[int]]:
    """The seeds in groups that are trained together: neighbours, continued from the same checkpoint or from none."""
    groups: list[list[int]] = []
    for _, members in groupby(
        enumerate(seeds),
        lambda item: (
            item[1] - item[0],
            run.latest[item[1]].file if item[1] in run.latest else None,
        ),
    ):
        groups += _groups(run.config, [seed for _, seed in members])
    return groups


def _groups(config: Config, seeds: Sequence[int]) -> list[list[int]]:
    """Neighbouring seeds in groups, as large as this machine trains together."""
    per_device = devices.most_seeds_per_device(config, jax.local_devices()[0])
    return devices.plan_groups(
        seeds, len(jax.devices()), per_device, config.execution.seeds_together
    )
