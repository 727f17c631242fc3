"""A group of seeds that are trained together: its progress bar, and what it writes."""

import statistics
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
from jaxdrill.runs import checkpoints, folder
from jaxdrill.runs.checkpoints import Checkpoint, Checkpoints
from jaxdrill.runs.folder import Rows
from jaxdrill.runs.progress import StopRequest, WriteEpoch, open_events
from jaxdrill.training import fit, processes
from jaxdrill.training.fit import EpochResult, NonFiniteLossError
from jaxdrill.training.step import TrainState
from jaxdrill.training.trainer import Trainer
from jaxdrill.weights import Weights, weights_file, write_weights

STOP_INTERVAL = 16  # steps after which several processes ask each other for stop requests


@dataclass
class TrainingRun:
    """A run that is being trained: what all its groups of seeds share."""

    config: Config  # with the dataset's own name and split
    dataset: Dataset
    workdir: Path
    identity: dict[str, Any]  # see `provenance.identity`
    rows: Rows  # of metrics.jsonl, by seed and epoch
    latest: dict[int, Checkpoint]  # by seed
    metadata: dict[str, Any]  # of run.json
    stop: StopRequest
    initial: Weights | None = None  # weights that every seed starts from; None for random ones


class _Bar(tqdm):
    """A progress bar without tqdm's monitoring thread, which would remain."""

    monitor_interval = 0


class SeedGroup:
    """Consecutive seeds that are trained together, from their checkpoint if there is one."""

    def __init__(self, run: TrainingRun, trainer: Trainer, seeds: list[int]) -> None:
        self.run, self.trainer, self.seeds = run, trainer, seeds
        label = f"seed_{seeds[0]}" if len(seeds) == 1 else f"seeds_{seeds[0]}_to_{seeds[-1]}"
        self.name = f"{run.config.data} {label.replace('_', ' ')}"
        self.checkpoint = run.latest.get(seeds[0])
        self.step, self.earlier_seconds = 0, 0.0  # seconds of the epoch that is resumed
        if self.checkpoint:
            self.step = self.checkpoint.step
            self.earlier_seconds = self.checkpoint.metadata["epoch_seconds"]
        self.saver = Checkpoints(run.workdir / "checkpoints" / label)
        mesh = trainer.mesh
        kind = mesh.devices.flat[0].device_kind
        self.layout = f"{mesh.shape['seeds']} x {mesh.shape['batch']} {kind}"

    def train(self) -> None:
        """Train to the last epoch, and write the predictions and weights after it.

        After each epoch the rows are written first, then the checkpoint. Only process 0 writes.

        Raises:
            RunError: a loss is NaN or infinite, or the checkpoint belongs to another network.
            Stopped: a signal was received. The state is saved.
        """
        try:
            self._train()
        except NonFiniteLossError as error:
            kept = "nothing was saved"
            if self.saver.folder.is_dir():
                kept = f"{self.saver.folder} contains the state before"
            fix = "Start over with a smaller --optimizer.learning-rate and --restart"
            raise RunError(f"{error}; {kept}. {fix}, which archives this run.") from error

    def _train(self) -> None:
        run, trainer = self.run, self.trainer
        state = self._restore(self.checkpoint) if self.checkpoint else None
        steps, epochs = trainer.steps_per_epoch, run.config.epochs
        done, result = self.step // steps, None
        run.rows[:] = [r for r in run.rows if r["seed"] not in self.seeds or r["epoch"] < done]
        if 0 < self.step < epochs * steps:
            say(f"{self.name}: resuming in epoch {done + 1} of {epochs}, at step {self.step}")
        self.bar = _Bar(
            total=epochs * steps,
            initial=self.step,
            disable=not shows_progress(),
            leave=False,
            unit="step",
        )
        self.bar.set_description(f"{self.name} epoch {done + 1} of {epochs}", refresh=False)
        opened = nullcontext()
        if processes.is_first():
            opened = open_events(run.workdir / "tensorboard", self.seeds, self.step)
        with self.bar, opened as scalars:
            for result in fit.fit(
                trainer, run.dataset, self.seeds, state, initial=run.initial, watch=self._watch
            ):
                self._end_epoch(result, scalars)
        if result:
            self._write_last(result.state, result.logits, result.epoch)
        elif state:  # All epochs were trained; only the files of the last one are missing.
            test = run.dataset.test_images, run.dataset.test_labels
            batches = fit.evaluation_batches(trainer, *test)
            self._write_last(state, fit.evaluate(trainer, state, batches)[1], done - 1)

    def _restore(self, source: Checkpoint) -> TrainState:
        """Put the state from a checkpoint on the devices. Process 0 has read the checkpoint."""
        before = source.metadata.get("layout", self.layout)
        if before != self.layout:
            say(
                f"{self.name}: The devices changed from {before} to {self.layout}. Results are "
                "equal in distribution to those of one layout, but not bit-identical."
            )
        like = self.trainer.template
        own = checkpoints.select(source, like, self.seeds) if processes.is_first() else None
        return processes.to_devices(processes.broadcast_arrays(own, like), self.trainer.by_seed)

    def _watch(self, state: TrainState, step: int, losses: np.ndarray, seconds: float) -> None:
        """Update the progress bar, and stop if a signal was received."""
        steps = self.trainer.steps_per_epoch
        if not self.bar.disable:
            epoch = f"epoch {(step - 1) // steps + 1} of {self.run.config.epochs}"
            self.bar.set_description(f"{self.name} {epoch}", refresh=False)
            shown = {"loss": f"{losses.mean():.4f}"}
            if processes.count() == 1:  # Otherwise each process has only its own seeds' metrics.
                correct = np.asarray(state.metrics.correct).sum()
                count = np.asarray(state.metrics.count).sum()
                shown["accuracy"] = f"{100 * correct / count:.2f} %"
            self.bar.set_postfix(shown, refresh=False)
        self.bar.update(step - self.bar.n)
        if step % steps == 0 or (processes.count() > 1 and step % STOP_INTERVAL):
            return  # After an epoch, _end_epoch writes the rows before it handles a stop request.
        if self.run.stop.requested():
            self._save(state, step, self.earlier_seconds + seconds)
            self.run.metadata["seconds"]["train"] += seconds
            self._check_stop(step)

    def _end_epoch(self, result: EpochResult, scalars: WriteEpoch | None) -> None:
        """Write and print the results of an epoch."""
        run, split = self.run, self.run.dataset.split
        rows = metric_rows(self.seeds, result, split, self.earlier_seconds)
        for row in rows:
            if not all(np.isfinite(value) for value in row.values()):
                raise NonFiniteLossError(
                    f"the {split} loss of seed {row['seed']} is not finite after epoch "
                    f"{result.epoch + 1}, learning rate {result.learning_rate:g}"
                )
        run.rows[:] = sorted([*run.rows, *rows], key=lambda row: (row["seed"], row["epoch"]))
        if scalars:
            folder.write_rows(run.workdir, run.rows)
        run.metadata["seconds"]["train"] += result.train_seconds
        run.metadata["seconds"]["evaluation"] += result.test_seconds
        last = result.epoch + 1 == run.config.epochs
        due = processes.broadcast_from_first(self.saver.due)
        if run.stop.requested() or last or due:
            self._save(result.state, result.step, 0.0)
        if scalars:
            images = len(self.seeds) * len(run.dataset.train_labels)
            scalars(rows, images / (self.earlier_seconds + result.train_seconds))
        self.earlier_seconds = 0.0
        with self.bar.external_write_mode():
            say(epoch_line(self.name, rows, run.config.epochs, split))
        if not last:
            self._check_stop(result.step)

    def _save(self, state: TrainState, step: int, epoch_seconds: float) -> None:
        """Write a checkpoint. `epoch_seconds` is the time spent in the unfinished epoch."""
        metadata = {
            "seeds": self.seeds,
            "identity": self.run.identity,
            "rows": [row for row in self.run.rows if row["seed"] in self.seeds],
            "epoch_seconds": epoch_seconds,
            "layout": self.layout,
        }
        arrays = checkpoints.named(processes.to_host(state))
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise NonFiniteLossError(f"{name} is not finite after step {step} of {self.name}")
        if processes.is_first():
            self.saver.save(step, arrays, metadata)

    def _check_stop(self, step: int) -> None:
        saved = f"The state is saved in {self.run.workdir}. Rerun the command to resume."
        self.run.stop.check(f"stopped at step {step} of {self.name}. {saved}")

    def _write_last(self, state: TrainState, logits: np.ndarray, epoch: int) -> None:
        """Write the predictions and weights of each seed after its last epoch."""
        run = self.run
        train = fit.evaluate_training(self.trainer, state, run.dataset)
        weights = processes.to_host(named_weights(*state.evaluated_weights))
        if not processes.is_first():
            return
        keys = "dataset", "dataset_sha256", "versions", "git_commit"
        about = {key: run.metadata[key] for key in keys}
        about["preparation"] = run.dataset.preparation.as_table()
        for n, seed in enumerate(self.seeds):
            own = {name: array[n] for name, array in weights.items()}
            file, metadata = weights_file(run.workdir, seed), {"seed": seed}
            write_weights(file, own, run.config, about | metadata | {"epochs": epoch + 1})
            correct = int(train.correct[n]), int(train.count[n])
            folder.write_predictions(
                run.workdir, seed, epoch, run.dataset.test_labels, logits[n], correct
            )


