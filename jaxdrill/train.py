"""The training step, the epoch, the evaluation, and `fit`, which yields one result an epoch."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdrill import augment, metrics, models, optim, parallel
from jaxdrill.config import Config
from jaxdrill.data import Dataset
from jaxdrill.errors import RunError, UsageError
from jaxdrill.metrics import Sums

EVALUATION_BATCH = 1000
CHUNK = 8  # steps

TrainData = tuple[jax.Array, jax.Array]  # images uint8[N, 28, 28, 1], labels uint8[N]

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
    """A run at any step: what a checkpoint holds. Every array of a group of seeds has the seeds as its first axis."""

    state: TrainState
    totals: Sums  # of the current epoch's training batches so far


@dataclass(frozen=True)
class EpochResult:
    """One epoch of a group of seeds; `train` is summed over the steps, each before its update, as in the notebooks."""

    epoch: int  # from 0
    step: int  # optimiser steps done
    progress: Progress  # after the epoch
    learning_rate: float
    train: Sums  # of each seed
    test: Sums
    logits: np.ndarray  # of the test images, float32[S, N, 10]
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


def make_train_step(
    config: Config, graph: Any, optimizer: optax.GradientTransformationExtraArgs, axis: str | None = None
) -> TrainStep:
    """The one training step of one seed, to be jit-compiled. `axis` names the mesh axis that shares the batch."""

    def train_step(state: TrainState, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[TrainState, Sums]:
        """Images uint8[B, 28, 28, 1], labels int32[B], both one device's share of the batch, and the run's root key.
        The sums are those of the whole batch, before the update."""
        shares, share = (lax.psum(1, axis), lax.axis_index(axis)) if axis else (1, 0)
        places = share * labels.size + jnp.arange(labels.size)  # in the whole batch

        def keys(which: Stream) -> jax.Array:  # an image's random numbers do not depend on how the batch is shared
            return jax.vmap(jax.random.fold_in, (None, 0))(stream(key, which, state.step), places)

        rotation = config.augmentation
        if rotation.rotation_degrees:
            images = augment.random_rotation(
                keys(Stream.AUGMENT), images, rotation.rotation_degrees, rotation.rotation_fill
            )
        x = augment.normalize(images)

        def loss(params: Any) -> tuple[jax.Array, tuple[Sums, Any]]:
            logits, batch_stats = models.apply(
                graph, params, state.batch_stats, x, train=True, keys=keys(Stream.DROPOUT), axis=axis
            )
            sums = metrics.sums(logits, labels)
            return sums.loss / (shares * labels.size), (sums, batch_stats)

        gradient, (sums, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
        gradient, sums = parallel.all_sum((gradient, sums), axis)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state), sums

    return train_step


class Program:
    """A recipe compiled for a dataset, a number of seeds trained together, and the devices at hand.

    Everything that a seed has, its root key (key[S]) to begin with, has the seeds as its first axis.
    """

    def __init__(self, config: Config, dataset: Dataset, seeds: int = 1) -> None:
        """Puts the dataset on the devices and compiles everything that a run needs.

        Raises:
            UsageError: the network does not fit the images, or a batch is larger than the data.
        """
        models.layer_table(config)
        count, size = len(dataset.train_labels), config.batch_size
        if size > count:
            raise UsageError(f"batch_size is {size}; {dataset.name} has only {count} training images")
        began = time.perf_counter()
        self.config, self.execution = config, parallel.resolve(config.execution, seeds)
        self.full_batches, self.rest = divmod(count, size)  # the rest is a batch too
        self.steps_per_epoch = self.full_batches + (self.rest > 0)
        self.schedule = optim.make_schedule(config.schedule, config.optimizer.learning_rate, self.steps_per_epoch)
        self.optimizer = optim.make_optimizer(config.optimizer, self.schedule)
        self.graph = models.make_graph(config, self.execution.convolution)
        self.mesh = parallel.make_mesh(seeds, size)
        self.sharding, everywhere = NamedSharding(self.mesh, P("seeds")), NamedSharding(self.mesh, P())
        self._train_data = jax.device_put((dataset.train_images, dataset.train_labels), everywhere)
        test, self._test_count = _test_batches(dataset, self.mesh.size), len(dataset.test_labels)
        self._test_data = jax.device_put(test, NamedSharding(self.mesh, P(None, "batch")))
        self._test_batches = jax.device_put(list(np.arange(len(test[0]), dtype=np.int32)), everywhere)
        zero = jax.tree.map(lambda a: jnp.broadcast_to(a, (seeds,)), metrics.zero())
        self._zero = jax.device_put(zero, self.sharding)

        keys = self.root_keys(range(seeds))
        like = partial(jax.tree.map, lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self.sharding))
        progress = like(jax.eval_shape(jax.vmap(self._start), keys))
        orders = like(np.zeros((seeds, count), np.int32))
        self._abstract = progress, self._train_data, orders, keys
        by_seed = partial(jax.jit, out_shardings=self.sharding)
        evaluation = parallel.over_devices(
            make_evaluation_step(self.graph), self.mesh, P("seeds"), P("seeds"), P(None, "batch"), P()
        )
        lowered: dict[Any, Any] = {
            "start": by_seed(jax.vmap(self._start)).lower(keys),
            "shuffle": by_seed(jax.vmap(self._shuffle, (0, None))).lower(keys, np.int32(0)),
            "evaluate": by_seed(evaluation).lower(progress.state, self._zero, self._test_data, self._test_batches[0]),
        } | {call: self._lower(*call) for call in set(self.calls(0))}
        with ThreadPoolExecutor(2) as pool:  # more would not be faster, and each takes 200 MB
            self._compiled = dict(zip(lowered, pool.map(parallel.compile_lowered, lowered.values()), strict=True))
        self.compile_seconds = time.perf_counter() - began

    def root_keys(self, seeds: Sequence[int]) -> jax.Array:
        """The key of each seed, key[S], on its device; there must be as many seeds as the program was made for."""
        return jax.device_put(jnp.stack([jax.random.key(seed) for seed in seeds]), self.sharding)

    def start(self, keys: jax.Array) -> Progress:
        """Before the first step."""
        return self._compiled["start"](keys)

    def shuffle(self, keys: jax.Array, epoch: int) -> jax.Array:
        """Each seed's order of the training images in an epoch, int32[S, N]."""
        return self._compiled["shuffle"](keys, np.int32(epoch))

    def calls(self, step: int) -> Iterator[tuple[int, int]]:
        """From a step of the epoch to its end: how many steps are done at once, on batches of how many images."""
        while step < self.full_batches:
            most = {"steps": 1, "chunks": CHUNK, "scan": self.full_batches}[self.execution.epoch]
            steps = min(most, self.full_batches - step)
            yield steps, self.config.batch_size
            step += steps
        if self.rest:
            yield 1, self.rest

    def train(
        self, progress: Progress, orders: jax.Array, keys: jax.Array, call: tuple[int, int]
    ) -> tuple[Progress, np.ndarray]:
        """The progress after the next call of `calls`, and each seed's mean loss in it, float32[S].

        It waits for the result, as `evaluate` does for each batch: CPU devices that queue programs with sums over
        devices can deadlock in them.
        """
        if call not in self._compiled:  # the first one after a stop within a chunk
            self._compiled[call] = parallel.compile_lowered(self._lower(*call))
        progress, losses = jax.block_until_ready(self._compiled[call](progress, self._train_data, orders, keys))
        return progress, np.asarray(losses)

    def evaluate(self, state: TrainState) -> tuple[Sums, np.ndarray]:
        """The sums of each seed over every test image, each counted once, and the images' logits, float32[S, N, 10]."""
        totals, logits = self._zero, []
        for batch in self._test_batches:
            totals, new = jax.block_until_ready(self._compiled["evaluate"](state, totals, self._test_data, batch))
            logits.append(np.asarray(new))
        return totals, np.concatenate(logits, axis=1)[:, : self._test_count]

    def reset(self, progress: Progress) -> Progress:
        """The progress at the beginning of an epoch."""
        return replace(progress, totals=self._zero)

    def _start(self, key: jax.Array) -> Progress:
        params, batch_stats = models.init(self.config, stream(key, Stream.INIT))
        return Progress(TrainState(jnp.int32(0), params, batch_stats, self.optimizer.init(params)), metrics.zero())

    def _shuffle(self, key: jax.Array, epoch: jax.Array) -> jax.Array:
        images = len(self._train_data[1])
        return jax.random.permutation(stream(key, Stream.SHUFFLE, epoch), images).astype(jnp.int32)

    def _lower(self, steps: int, images: int) -> Any:
        """Several steps on batches of so many images. The devices of a seed share each batch if they can evenly;
        otherwise each does all of it."""
        axis = "batch" if images % self.mesh.shape["batch"] == 0 else None
        train_step = make_train_step(self.config, self.graph, self.optimizer, axis)
        shares = self.mesh.shape["batch"] if axis else 1
        step = make_batch_step(train_step, self.steps_per_epoch, self.config.batch_size, images // shares, axis)

        def call(progress: Progress, data: TrainData, order: jax.Array, key: jax.Array) -> tuple[Progress, jax.Array]:
            def one(progress: Progress, _: None) -> tuple[Progress, jax.Array]:
                return step(progress, data, order, key)

            if self.execution.epoch == "scan":
                progress, losses = lax.scan(one, progress, length=steps)
                return progress, losses.mean()
            losses = []
            for _ in range(steps):  # even a scan of one step is a loop, in which CPU's convolutions are slow
                progress, loss = one(progress, None)
                losses.append(loss)
            return progress, jnp.stack(losses).mean()

        on_devices = parallel.over_devices(call, self.mesh, P("seeds"), P(), P("seeds"), P("seeds"))
        return jax.jit(on_devices, out_shardings=self.sharding).lower(*self._abstract)


def make_batch_step(
    train_step: TrainStep, steps_per_epoch: int, batch_size: int, share: int, axis: str | None
) -> Callable[..., tuple[Progress, jax.Array]]:
    """A training step that takes its own batch, or the device's share of it, from the data on the devices."""

    def batch_step(progress: Progress, data: TrainData, order: jax.Array, key: jax.Array) -> tuple[Progress, jax.Array]:
        first = progress.state.step % steps_per_epoch * batch_size
        first = first + lax.axis_index(axis) * share if axis else first
        indices = lax.dynamic_slice(order, (first,), (share,))
        images, labels = data[0][indices], data[1][indices].astype(jnp.int32)
        state, sums = train_step(progress.state, images, labels, key)
        return Progress(state, progress.totals + sums), sums.loss / sums.count.astype(jnp.float32)

    return batch_step


def _test_batches(dataset: Dataset, devices: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test images, labels and validity in equal batches; the padding of the last one is not valid."""
    count = len(dataset.test_labels)
    size = -(-min(EVALUATION_BATCH, count) // devices) * devices
    indices = np.arange(-(-count // size) * size).reshape(-1, size)
    padded = np.minimum(indices, count - 1)
    return dataset.test_images[padded], dataset.test_labels[padded], indices < count


def make_evaluation_step(graph: Any) -> Callable[..., tuple[Sums, jax.Array]]:
    """Adds one batch of the test images to the totals, and gives its logits. It returns no state."""

    def evaluation_step(state: TrainState, totals: Sums, test: Any, batch: jax.Array) -> tuple[Sums, jax.Array]:
        images, labels, valid = jax.tree.map(lambda a: a[batch], test)
        logits, _ = models.apply(graph, state.params, state.batch_stats, augment.normalize(images), train=False)
        totals = totals + parallel.all_sum(metrics.sums(logits, labels.astype(jnp.int32), valid), "batch")
        return totals, lax.all_gather(logits, "batch", tiled=True)

    return evaluation_step


def fit(
    program: Program,
    seeds: Sequence[int],
    progress: Progress | None = None,
    watch: Callable[[Progress, int, np.ndarray], None] = lambda progress, step, losses: None,
) -> Iterator[EpochResult]:
    """Trains seeds together to the recipe's last epoch, from the start or from any progress, with the same bits.

    `watch` is called after each call of `Program.calls` with the progress, the steps done and each seed's mean loss;
    what it raises ends the run.

    Raises:
        RunError: a loss is not finite.
    """
    keys = program.root_keys(seeds)
    current = program.start(keys) if progress is None else progress
    done, steps_per_epoch = int(current.state.step[0]), program.steps_per_epoch
    for epoch in range(done // steps_per_epoch, program.config.epochs):
        began = time.perf_counter()
        learning_rate = float(str(np.asarray(program.schedule(done))))  # 0.01, not 0.009999999776
        orders = program.shuffle(keys, epoch)
        for call in program.calls(done % steps_per_epoch):
            current, losses = program.train(current, orders, keys, call)
            done += call[0]
            if not np.isfinite(losses).all():
                bad = int(np.argmin(np.isfinite(losses)))
                raise RunError(
                    f"the loss of seed {seeds[bad]} is {losses[bad]} by step {done - 1} (epoch {epoch}), "
                    f"learning rate {learning_rate:g}; try a smaller --optimizer.learning-rate"
                )
            watch(current, done, losses)
        trained = time.perf_counter()
        train, current = current.totals, program.reset(current)
        test, logits = program.evaluate(current.state)
        ended = time.perf_counter()
        seconds = trained - began, ended - trained
        yield EpochResult(epoch, done, current, learning_rate, train, test, logits, *seconds)
