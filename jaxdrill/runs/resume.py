"""Open a run folder for training: resume or archive its run, and lock out other processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jaxdrill import array_files
from jaxdrill.config import from_file
from jaxdrill.config.config import Config
from jaxdrill.errors import RunError, UsageError, print_error
from jaxdrill.files import remove_stale_temporaries
from jaxdrill.runs import checkpoints, folder, provenance
from jaxdrill.runs.checkpoints import Checkpoint
from jaxdrill.runs.folder import CHECKPOINTS, CONFIG, METADATA, METRICS, START_OVER, Rows
from jaxdrill.training import processes
from jaxdrill.weights import weights_file

Contents = tuple[Rows, dict[str, Any], dict[int, Checkpoint]]


class CannotWrite(RunError):
    """Raised when the run folder cannot be written. `__cause__` is the OSError."""


def open_run(
    config: Config, workdir: Path, identity: dict[str, Any], steps_per_epoch: int
) -> Contents:
    """Read what a folder contains of a run. Collective: every process must call it.

    Only a damaged `metrics.jsonl` is changed: it is repaired from the checkpoints.

    Args:
        config: the recipe, with the requested seeds and epochs.
        workdir: the run folder, which may be empty.
        identity: of the run to train; see `provenance.identity`.
        steps_per_epoch: optimizer steps.

    Returns:
        The rows of `metrics.jsonl`, the content of `run.json` or an empty dictionary, and the
        latest checkpoint of each seed. Only process 0 has the arrays of the checkpoints.

    Raises:
        UsageError: the folder contains other files, another run, or more epochs than requested.
        RunError: the run in the folder is damaged.
    """
    latest: dict[int, Checkpoint] = {}

    def read() -> Any:
        rows, previous, found = _read_run(config, workdir, identity, steps_per_epoch)
        latest.update(found)
        about = [(seed, f"{each.file}", each.step, each.metadata) for seed, each in found.items()]
        return rows, previous, about

    rows, previous, about = processes.broadcast_from_first(read)
    if not processes.is_first():
        latest = {seed: Checkpoint(Path(file), step, own, {}) for seed, file, step, own in about}
    return rows, previous, latest


def _read_run(
    config: Config, workdir: Path, identity: dict[str, Any], steps_per_epoch: int
) -> Contents:
    """Do the work of `open_run` in process 0."""
    if not is_run(workdir):
        for name in folder.NAMES:
            if (workdir / name).exists():
                raise UsageError(
                    f"{workdir} is not a run folder, but contains {name}, which training would "
                    "replace. Choose another --workdir."
                )
    previous = folder.read_metadata(workdir) if (workdir / METADATA).exists() else {}
    with folder.explain_damage(workdir, START_OVER):
        old = from_file(workdir / CONFIG) if (workdir / CONFIG).exists() else None
        rows, damaged = folder.read_rows(workdir)
    if old:
        sums = previous or identity
        before = provenance.identity(old, sums["dataset_sha256"], sums.get("init_sha256", ""))
        provenance.check_same_identity(workdir, before, identity)
    latest = _read_checkpoints(workdir, identity)
    rows = _repair_rows(workdir, rows, damaged, latest)
    done = {row["seed"]: row["epoch"] + 1 for row in rows}  # The rows are sorted by epoch.
    done |= {seed: -(-each.step // steps_per_epoch) for seed, each in latest.items()}
    for seed in config.seed_list:
        if (epoch := done.get(seed, 0)) > config.epochs:
            raise UsageError(
                f"{workdir} holds seed {seed} in epoch {epoch}, beyond the {config.epochs} "
                f"requested. Pass --epochs {epoch} to keep that run. {START_OVER}"
            )
    return rows, previous, latest


def _read_checkpoints(workdir: Path, identity: dict[str, Any]) -> dict[int, Checkpoint]:
    """Read the latest checkpoint of each seed, and check that it belongs to the same run."""
    latest: dict[int, Checkpoint] = {}
    for group in sorted(workdir.glob(CHECKPOINTS)):
        if checkpoint := checkpoints.latest(group):
            provenance.check_same_identity(workdir, checkpoint.metadata["identity"], identity)
            for seed in checkpoint.seeds:
                if seed not in latest or latest[seed].step < checkpoint.step:
                    latest[seed] = checkpoint
    return latest


def _repair_rows(
    workdir: Path, rows: Rows, damaged: int | None, latest: dict[int, Checkpoint]
) -> Rows:
    """Return the rows of the checkpoints, and the rows of seeds without a checkpoint.

    A row that is newer than its seed's checkpoint is dropped: its epoch is trained again, with the
    same result. `metrics.jsonl` is rewritten if it is damaged or lacks a row.
    """
    repaired = [
        row for seed, each in latest.items() for row in each.metadata["rows"] if row["seed"] == seed
    ]
    lost = damaged or any(row not in rows for row in repaired)
    repaired += [row for row in rows if row["seed"] not in latest]
    repaired.sort(key=lambda row: (row["seed"], row["epoch"]))
    if lost:
        print_error(f"warning: {workdir / METRICS} was damaged; repaired from the checkpoints")
        folder.write_rows(workdir, repaired)
    return repaired


def is_finished(workdir: Path, rows: Rows, seed: int, epochs: int) -> bool:
    """Return True if a seed has all its epochs, and undamaged predictions and weights."""
    trained = [row["epoch"] for row in rows if row["seed"] == seed]
    try:
        predicted = int(folder.read_predictions(folder.predictions_file(workdir, seed))["epoch"])
        array_files.read(weights_file(workdir, seed))
    except (OSError, ValueError, RunError):
        return False
    return trained == list(range(epochs)) and predicted == epochs - 1


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Create the run folder if necessary, and lock it until the end of the body.

    The system releases the lock of a killed process. Collective: every process must call it.

    Raises:
        RunError: another process trains into the folder, or the folder cannot be used.
    """
    lock = FileLock(workdir / ".lock", timeout=0)

    def acquire() -> None:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            folders = ("predictions", "weights", *workdir.glob(CHECKPOINTS))
            remove_stale_temporaries([workdir, *(workdir / name for name in folders)])
        except Timeout as error:
            raise RunError(
                f"Another process is training into {workdir}. Wait for it, or choose another "
                "--workdir."
            ) from error
        except OSError as error:
            raise CannotWrite(
                f"The workdir {workdir} cannot be used: {error.strerror}. Choose another --workdir."
            ) from error

    processes.broadcast_from_first(acquire)
    try:
        yield
    finally:
        lock.release()


