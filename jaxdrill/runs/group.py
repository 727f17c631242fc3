"""A group of seeds trained together: its progress on the screen, and everything that it leaves in the run folder."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxdrill.config.config import Config
from jaxdrill.data import Dataset
from jaxdrill.errors import RunError, say, shows_progress
from jaxdrill.nn.network import named_weights
from jaxdrill.runs import checkpoints, events, folder
from jaxdrill.runs.checkpoints import Checkpoint, Checkpoints
from jaxdrill.runs.epochs import as_line, as_rows
from jaxdrill.runs.folder import Rows
from jaxdrill.runs.stopping import StopRequest
from jaxdrill.training import processes
from jaxdrill.training.fit import EpochResult, NonFiniteLossError, fit
from jaxdrill.training.program import Program
from jaxdrill.training.step import Progress, evaluated_weights
from jaxdrill.weights import Weights, write_weights

STEPS_APART = 16  # steps between the questions of several processes whether one is to stop


@dataclass
class Session:
    """What all groups of seeds of a run share."""

    config: Config  # with the dataset's own name and split
    dataset: Dataset
    workdir: Path
    identity: dict[str, Any]  # see `provenance.identity`
    rows: Rows  # of `metrics.jsonl`, by seed and epoch
    latest: dict[int, Checkpoint]  # by seed
    metadata: dict[str, Any]  # `run.json`
    stop: StopRequest
    initial: Weights | None = None  # that every seed starts from; random ones without


class _Bar(tqdm):
    """tqdm's bar without the thread that watches all bars of the process, and would stay."""

    monitor_interval = 0


