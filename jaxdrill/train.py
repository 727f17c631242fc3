"""The training step, the epoch, the evaluation, and `fit`, which yields one result an epoch."""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdrill import augment, metrics, models, optim
from jaxdrill.config import Config
from jaxdrill.data import Dataset
from jaxdrill.errors import RunError, UsageError
from jaxdrill.metrics import Sums
from jaxdrill.parallel import make_mesh

EVALUATION_BATCH = 1000

TrainStep = Callable[["TrainState", jax.Array, jax.Array, jax.Array], tuple["TrainState", Sums]]


@struct.dataclass
class TrainState:
    """All that a step changes."""

    step: jax.Array  # int32[], optimiser steps done
    params: Any  # float32 arrays
    batch_stats: Any  # float32 arrays, running mean and variance of each batch norm
    opt_state: optax.OptState  # momentum buffers or moments, and the schedule's count


@struct.dataclass
class Progress:
    """A run of one seed at any step: what a checkpoint holds."""

    state: TrainState
    totals: Sums  # of the current epoch's training batches so far


@dataclass(frozen=True)
class EpochResult:
    """One epoch of one seed; `train` is summed over the steps, each measured before its update, as in the notebooks."""

    epoch: int  # from 0
    progress: Progress  # after the epoch
    learning_rate: float
    train: Sums
    test: Sums
    train_seconds: float
    test_seconds: float


class Stream(IntEnum):
    """What a run's root key serves; no two uses share random numbers."""

    INIT = 0
    SHUFFLE = 1
    AUGMENT = 2
    DROPOUT = 3


def stream(key: jax.Array, which: Stream, index: jax.Array | int = 0) -> jax.Array:
    """The key of the index-th use of a stream; a function of the root key alone, so resuming needs no random state."""
    return jax.random.fold_in(key, index * len(Stream) + which)