def metric_rows(seeds: list[int], result: EpochResult, split: str, earlier_seconds: float) -> Rows:
    """Return an epoch's rows of metrics.jsonl, one per seed.

    Accuracies are in 0..1, losses in nats. The seconds of the group are divided by its seeds.
    """
    train, test = result.train, result.test
    seconds = earlier_seconds + result.train_seconds + result.test_seconds
    return [
        {
            "seed": seed,
            "epoch": result.epoch,
            "step": result.step,
            "learning_rate": result.learning_rate,
            "train_loss": float(train.loss[n]) / int(train.count[n]),
            "train_accuracy": int(train.correct[n]) / int(train.count[n]),
            f"{split}_loss": float(test.loss[n]) / int(test.count[n]),
            f"{split}_accuracy": int(test.correct[n]) / int(test.count[n]),
            f"{split}_examples": int(test.count[n]),
            "seconds": round(seconds / len(seeds), 3),
        }
        for n, seed in enumerate(seeds)
    ]


def epoch_line(name: str, rows: Rows, epochs: int, split: str) -> str:
    """Return the line that is printed after an epoch: means over the seeds, with their sd."""
    mean = {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
    sd = ""
    if len(rows) > 1:
        sd = f" ± {100 * statistics.stdev(row[f'{split}_accuracy'] for row in rows):.2f}"
    return (
        f"{name} epoch {rows[0]['epoch'] + 1:2d} of {epochs}  "
        f"train loss {mean['train_loss']:.4f}  train {100 * mean['train_accuracy']:5.2f} %  "
        f"{split} {100 * mean[f'{split}_accuracy']:5.2f}{sd} %  "
        f"{split} loss {mean[f'{split}_loss']:.4f}  {mean['seconds'] * len(rows):.1f} s"
    )
