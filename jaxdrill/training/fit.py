"""The training loop. `fit` yields one result per epoch."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxdrill.data import Dataset
from jaxdrill.errors import RunError
from jaxdrill.nn.network import from_named_weights
from jaxdrill.training import processes
from jaxdrill.training.metrics import Metrics
from jaxdrill.training.step import EvaluationBatch, TrainState
from jaxdrill.training.trainer import Trainer, root_keys

TRAINING_SUBSET = 10_000  # training images that are evaluated after the last epoch


class NonFiniteLossError(RunError):
    """Raised when a loss is NaN or infinite."""


Watch = Callable[[TrainState, int, np.ndarray, float], None]


@dataclass(frozen=True)
class EpochResult:
    """The results of one epoch of a group of seeds."""

    epoch: int  # from 0
    step: int  # training steps done
    state: TrainState  # after the epoch, on the devices; the next step overwrites it
    learning_rate: float  # of the epoch's first step
    train: Metrics  # per seed, summed over the steps, each before its update, as in the notebooks
    test: Metrics  # per seed
    logits: np.ndarray  # of the test images, float32[S, N, 10]
    train_seconds: float  # since the epoch began or was resumed
    test_seconds: float


def fit(
    trainer: Trainer,
    dataset: Dataset,
    seeds: Sequence[int],
    state: TrainState | None = None,
    *,
    initial: Mapping[str, Any] | None = None,
    watch: Watch = lambda state, step, losses, seconds: None,
) -> Iterator[EpochResult]:
    """Train seeds together to the recipe's last epoch.

    Training that is resumed at any step gives the same bits.

    Args:
        trainer: the compiled functions.
        dataset: with the sizes that the trainer was made for.
        seeds: `trainer.num_seeds` seeds.
        state: to resume from; None to start.
        initial: weights to start from, as `network.named_weights`; None for random ones.
        watch: called with the state, the steps done, each seed's mean loss float32[S], and the
            training seconds since the epoch began or was resumed. Its exceptions end the training.

    Raises:
        NonFiniteLossError: a loss is NaN or infinite.
    """
    keys = processes.to_devices(root_keys(seeds), trainer.by_seed)
    current = _start(trainer, keys, initial) if state is None else state
    data = dataset.train_images, dataset.train_labels
    data = processes.to_devices(data, trainer.replicated)
    test = evaluation_batches(trainer, dataset.test_images, dataset.test_labels)
    step, steps_per_epoch = int(processes.to_host(current.step)[0]), trainer.steps_per_epoch
    for epoch in range(step // steps_per_epoch, trainer.config.epochs):
        began = time.perf_counter()
        # Through str, 0.01 is not printed as float32's 0.009999999776.
        learning_rate = float(str(np.asarray(trainer.schedule(epoch * steps_per_epoch))))
        orders = trainer.shuffle(keys, processes.to_devices(np.int32(epoch), trainer.replicated))
        while step < (epoch + 1) * steps_per_epoch:
            function, num_steps = trainer.next_function(step)
            current, losses = function(current, data, orders, keys)
            losses, step = np.asarray(losses), step + num_steps
            when = f"by step {step - 1} (epoch {epoch + 1}), learning rate {learning_rate:g}"
            check_finite(seeds, losses, when)
            trainer.compile_rest()  # not earlier: it would delay the first step
            watch(current, step, losses, time.perf_counter() - began)
        trained = time.perf_counter()
        metrics, logits = evaluate(trainer, current, test)
        logits = logits[:, : len(dataset.test_labels)]
        seconds = trained - began, time.perf_counter() - trained
        train = processes.to_host(current.metrics)
        yield EpochResult(epoch, step, current, learning_rate, train, metrics, logits, *seconds)


def check_finite(seeds: Sequence[int], losses: np.ndarray, when: str) -> None:
    """Raise a NonFiniteLossError if a seed's loss, float32[S], is NaN or infinite."""
    for seed, loss in zip(seeds, losses, strict=True):
        if not np.isfinite(loss):
            raise NonFiniteLossError(f"the loss of seed {seed} is {loss} {when}")


def _start(trainer: Trainer, keys: jax.Array, initial: Mapping[str, Any] | None) -> TrainState:
    """Return the state before the first step, with the initial weights if they are given."""
    state = trainer.init(keys)
    if not initial:
        return state

    def for_all_seeds(a: np.ndarray) -> np.ndarray:
        return np.broadcast_to(a, (len(keys), *a.shape))

    weights = jax.tree.map(for_all_seeds, from_named_weights(initial))
    params, batch_stats = processes.to_devices(weights, trainer.by_seed)
    average = state.average and processes.to_devices(weights, trainer.by_seed)
    return replace(state, params=params, batch_stats=batch_stats, average=average)


def evaluation_batches(
    trainer: Trainer, images: np.ndarray, labels: np.ndarray
) -> list[EvaluationBatch]:
    """Split images into batches of `trainer.evaluation_size` on the devices. The last is padded."""
    size, count, batches = trainer.evaluation_size, len(labels), []
    for first in range(0, count, size):
        indices = np.arange(first, first + size)
        padded, valid = np.minimum(indices, count - 1), indices < count
        batch = images[padded], labels[padded], valid
        batches.append(processes.to_devices(batch, trainer.by_batch))
    return batches


def evaluate(
    trainer: Trainer, state: TrainState, batches: Sequence[EvaluationBatch]
) -> tuple[Metrics, np.ndarray]:
    """Evaluate every image once.

    Returns:
        The metrics of each seed, and the logits with those of the padding, float32[S, N, 10].
    """
    totals, logits = processes.to_devices(trainer.zero, trainer.by_seed), []
    for batch in batches:
        totals, new = trainer.evaluate(state, totals, batch)
        logits.append(processes.to_host(new))
    return processes.to_host(totals), np.concatenate(logits, axis=1)


def training_subset(count: int) -> np.ndarray:
    """Return the indices, int64[N], of the training images that `evaluate_training` uses."""
    return np.linspace(0, count - 1, min(count, TRAINING_SUBSET)).round().astype(np.int64)


def evaluate_training(trainer: Trainer, state: TrainState, dataset: Dataset) -> Metrics:
    """Evaluate training images without dropout and augmentation, each once.

    Returns:
        The metrics of each seed over all training images, or TRAINING_SUBSET evenly spaced ones
        (evenly spaced, because a user's files may be sorted by class).
    """
    subset = training_subset(len(dataset.train_labels))
    images, labels = dataset.train_images[subset], dataset.train_labels[subset]
    return evaluate(trainer, state, evaluation_batches(trainer, images, labels))[0]
