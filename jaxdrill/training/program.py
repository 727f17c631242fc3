"""A recipe compiled for a dataset, a number of seeds, and a mesh of devices."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdrill.data import Dataset
from jaxdrill.errors import UsageError
from jaxdrill.nn import network
from jaxdrill.recipe import Config
from jaxdrill.training import devices, metrics
from jaxdrill.training.metrics import Sums
from jaxdrill.training.optimizer import make_optimizer, make_schedule
from jaxdrill.training.random import Stream, root_key, stream
from jaxdrill.training.step import (
    Progress,
    TrainState,
    make_evaluation_step,
    make_launch,
    make_state,
    make_train_step,
)

EVALUATION_BATCH = 1000

Launch = tuple[int, int]  # how many steps are done at once, on batches of how many images


class Program:
    """Everything that a group of seeds runs, compiled.

    Everything that a seed has, its root key (key[S]) to begin with, has the seeds as its first axis.
    """

    def __init__(self, config: Config, dataset: Dataset, num_seeds: int = 1, mesh: Mesh | None = None) -> None:
        """Puts the dataset on the devices and compiles; `mesh` is that of `devices.make_mesh` if none is given.

        Raises:
            UsageError: the network does not fit the images, or a batch is larger than the data.
        """
        count, size = len(dataset.train_labels), config.batch_size
        if size > count:
            raise UsageError(f"batch_size is {size}; allowed: at most {count}, the training images of {dataset.name}")
        began = time.perf_counter()
        self.config, self.mesh = config, mesh or devices.make_mesh(num_seeds, size)
        self.platform = self.mesh.devices.flat[0].platform
        self.seeds_per_device = num_seeds // self.mesh.shape["seeds"]
        self.execution = devices.resolve(config.execution, self.platform, self.seeds_per_device)
        self.full_batches, self.rest = divmod(count, size)  # the rest is a batch too
        self.steps_per_epoch = self.full_batches + (self.rest > 0)
        self.schedule = make_schedule(
            config.schedule, config.optimizer.learning_rate, self.steps_per_epoch, config.epochs
        )
        self.optimizer = make_optimizer(config.optimizer, self.schedule)
        self.graph = network.make_graph(config.network, self.execution.convolution)
        self.sharding, replicated = NamedSharding(self.mesh, P("seeds")), NamedSharding(self.mesh, P())
        self._train_data = jax.device_put((dataset.train_images, dataset.train_labels), replicated)
        test, self._test_count = test_batches(dataset, self.mesh.shape["batch"]), len(dataset.test_labels)
        self._test_data = jax.device_put(test, NamedSharding(self.mesh, P(None, "batch")))
        self._test_batches = jax.device_put(list(np.arange(len(test[0]), dtype=np.int32)), replicated)
        self._zero = jax.tree.map(lambda a: np.broadcast_to(a, (num_seeds,)), metrics.zero())

        keys = self.root_keys(range(num_seeds))
        self.template: Progress = self._abstract(jax.eval_shape(jax.vmap(self._start), keys))
        orders = self._abstract(np.zeros((num_seeds, count), np.int32))
        self._arguments = self.template, self._train_data, orders, keys  # of every launch
        with self._numerics():
            by_seed = partial(jax.jit, out_shardings=self.sharding)
            lowered: dict[Any, Any] = {
                "start": by_seed(jax.vmap(self._start)).lower(keys),
                "shuffle": by_seed(jax.vmap(self._shuffle, (0, None))).lower(keys, np.int32(0)),
                "evaluate": self._evaluation(),
            } | {launch: self._launch(*launch) for launch in set(self.launches(0))}
        with ThreadPoolExecutor(2) as pool:  # more would not be faster, and each takes 200 MB
            self.compiled = dict(zip(lowered, pool.map(self._compile, lowered.values()), strict=True))
        self.compile_seconds = time.perf_counter() - began

    def root_keys(self, seeds: Sequence[int]) -> jax.Array:
        """The key of each seed, key[S], on its device; there must be as many seeds as the program was made for."""
        return jax.device_put(jnp.stack([root_key(seed) for seed in seeds]), self.sharding)

    def start(self, keys: jax.Array) -> Progress:
        """Before the first step."""
        return self.compiled["start"](keys)

    def shuffle(self, keys: jax.Array, epoch: int) -> jax.Array:
        """Each seed's order of the training images in an epoch, int32[S, N]."""
        return self.compiled["shuffle"](keys, np.int32(epoch))

    def launches(self, step: int) -> Iterator[Launch]:
        """What is launched from a step of the epoch to its end."""
        most = self.full_batches if self.execution.epoch == "scan" else 1
        while step < self.full_batches:
            steps = min(most, self.full_batches - step)
            yield steps, self.config.batch_size
            step += steps
        if self.rest:
            yield 1, self.rest

    def train(
        self, progress: Progress, orders: jax.Array, keys: jax.Array, launch: Launch
    ) -> tuple[Progress, np.ndarray]:
        """The progress after a launch, and each seed's mean loss in it, float32[S]. The progress given is used up.

        It waits for the result, as `evaluate` does for each batch: CPU devices that queue programs with sums over
        devices can deadlock in them.
        """
        if launch not in self.compiled:  # the first one after a stop within an epoch that is scanned
            with self._numerics():
                self.compiled[launch] = self._compile(self._launch(*launch))
        progress, losses = jax.block_until_ready(self.compiled[launch](progress, self._train_data, orders, keys))
        return progress, np.asarray(losses)

    def evaluate(self, state: TrainState) -> tuple[Sums, np.ndarray]:
        """The sums of each seed over every test image, each counted once, and the images' logits, float32[S, N, 10]."""
        totals, logits = jax.device_put(self._zero, self.sharding), []
        for batch in self._test_batches:
            totals, new = jax.block_until_ready(self.compiled["evaluate"](state, totals, self._test_data, batch))
            logits.append(np.asarray(new))
        return totals, np.concatenate(logits, axis=1)[:, : self._test_count]

    def reset(self, progress: Progress) -> Progress:
        """The progress at the beginning of an epoch."""
        return replace(progress, totals=jax.device_put(self._zero, self.sharding))

    def _numerics(self) -> ExitStack:
        """What decides bits and the environment could set otherwise, while programs are traced."""
        stack = ExitStack()
        stack.enter_context(jax.default_matmul_precision(self.execution.matmul_precision))
        stack.enter_context(jax.threefry_partitionable(True))
        return stack

    def _compile(self, lowered: Any) -> Any:
        return lowered.compile(compiler_options=devices.compiler_options(self.platform))

    def _abstract(self, tree: Any) -> Any:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self.sharding), tree)

    def _start(self, key: jax.Array) -> Progress:
        return Progress(make_state(self.config, self.optimizer, key), metrics.zero())

    def _shuffle(self, key: jax.Array, epoch: jax.Array) -> jax.Array:
        return jax.random.permutation(stream(key, Stream.SHUFFLE, epoch), len(self._train_data[1])).astype(jnp.int32)

    def _axis(self, images: int) -> str | None:
        """The mesh axis that shards a batch: the devices of a seed share it if they can evenly, and there are several;
        otherwise each does all of it."""
        shards = self.mesh.shape["batch"]
        return "batch" if shards > 1 and images % shards == 0 else None

    def _for_seeds(self, function: Callable[..., Any], by_seed: Sequence[bool], specs: Sequence[P]) -> Any:
        vectorize = self.platform != "cpu" or self.execution.epoch == "scan"
        return devices.shard_over_mesh(function, self.mesh, specs, by_seed, self.seeds_per_device, vectorize)

    def _evaluation(self) -> Any:
        step = make_evaluation_step(self.graph, self._axis(self._test_data[0].shape[1]))
        specs = P("seeds"), P("seeds"), P(None, "batch"), P()
        on_mesh = self._for_seeds(step, (True, True, False, False), specs)
        arguments = self.template.state, self._abstract(self._zero), self._test_data, self._test_batches[0]
        return jax.jit(on_mesh, out_shardings=self.sharding).lower(*arguments)

    def _launch(self, num_steps: int, images: int) -> Any:
        axis = self._axis(images)
        train_step = make_train_step(self.config, self.graph, self.optimizer, axis)
        shard = images // self.mesh.shape["batch"] if axis else images
        launch = make_launch(train_step, num_steps, self.steps_per_epoch, self.config.batch_size, shard, axis)
        on_mesh = self._for_seeds(launch, (True, False, True, True), (P("seeds"), P(), P("seeds"), P("seeds")))
        return jax.jit(on_mesh, out_shardings=self.sharding, donate_argnums=0).lower(*self._arguments)


def test_batches(dataset: Dataset, num_shards: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test images, labels and validity in equal batches; the padding of the last one is not valid."""
    count = len(dataset.test_labels)
    size = -(-min(EVALUATION_BATCH, count) // num_shards) * num_shards
    indices = np.arange(-(-count // size) * size).reshape(-1, size)
    padded = np.minimum(indices, count - 1)
    return dataset.test_images[padded], dataset.test_labels[padded], indices < count
