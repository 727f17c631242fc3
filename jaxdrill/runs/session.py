"""Train the seeds of a recipe into a run folder, and resume what was interrupted."""

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
from jaxdrill.config.layers import count_parameters, infer_shapes
from jaxdrill.data import Dataset, splits
from jaxdrill.errors import UsageError, say
from jaxdrill.runs import folder, provenance
from jaxdrill.runs.group import SeedGroup, TrainingRun
from jaxdrill.runs.progress import StopRequest, show_elapsed
from jaxdrill.runs.resume import CannotWrite, archive_run, is_finished, locked, open_run
from jaxdrill.training import devices, processes
from jaxdrill.training.trainer import Trainer
from jaxdrill.weights import initial_weights


@devices.single_precision()
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
    """Train or resume every seed of the recipe up to its last epoch, and return the run folder.

    Args:
        config: the recipe.
        workdir: run folder; if None, `parent/RECIPE`, or `parent/RECIPE_DATASET` if not MNIST.
        stop: checked between all parts of the work.
        data_dir, offline: as for `data.load`.
        command: stored in run.json.
        parent: of the default run folder.
        restart: archive an existing run folder first.

    Raises:
        UsageError: the recipe does not fit the data, or the folder contains another run.
        RunError: data or folder are damaged, memory or disk is full, or a loss is not finite.
        Stopped: a signal was received. The state is saved.
    """
    infer_shapes(config.network)
    devices.available_devices()  # before anything is downloaded or written
    began = time.perf_counter()
    config, dataset, sha256 = _load_data(config, data_dir, offline)
    suffix = "" if dataset.name == "mnist" else f"_{dataset.name}"
    workdir = workdir or parent / f"{config.name}{suffix}"
    stop.check("stopped before training began")
    with _opened(config, dataset, sha256, workdir, stop, command or [], restart) as (run, groups):
        run.metadata["seconds"]["data"] += time.perf_counter() - began
        trainers: dict[int, Trainer] = {}
        for seeds in groups:
            before = f"stopped before seed {seeds[0]}. Rerun the command to resume."
            stop.check(before)
            with devices.explain_out_of_memory(config, len(seeds)):
                if len(seeds) not in trainers:
                    trainers[len(seeds)] = trainer = Trainer(config, dataset, len(seeds))
                    with show_elapsed(f"compiling for {len(seeds)} seed(s)"):
                        seconds = trainer.compile()
                    say(f"compiled for {len(seeds)} seed(s) in {seconds:.1f} s")
                    run.metadata["seconds"]["compile"] += seconds
                    stop.check(before)
                SeedGroup(run, trainers[len(seeds)], seeds).train()
        stop.check(f"stopped; {config.name} is finished in {workdir}")
        return workdir


def _load_data(config: Config, data_dir: Path | None, offline: bool) -> tuple[Config, Dataset, str]:
    """Load the dataset of a recipe without the held-out images.

    Returns:
        The recipe with the dataset's name and split, the dataset, and the checksum of all of it.

    Raises:
        UsageError: the recipe does not fit the data.
        RunError: the data cannot be read.
    """
    whole = data.load(config.data, data_dir, offline)
    dataset = splits.hold_out(whole, config.hold_out, config.evaluate_on, config.fold)
    if config.batch_size > (count := len(dataset.train_labels)):
        allowed = f"at most {count}, the training images of {dataset.name}"
        raise UsageError(f"batch_size is {config.batch_size}; allowed: {allowed}")
    config = config.model_copy(update={"data": dataset.name, "evaluate_on": dataset.split})
    return config, dataset, whole.sha256