def archive_run(workdir: Path) -> None:
    """Rename a run folder to `NAME.old_1`, or the next free number, so that its run can start over.

    Nothing is deleted. A folder that is missing or contains only the lock is left unchanged.

    Raises:
        UsageError: the folder is not a run folder.
        RunError: another process is training into it, or it cannot be renamed.
    """
    if not workdir.exists() or all(path.name == ".lock" for path in workdir.iterdir()):
        return
    if not is_run(workdir):
        raise UsageError(
            f"{workdir} is not a run folder, so --restart does not rename it. "
            "Choose another --workdir."
        )
    with locked(workdir):
        number, whole = 1, workdir.absolute()
        while (archive := whole.with_name(f"{whole.name}.old_{number}")).exists():
            number += 1
        try:
            workdir.rename(archive)
        except OSError as error:
            raise RunError(
                f"{workdir} cannot be renamed to {archive.name} ({error.strerror})."
            ) from error
    print_error(f"{workdir} is now {archive}")


def is_run(workdir: Path) -> bool:
    """Return True if a folder contains a checkpoint, or a `config.json` that is a recipe."""
    if any(workdir.glob(f"{CHECKPOINTS}/step_*.safetensors")):
        return True
    try:
        with folder.explain_damage(workdir):
            return bool(from_file(workdir / CONFIG))
    except RunError:
        return False