class Group:
    """Neighbouring seeds that are trained together, from their checkpoint, if any."""

    def __init__(self, run: Session, program: Program, seeds: list[int]) -> None:
        self.run, self.program, self.seeds = run, program, seeds
        label = f"seed_{seeds[0]}" if len(seeds) == 1 else f"seeds_{seeds[0]}_to_{seeds[-1]}"
        self.name = f"{run.config.data} {label.replace('_', ' ')}"
        self.source = run.latest.get(seeds[0])
        self.step = self.source.step if self.source else 0
        self.earlier_seconds = (
            self.source.metadata["epoch_seconds"] if self.source else 0.0
        )  # of the epoch that was cut
        self.saver = Checkpoints(run.workdir / "checkpoints" / label)
        mesh = program.mesh
        kind = mesh.devices.flat[0].device_kind
        self.layout = (
            f"{mesh.shape['seeds']} x {mesh.shape['batch']} {kind}"  # seeds, and shards of a batch
        )

    def train(self) -> None:
        """Trains to the last epoch; after each, the rows are written first, then the checkpoint, and after the last one
        the predictions and weights. Process 0 alone writes.

        Raises:
            RunError: a loss is not finite, or the checkpoint is of another network.
            Stopped: a signal came; the progress is saved.
        """
        try:
            self._train()
        except NonFiniteLossError as error:
            kept = (
                f"{self.saver.folder} keeps the state before"
                if self.saver.folder.is_dir()
                else "nothing was saved"
            )
            how = "begin again with a smaller --optimizer.learning-rate and --restart, which sets this folder aside"
            raise RunError(f"{error}; {kept}; {how}") from error

    def _train(self) -> None:
        run, steps, total = self.run, self.program.steps_per_epoch, self.run.config.epochs
        progress = self._restored(self.source) if self.source else None
        done, result = self.step // steps, None
        run.rows[:] = [
            row for row in run.rows if row["seed"] not in self.seeds or row["epoch"] < done
        ]
        if 0 < self.step < total * steps:
            say(f"{self.name}: continuing in epoch {done + 1} of {total}, at step {self.step}")
        hidden = not shows_progress()
        self.bar = _Bar(
            total=total * steps, initial=self.step, disable=hidden, leave=False, unit="step"
        )
        self.bar.set_description(f"{self.name} epoch {done + 1} of {total}", refresh=False)
        first = processes.is_first()
        opened = (
            events.opened(run.workdir / "tensorboard", self.seeds, self.step)
            if first
            else nullcontext()
        )
        with self.bar, opened as scalars:
            for result in fit(self.program, self.seeds, progress, self._watch):
                self._end_epoch(result, scalars)
        if result:
            self._write_last(result.progress, result.logits, result.epoch)
        elif progress:  # all epochs were there, and only what is written of the last one is missing
            self._write_last(progress, self.program.evaluate(progress.state)[1], done - 1)

    def _restored(self, source: Checkpoint) -> Progress:
        """The progress of the group's seeds in a checkpoint, which process 0 has read."""
        if (before := source.metadata.get("layout", self.layout)) != self.layout:
            changed = f"{self.name}: The devices changed from {before} to {self.layout}."
            say(
                f"{changed} Results are statistically equivalent to those of one layout, not identical."
            )
        like = self.program.template
        own = checkpoints.select(source, like, self.seeds) if processes.is_first() else None
        return processes.to_devices(processes.broadcast_arrays(own, like), self.program.sharding)

    def _watch(self, progress: Progress, step: int, losses: np.ndarray, seconds: float) -> None:
        """After each launch: the progress bar, and a stop if one was asked for."""
        bar, steps = self.bar, self.program.steps_per_epoch
        if not bar.disable:
            epoch = f"epoch {(step - 1) // steps + 1} of {self.run.config.epochs}"
            bar.set_description(f"{self.name} {epoch}", refresh=False)
            shown = {"loss": f"{losses.mean():.4f}"}
            if processes.count() == 1:  # of several, each has its own seeds' sums
                correct, count = (
                    np.asarray(progress.totals.correct).sum(),
                    np.asarray(progress.totals.count).sum(),
                )
                shown["accuracy"] = f"{100 * correct / count:.2f} %"
            bar.set_postfix(shown, refresh=False)
        bar.update(step - bar.n)
        if step % steps == 0 or (processes.count() > 1 and step % STEPS_APART):
            return  # at the end of an epoch its rows come first
        if self.run.stop:
            self._save(progress, step, self.earlier_seconds + seconds)
            self.run.metadata["seconds"]["train"] += seconds
            self._check_stop(step)

    def _end_epoch(self, result: EpochResult, scalars: events.Events | None) -> None:
        """Keeps and prints what an epoch gave."""
        run, rows = (
            self.run,
            as_rows(self.seeds, result, self.run.dataset.split, self.earlier_seconds),
        )
        for row in rows:
            if not all(np.isfinite(value) for value in row.values()):
                raise NonFiniteLossError(
                    f"the {run.dataset.split} loss of seed {row['seed']} is not finite after epoch "
                    f"{result.epoch + 1}, learning rate {result.learning_rate:g}"
                )
        run.rows[:] = sorted([*run.rows, *rows], key=lambda row: (row["seed"], row["epoch"]))
        if scalars:
            folder.write_rows(run.workdir, run.rows)
        run.metadata["seconds"]["train"] += result.train_seconds
        run.metadata["seconds"]["evaluation"] += result.test_seconds
        last = result.epoch + 1 == run.config.epochs
        due = processes.broadcast_from_first(self.saver.due)
        if run.stop or last or due:
            self._save(result.progress, result.step, 0.0)
        images = len(self.seeds) * len(run.dataset.train_labels)
        if scalars:
            scalars.write(rows, images / (self.earlier_seconds + result.train_seconds))
        self.earlier_seconds = 0.0
        with self.bar.external_write_mode():
            say(as_line(self.name, rows, run.config.epochs, run.dataset.split))
        if not last:
            self._check_stop(result.step)

    def _save(self, progress: Progress, step: int, epoch_seconds: float) -> None:
        rows = [row for row in self.run.rows if row["seed"] in self.seeds]
        metadata = {
            "seeds": self.seeds,
            "identity": self.run.identity,
            "rows": rows,
            "epoch_seconds": epoch_seconds,
            "layout": self.layout,
        }
        arrays = checkpoints.named(processes.to_host(progress))
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise NonFiniteLossError(f"{name} is not finite after step {step} of {self.name}")
        if processes.is_first():
            self.saver.save(step, arrays, metadata)

    def _check_stop(self, step: int) -> None:
        where = (
            f"the state is saved in {self.run.workdir}, and the same command continues from there"
        )
        self.run.stop.check(f"stopped at step {step} of {self.name}; {where}")

    def _write_last(self, progress: Progress, logits: np.ndarray, epoch: int) -> None:
        """Write the predictions and weights of each seed after the epoch that the progress ends."""
        run = self.run
        train = processes.to_host(self.program.evaluate_training(progress.state))
        weights = processes.to_host(named_weights(*evaluated_weights(progress.state)))
        if not processes.is_first():
            return
        about = {
            key: run.metadata[key]
            for key in ("dataset", "dataset_sha256", "versions", "git_commit")
        }
        about["preparation"] = run.dataset.preparation.as_table()
        for n, seed in enumerate(self.seeds):
            own = {name: array[n] for name, array in weights.items()}
            write_weights(
                folder.weights_file(run.workdir, seed),
                own,
                run.config,
                about | {"seed": seed, "epochs": epoch + 1},
            )
            correct = int(train.correct[n]), int(train.count[n])
            folder.write_predictions(
                run.workdir, seed, epoch, run.dataset.test_labels, logits[n], correct
            )