def make_train_step(config: Config, graph: Any, optimizer: optax.GradientTransformationExtraArgs) -> TrainStep:
    """The one training step, to be jit-compiled."""

    def train_step(state: TrainState, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[TrainState, Sums]:
        """Images uint8[B, 28, 28, 1], labels int32[B], the run's root key. The sums are those before the update."""
        rotation = config.augmentation
        if rotation.rotation_degrees:
            augment_key = stream(key, Stream.AUGMENT, state.step)
            images = augment.random_rotation(augment_key, images, rotation.rotation_degrees, rotation.rotation_fill)
        x = augment.normalize(images)
        dropout_key = stream(key, Stream.DROPOUT, state.step)

        def loss(params: Any) -> tuple[jax.Array, tuple[Sums, Any]]:
            logits, batch_stats = models.apply(graph, params, state.batch_stats, x, train=True, key=dropout_key)
            sums = metrics.sums(logits, labels)
            return sums.loss / labels.size, (sums, batch_stats)

        gradient, (sums, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state), sums

    return train_step


@dataclass(frozen=True)
class Program:
    """A recipe compiled for a dataset and the devices at hand; every seed runs the same one."""

    config: Config
    steps_per_epoch: int
    sharding: NamedSharding  # of all but the batches: a copy on each device
    schedule: optax.Schedule
    start: Callable[[jax.Array], Progress]  # root key -> before the first step
    shuffle: Callable[..., jax.Array]  # root key, epoch -> order of the images, int32[N]
    train_batch: Callable[[Progress, jax.Array, jax.Array, int], tuple[Progress, jax.Array]]  # ..., order, key, batch
    evaluate: Callable[[TrainState], Sums]
    compile_seconds: float


def compile_program(config: Config, dataset: Dataset) -> Program:
    """Puts the dataset on the devices and compiles everything that a run needs.

    Raises:
        UsageError: the network does not fit the images, or a batch is larger than the data.
    """
    models.layer_table(config)
    count, size = len(dataset.train_labels), config.batch_size
    if size > count:
        raise UsageError(f"batch_size is {size}; {dataset.name} has only {count} training images")
    began = time.perf_counter()
    mesh = make_mesh(size)
    sharding = NamedSharding(mesh, PartitionSpec())
    steps_per_epoch = -(-count // size)
    last = count - (steps_per_epoch - 1) * size  # images in the last batch
    schedule = optim.make_schedule(config.schedule, config.optimizer.learning_rate, steps_per_epoch)
    optimizer = optim.make_optimizer(config.optimizer, schedule)
    graph = models.make_graph(config)

    def start(key: jax.Array) -> Progress:
        params, batch_stats = models.init(config, stream(key, Stream.INIT))
        return Progress(TrainState(jnp.int32(0), params, batch_stats, optimizer.init(params)), metrics.zero())

    def shuffle(key: jax.Array, epoch: jax.Array) -> jax.Array:
        return jax.random.permutation(stream(key, Stream.SHUFFLE, epoch), count).astype(jnp.int32)

    train_step = make_train_step(config, graph, optimizer)
    train = jax.device_put((dataset.train_images, dataset.train_labels), sharding)
    test, batches = _test_batches(dataset, mesh)
    key = jax.device_put(jax.random.key(0), sharding)
    replicated = partial(jax.jit, out_shardings=sharding)
    like = partial(jax.tree.map, lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding))
    progress, order, epoch = like(jax.eval_shape(start, key)), like(np.zeros(count, np.int32)), np.int32(0)
    step = replicated(make_batch_step(train_step, size, steps_per_epoch, mesh), static_argnums=4)
    lowered = [
        replicated(start).lower(key),
        replicated(shuffle).lower(key, epoch),
        replicated(make_evaluation_step(graph)).lower(progress.state, progress.totals, test, like(epoch)),
        *(step.lower(progress, train, order, key, images) for images in dict.fromkeys((last, size))),
    ]
    with ThreadPoolExecutor() as pool:
        start, shuffle, evaluation_step, *steps = pool.map(lambda program: program.compile(), lowered)

    def train_batch(progress: Progress, order: jax.Array, key: jax.Array, batch: int) -> tuple[Progress, jax.Array]:
        return steps[0 if batch == steps_per_epoch - 1 else -1](progress, train, order, key)

    zero, *numbers = jax.device_put((metrics.zero(), *np.arange(batches, dtype=np.int32)), sharding)

    def evaluate(state: TrainState) -> Sums:
        return reduce(lambda totals, number: evaluation_step(state, totals, test, number), numbers, zero)

    seconds = time.perf_counter() - began
    return Program(config, steps_per_epoch, sharding, schedule, start, shuffle, train_batch, evaluate, seconds)


def make_batch_step(train_step: TrainStep, size: int, steps_per_epoch: int, mesh: Mesh) -> Callable[..., Any]:
    """A training step that takes its own batch from the dataset on the devices, which share it if they can evenly."""

    def batch_step(
        progress: Progress, train: Any, order: jax.Array, key: jax.Array, images_in_batch: int
    ) -> tuple[Progress, jax.Array]:
        even = images_in_batch % mesh.size == 0
        shared = NamedSharding(mesh, PartitionSpec("batch") if even else PartitionSpec())
        first = progress.state.step % steps_per_epoch * size
        indices = jax.lax.dynamic_slice(order, (first,), (images_in_batch,))
        images, labels = jax.lax.with_sharding_constraint(jax.tree.map(lambda a: a[indices], train), shared)
        state, sums = train_step(progress.state, images, labels.astype(jnp.int32), key)
        return Progress(state, progress.totals + sums), sums.loss / images_in_batch

    return batch_step


def _test_batches(dataset: Dataset, mesh: Mesh) -> tuple[Any, int]:
    """Test images, labels and validity in equal batches, and their number; the padding of the last one is not valid."""
    count = len(dataset.test_labels)
    size = -(-min(EVALUATION_BATCH, count) // mesh.size) * mesh.size
    batches = -(-count // size)
    indices = np.arange(batches * size).reshape(batches, size)
    padded = np.minimum(indices, count - 1)
    test = dataset.test_images[padded], dataset.test_labels[padded], indices < count
    return jax.device_put(test, NamedSharding(mesh, PartitionSpec(None, "batch"))), batches


def make_evaluation_step(graph: Any) -> Callable[..., Sums]:
    """Adds one batch of the test images to the totals. It returns no state."""

    def evaluation_step(state: TrainState, totals: Sums, test: Any, batch: jax.Array) -> Sums:
        images, labels, valid = jax.tree.map(lambda a: a[batch], test)
        logits, _ = models.apply(graph, state.params, state.batch_stats, augment.normalize(images), train=False)
        return totals + metrics.sums(logits, labels.astype(jnp.int32), valid)

    return evaluation_step


def fit(
    program: Program,
    seed: int,
    progress: Progress | None = None,
    watch: Callable[[Progress, float], None] = lambda progress, loss: None,
) -> Iterator[EpochResult]:
    """Trains one seed to the recipe's last epoch, from the start or from any progress, with the same bits.

    `watch` is called after every step with the progress and the step's mean loss; what it raises ends the run.

    Raises:
        RunError: the loss is not finite.
    """
    key = jax.device_put(jax.random.key(seed), program.sharding)
    current = program.start(key) if progress is None else progress
    for epoch in range(int(current.state.step) // program.steps_per_epoch, program.config.epochs):
        began = time.perf_counter()
        learning_rate = float(str(np.asarray(program.schedule(current.state.step))))  # 0.01, not 0.009999999776
        order = program.shuffle(key, np.int32(epoch))
        for batch in range(int(current.state.step) % program.steps_per_epoch, program.steps_per_epoch):
            current, batch_loss = program.train_batch(current, order, key, batch)
            loss = float(batch_loss)
            if not math.isfinite(loss):
                raise RunError(
                    f"the loss of seed {seed} is {loss} at step {int(current.state.step) - 1} (epoch {epoch}), "
                    f"learning rate {learning_rate:g}; try a smaller --optimizer.learning-rate"
                )
            watch(current, loss)
        trained = time.perf_counter()
        train, current = current.totals, replace(current, totals=jax.device_put(metrics.zero(), program.sharding))
        test = jax.block_until_ready(program.evaluate(current.state))
        ended = time.perf_counter()
        yield EpochResult(epoch, current, learning_rate, train, test, trained - began, ended - trained)
