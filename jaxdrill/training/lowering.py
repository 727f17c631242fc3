"""What a group of seeds runs, lowered for a mesh of devices that need not be at hand."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdrill.config.config import Config
from jaxdrill.data import Dataset
from jaxdrill.errors import UsageError
from jaxdrill.nn import network
from jaxdrill.training import devices, metrics
from jaxdrill.training.optimizer import make_optimizer, make_schedule
from jaxdrill.training.random import Stream, root_key, stream
from jaxdrill.training.step import (
    Progress,
    make_evaluation_step,
    make_launch,
    make_state,
    make_train_step,
)

EVALUATION_BATCH = 1000
TRAINING_SUBSET = 10_000  # training images that are evaluated after the last epoch

Launch = tuple[int, int]  # how many steps are done at once, on batches of how many images


class Lowering:
    """The functions of a group of seeds with the shapes of their arguments, for a recipe, a dataset's sizes and a mesh.

    Everything that a seed has, its root key (key[S]) to begin with, has the seeds as its first axis.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        num_seeds: int,
        mesh: Mesh,
        platform: str | None = None,
    ) -> None:
        """`platform` is that of the mesh's devices if none is given.

        Raises:
            UsageError: the network does not fit the images, or a batch is larger than the data.
        """
        count, size = len(dataset.train_labels), config.batch_size
        if size > count:
            raise UsageError(
                f"batch_size is {size}; allowed: at most {count}, the training images of {dataset.name}"
            )
        self.config, self.mesh = config, mesh
        self.platform = platform or mesh.devices.flat[0].platform
        self.seeds_per_device = num_seeds // mesh.shape["seeds"]
        self.execution = devices.resolve(config.execution, self.platform, self.seeds_per_device)
        self.full_batches, self.rest = divmod(count, size)  # the rest is a batch too
        self.steps_per_epoch = self.full_batches + (self.rest > 0)
        self.schedule = make_schedule(
            config.schedule, config.optimizer.learning_rate, self.steps_per_epoch, config.epochs
        )
        self.optimizer = make_optimizer(config.optimizer, self.schedule)
        self.graph = network.make_graph(config.network, self.execution.convolution)
        self.sharding, self.replicated = NamedSharding(mesh, P("seeds")), NamedSharding(mesh, P())
        self.over_batch = NamedSharding(mesh, P(None, "batch"))
        # Losses are looked at after each launch, by each process.
        alone = len({device.process_index for device in mesh.devices.flat}) == 1
        self._losses = self.sharding if alone else self.replicated

        self.keys = abstract(jax.eval_shape(lambda: root_keys(range(num_seeds))), self.sharding)
        self.zero = jax.tree.map(lambda a: np.broadcast_to(a, (num_seeds,)), metrics.zero())
        self._vmapped_start = jax.vmap(self._start)  # one object, so that JAX traces it once
        with numerics(self.execution.matmul_precision):
            start = self.function("start")[0]
            self.template: Progress = abstract(jax.eval_shape(start, self.keys), self.sharding)
        self.train_data = abstract((dataset.train_images, dataset.train_labels), self.replicated)
        self.test_data = abstract(test_batches(dataset, mesh.shape["batch"]), self.over_batch)

    def names(self) -> list[Any]:
        """Of all functions: `start`, `shuffle`, `evaluate`, and each launch of an epoch."""
        return ["start", "shuffle", "evaluate", *dict.fromkeys(self.launches(0))]

    def lower(self, name: Any) -> Any:
        """The function of that name, lowered for the mesh's devices."""
        function, arguments = self.function(name)
        with numerics(self.execution.matmul_precision):
            return function.lower(*arguments)

    def function(self, name: Any) -> tuple[Any, tuple[Any, ...]]:
        """The jitted function of that name, and the shapes of its arguments."""
        by_seed = partial(jax.jit, out_shardings=self.sharding)
        index = jax.ShapeDtypeStruct((), np.int32, sharding=self.replicated)
        if name == "start":
            return by_seed(self._vmapped_start), (self.keys,)
        if name == "shuffle":
            return by_seed(jax.vmap(self._shuffle, (0, None))), (self.keys, index)
        if name == "evaluate":
            return by_seed(self._evaluation()), (
                self.template.state,
                abstract(self.zero, self.sharding),
                self.test_data,
                index,
            )
        orders = jax.ShapeDtypeStruct(
            (*self.keys.shape, len(self.train_data[1])), np.int32, sharding=self.sharding
        )
        jitted = jax.jit(
            self._launch(*name), out_shardings=(self.sharding, self._losses), donate_argnums=0
        )
        return jitted, (self.template, self.train_data, orders, self.keys)

    def launches(self, step: int) -> Iterator[Launch]:
        """What is launched from a step of the epoch to its end."""
        most = self.full_batches if self.execution.epoch == "scan" else 1
        while step < self.full_batches:
            steps = min(most, self.full_batches - step)
            yield steps, self.config.batch_size
            step += steps
        if self.rest:
            yield 1, self.rest

    def _start(self, key: jax.Array) -> Progress:
        return Progress(make_state(self.config, self.optimizer, key), metrics.zero())

    def _shuffle(self, key: jax.Array, epoch: jax.Array) -> jax.Array:
        return jax.random.permutation(
            stream(key, Stream.SHUFFLE, epoch), len(self.train_data[1])
        ).astype(np.int32)

    def _axis(self, images: int) -> str | None:
        """The mesh axis that shards a batch: the devices of a seed share it if they can evenly, and there are several;
        otherwise each does all of it."""
        shards = self.mesh.shape["batch"]
        return "batch" if shards > 1 and images % shards == 0 else None

    def _for_seeds(
        self, function: Callable[..., Any], by_seed: Sequence[bool], specs: Sequence[P]
    ) -> Any:
        vectorize = self.platform != "cpu" or self.execution.epoch == "scan"
        return devices.shard_over_mesh(
            function, self.mesh, specs, by_seed, self.seeds_per_device, vectorize
        )

    def _evaluation(self) -> Any:
        step = make_evaluation_step(self.graph, self._axis(self.test_data[0].shape[1]))
        return self._for_seeds(
            step, (True, True, False, False), (P("seeds"), P("seeds"), P(None, "batch"), P())
        )

    def _launch(self, num_steps: int, images: int) -> Any:
        axis = self._axis(images)
        train_step = make_train_step(self.config, self.graph, self.optimizer, axis)
        shard = images // self.mesh.shape["batch"] if axis else images
        launch = make_launch(
            train_step, num_steps, self.steps_per_epoch, self.config.batch_size, shard, axis
        )
        return self._for_seeds(
            launch, (True, False, True, True), (P("seeds"), P(), P("seeds"), P("seeds"))
        )


