"""Continuing a run: what its folder holds, whether it is the same run, and the lock that keeps others out."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jaxdrill.config import from_table
from jaxdrill.errors import RunError, UsageError, print_error
from jaxdrill.recipe import Config
from jaxdrill.runs import checkpoints, folder, provenance
from jaxdrill.runs.checkpoints import Checkpoint
from jaxdrill.runs.folder import Rows


def open_run(
    config: Config, workdir: Path, identity: dict[str, Any], steps_per_epoch: int
) -> tuple[Rows, dict[str, Any], dict[int, Checkpoint]]:
    """What the folder holds of the run: its rows, its `run.json`, and the checkpoint of each seed. Nothing is changed,
    but for a damaged `metrics.jsonl`, which is mended from the checkpoints."""
    config_file, run_file = workdir / "config.json", workdir / "run.json"
    try:
        previous = json.loads(run_file.read_text(encoding="utf-8")) if run_file.exists() else {}
        if previous and previous.get("format") != folder.FORMAT:
            raise UsageError(
                f"{workdir} holds a run of another version of jaxdrill (its format is {previous.get('format', 1)}, now "
                f"it is {folder.FORMAT}); choose another --workdir, or continue it with that version"
            )
        if config_file.exists():
            table = json.loads(config_file.read_text(encoding="utf-8"))
            old = from_table(table.pop("name"), table, f"{config_file}: ")
            sha256 = previous.get("dataset_sha256", identity["dataset_sha256"])
            init_sha256 = previous.get("init_sha256", "") if previous else identity.get("init_sha256", "")
            before = provenance.identity(old, sha256, init_sha256)
            provenance.assert_same_identity(workdir, before, identity)
        rows, damaged = folder.read_rows(workdir)
    except (ValueError, KeyError, AttributeError) as error:
        raise RunError(f"the run in {workdir} is damaged ({error}); choose another --workdir") from error
    latest: dict[int, Checkpoint] = {}
    for path in sorted(workdir.glob("checkpoints/seed*")):
        if checkpoint := checkpoints.latest(path):
            provenance.assert_same_identity(workdir, checkpoint.metadata["identity"], identity)
            newer = [s for s in checkpoint.seeds if s not in latest or latest[s].step < checkpoint.step]
            latest |= dict.fromkeys(newer, checkpoint)
    # A row whose checkpoint was never written is trained again, to the same bits.
    saved = [row for seed, each in latest.items() for row in each.metadata["rows"] if row["seed"] == seed]
    mended = damaged or any(row not in rows for row in saved)
    rows = sorted(
        saved + [row for row in rows if row["seed"] not in latest], key=lambda row: (row["seed"], row["epoch"])
    )
    if mended:
        print_error(f"{workdir / 'metrics.jsonl'} was damaged; it is mended from the checkpoints")
        folder.write_rows(workdir, rows)
    for seed in range(config.seed, config.seed + config.seeds):
        done = max([row["epoch"] + 1 for row in rows if row["seed"] == seed], default=0)
        if seed in latest:
            done = -(-latest[seed].step // steps_per_epoch)
        if done > config.epochs:
            raise UsageError(
                f"{workdir} holds seed {seed} in epoch {done}, beyond the {config.epochs} asked; "
                f"ask for --epochs {done}, or choose another --workdir"
            )
    return rows, previous, latest


def is_finished(workdir: Path, rows: Rows, seed: int, epochs: int) -> bool:
    """Whether a seed has all its epochs, and the predictions and weights after the last one."""
    trained = [row["epoch"] for row in rows if row["seed"] == seed]
    try:
        predicted = int(folder.read_arrays(folder.predictions_file(workdir, seed))["epoch"])
    except (ValueError, KeyError):
        return False
    complete = trained == list(range(epochs)) and predicted == epochs - 1
    return complete and folder.weights_file(workdir, seed).exists()


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other processes out of the run folder, which is made if need be. The system frees it after a kill."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(workdir / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"another process is training into {workdir}; wait for it, or choose another --workdir"
        ) from error
    except OSError as error:
        raise RunError(f"the workdir {workdir} cannot be used: {error.strerror}; choose another --workdir") from error
    try:
        yield
    finally:
        lock.release()