@contextmanager
def _opened(
    config: Config,
    dataset: Dataset,
    sha256: str,
    workdir: Path,
    stop: StopRequest,
    command: list[str],
    restart: bool,
) -> Iterator[tuple[TrainingRun, list[list[int]]]]:
    """Lock and read the run folder; write what describes the run before and after the body.

    Arguments and errors are those of `train`. `sha256` is the checksum of the whole dataset.

    Yields:
        The run, and the groups of seeds that are not finished.
    """
    file = Path(config.init_from)
    initial = initial_weights(file, config.network) if config.init_from else None
    initial_sha256 = array_files.digest(initial, {}) if initial else ""
    identity = provenance.identity(config, sha256, initial_sha256)
    common = {"epochs": config.epochs, "seeds": config.seed_list}
    _check_same_command(common | identity)
    if restart:
        processes.broadcast_from_first(lambda: archive_run(workdir))
    with locked(workdir), _explained_write_errors():
        count = len(dataset.train_labels)
        rows, previous, latest = open_run(config, workdir, identity, -(-count // config.batch_size))
        parameters = count_parameters(config.network)
        metadata = provenance.describe_run(config, dataset, identity, parameters, command, previous)
        images = f"{count:,} training and {len(dataset.test_labels):,} {dataset.split} images"
        where = f"{len(jax.devices())} {jax.default_backend()} device(s)"
        say(f"{config.name} on {dataset.name}: {parameters:,} parameters, {images}, {where}")
        run = TrainingRun(config, dataset, workdir, identity, rows, latest, metadata, stop, initial)
        groups = _plan(run)
        files = ("config.json", "run.json")
        changes = bool(groups) or not all((workdir / name).exists() for name in files)
        if processes.is_first() and changes:
            every = {row["seed"] for row in rows} | set(latest) | set(config.seed_list)
            folder.write_config(workdir, config, sorted(every))
            folder.write_metadata(workdir, metadata)
        try:
            yield run, groups
        finally:
            if processes.is_first() and changes:
                folder.write_metadata(workdir, metadata)
        if processes.is_first() and (groups or not (workdir / "images.npz").exists()):
            folder.write_images(workdir, dataset.test_images, dataset.test_labels)


def _plan(run: TrainingRun) -> list[list[int]]:
    """Split the unfinished seeds into groups: consecutive seeds that resume from one checkpoint."""
    config, requested = run.config, run.config.seed_list
    if others := sorted({row["seed"] for row in run.rows} - set(requested)):
        numbers = ", ".join(map(str, others))
        say(f"{run.workdir} also contains seed(s) {numbers}, which stay unchanged")

    def unfinished() -> list[int]:
        finished = (is_finished(run.workdir, run.rows, s, config.epochs) for s in requested)
        return [seed for seed, done in zip(requested, finished, strict=True) if not done]

    def source(item: tuple[int, int]) -> tuple[int, Path | None]:
        index, seed = item
        return seed - index, run.latest[seed].file if seed in run.latest else None

    seeds, groups = processes.broadcast_from_first(unfinished), []
    for _, members in groupby(enumerate(seeds), source):
        groups += _groups(config, [seed for _, seed in members])
    return groups


def first_group(config: Config) -> list[int]:
    """Return the first seeds of a recipe, the number that this machine trains together."""
    devices.available_devices()
    return _groups(config, config.seed_list)[0]


def _groups(config: Config, seeds: Sequence[int]) -> list[list[int]]:
    """Split seeds into groups that this machine trains together.

    Raises:
        UsageError: a process has nothing to compute for a group.
    """
    per_device = devices.max_seeds_per_device(config, jax.local_devices()[0])
    together = config.execution.seeds_together
    groups = devices.plan_groups(seeds, len(jax.devices()), per_device, together)
    for group in groups:
        devices.make_mesh(len(group), config.batch_size)  # fails if a process has no device
    return groups


def _check_same_command(mine: dict[str, Any]) -> None:
    """Check that all processes train the same. Collective: every process must call it.

    Raises:
        UsageError: this process, or another one, has other settings than process 0.
    """
    theirs = processes.broadcast_from_first(lambda: mine)
    other = [key for key, value in theirs.items() if json.loads(json.dumps(mine.get(key))) != value]
    differing = processes.all_reduce_max(jax.process_index() if other else 0)
    same = "Start every process with the same command."
    if other:
        key = other[0]
        values = "" if key == "network" else f": {mine.get(key)} instead of {theirs[key]}"
        number = jax.process_index()
        raise UsageError(f"process {number} differs from process 0 in {key}{values}. {same}")
    if differing:
        raise UsageError(f"process {differing} was started with different settings. {same}")


@contextmanager
def _explained_write_errors() -> Iterator[None]:
    """Raise a CannotWrite that says how to resume instead of an OSError."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename or 'the run folder'} cannot be written"
        raise CannotWrite(
            f"{what} ({error.strerror or error}). What was saved before is intact. "
            "Fix that, and rerun the command to resume."
        ) from error