def root_keys(seeds: Sequence[int]) -> jax.Array:
    """The root key of each seed, key[S]."""
    return jax.vmap(root_key)(jnp.array(seeds, jnp.uint32))


def numerics(precision: str) -> ExitStack:
    """What decides bits and the environment could set otherwise, while programs are traced."""
    stack = ExitStack()
    stack.enter_context(jax.default_matmul_precision(precision))
    stack.enter_context(jax.threefry_partitionable(True))
    return stack


def abstract(tree: Any, sharding: NamedSharding) -> Any:
    """The shapes and dtypes of arrays, and where they are to be."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)


def training_subset(count: int) -> np.ndarray:
    """Return the indices of the training images that are evaluated, int64[N]: all, or evenly spaced ones.

    Evenly spaced, because files of a user's own may be sorted by class.
    """
    return np.linspace(0, count - 1, min(count, TRAINING_SUBSET)).round().astype(np.int64)


def test_batches(dataset: Dataset, num_shards: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test images, labels and validity in equal batches; the padding of the last one is not valid."""
    count = len(dataset.test_labels)
    size = -(-min(EVALUATION_BATCH, count) // num_shards) * num_shards
    indices = np.arange(-(-count // size) * size).reshape(-1, size)
    padded = np.minimum(indices, count - 1)
    return dataset.test_images[padded], dataset.test_labels[padded], indices < count
