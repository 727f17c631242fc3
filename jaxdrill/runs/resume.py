"""Continuing a run: what its folder holds, whether it is the same run, and the lock that keeps others out."""

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
from jaxdrill.runs.folder import Rows
from jaxdrill.training import processes
from jaxdrill.weights import weights_file


class CannotWrite(RunError):
    """The run folder cannot be written; the cause is the OSError."""


def open_run(
    config: Config, workdir: Path, identity: dict[str, Any], steps_per_epoch: int
) -> tuple[Rows, dict[str, Any], dict[int, Checkpoint]]:
    """What the folder holds of the run: its rows, its `run.json`, and the checkpoint of each seed. Nothing is changed,
    but for a damaged `metrics.jsonl`, which is mended from the checkpoints. Process 0 reads for all, and alone has the
    checkpoints' arrays."""
    read: dict[int, Checkpoint] = {}

    def found() -> Any:
        rows, previous, latest = _read_run(config, workdir, identity, steps_per_epoch)
        read.update(latest)
        return (
            rows,
            previous,
            [(seed, f"{each.file}", each.step, each.metadata) for seed, each in latest.items()],
        )

    rows, previous, latest = processes.broadcast_from_first(found)
    return (
        rows,
        previous,
        read or {s: Checkpoint(Path(file), step, about, {}) for s, file, step, about in latest},
    )


def _read_run(
    config: Config, workdir: Path, identity: dict[str, Any], steps_per_epoch: int
) -> tuple[Rows, dict[str, Any], dict[int, Checkpoint]]:
    """As `open_run`, in process 0."""
    config_file = workdir / "config.json"
    if not is_run(workdir) and (
        others := [name for name in folder.NAMES if (workdir / name).exists()]
    ):
        raise UsageError(
            f"{workdir} is not a run folder, but holds {others[0]}, which training would replace. "
            "Choose another --workdir."
        )
    try:
        previous = folder.read_metadata(workdir) if (workdir / "run.json").exists() else {}
        if config_file.exists():
            old = from_file(config_file)
            sha256 = previous.get("dataset_sha256", identity["dataset_sha256"])
            init_sha256 = (
                previous.get("init_sha256", "") if previous else identity.get("init_sha256", "")
            )
            before = provenance.identity(old, sha256, init_sha256)
            provenance.assert_same_identity(workdir, before, identity)
        rows, damaged = folder.read_rows(workdir)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RunError(f"the run in {workdir} is damaged ({error}). {folder.START_OVER}") from error
    latest: dict[int, Checkpoint] = {}
    for path in sorted(workdir.glob("checkpoints/seed*")):
        if checkpoint := checkpoints.latest(path):
            provenance.assert_same_identity(workdir, checkpoint.metadata["identity"], identity)
            newer = [
                s for s in checkpoint.seeds if s not in latest or latest[s].step < checkpoint.step
            ]
            latest |= dict.fromkeys(newer, checkpoint)
    # A row whose checkpoint was never written is trained again, to the same bits.
    saved = [
        row for seed, each in latest.items() for row in each.metadata["rows"] if row["seed"] == seed
    ]
    mended = damaged or any(row not in rows for row in saved)
    rows = sorted(
        saved + [row for row in rows if row["seed"] not in latest],
        key=lambda row: (row["seed"], row["epoch"]),
    )
    if mended:
        print_error(f"{workdir / 'metrics.jsonl'} was damaged; it is mended from the checkpoints")
        folder.write_rows(workdir, rows)
    for seed in config.seed_list:
        done = max([row["epoch"] + 1 for row in rows if row["seed"] == seed], default=0)
        if seed in latest:
            done = -(-latest[seed].step // steps_per_epoch)
        if done > config.epochs:
            raise UsageError(
                f"{workdir} holds seed {seed} in epoch {done}, beyond the {config.epochs} requested. "
                f"Pass --epochs {done} to keep that run. {folder.START_OVER}"
            )
    return rows, previous, latest


def is_finished(workdir: Path, rows: Rows, seed: int, epochs: int) -> bool:
    """Return True if a seed has all its epochs, and whole predictions and weights after the last one."""
    trained = [row["epoch"] for row in rows if row["seed"] == seed]
    try:
        predicted = int(folder.read_predictions(folder.predictions_file(workdir, seed))["epoch"])
        array_files.read(weights_file(workdir, seed))
    except (OSError, ValueError, RunError):
        return False
    return trained == list(range(epochs)) and predicted == epochs - 1


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other commands out of the run folder, which is made if need be. The system frees it after a kill."""
    lock = FileLock(workdir / ".lock", timeout=0)

    def acquire() -> None:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            groups = workdir.glob("checkpoints/seed*")
            remove_stale_temporaries(
                (workdir, workdir / "predictions", workdir / "weights", *groups)
            )
        except Timeout as error:
            what = f"another process is training into {workdir}; wait for it, or choose another --workdir"
            raise RunError(what) from error
        except OSError as error:
            what = (
                f"the workdir {workdir} cannot be used: {error.strerror}; choose another --workdir"
            )
            raise CannotWrite(what) from error

    processes.broadcast_from_first(acquire)
    try:
        yield
    finally:
        lock.release()


def archive_run(workdir: Path) -> None:
    """Rename a run folder to `NAME.old_1`, or the next number that is free, so that its run can start over.

    Nothing is deleted. A folder that is missing or holds only the lock stays as it is.

    Raises:
        UsageError: it is not a run folder.
        RunError: another process is training into it, or it cannot be renamed.
    """
    if not workdir.exists() or all(path.name == ".lock" for path in workdir.iterdir()):
        return
    if not is_run(workdir):
        raise UsageError(
            f"{workdir} is not a run folder, so --restart does not rename it. Choose another --workdir."
        )
    with locked(workdir):
        number, whole = 1, workdir.absolute()
        while (aside := whole.with_name(f"{whole.name}.old_{number}")).exists():
            number += 1
        try:
            workdir.rename(aside)
        except OSError as error:
            raise RunError(
                f"{workdir} cannot be renamed to {aside.name} ({error.strerror})"
            ) from error
    print_error(f"{workdir} is now {aside}")


def is_run(folder: Path) -> bool:
    """Return True if a folder holds a file that only jaxdrill writes: a checkpoint, or `config.json` with a recipe."""
    if any(folder.glob("checkpoints/seed*/step_*.safetensors")):
        return True
    try:
        return bool(from_file(folder / "config.json"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, UsageError):
        return False
