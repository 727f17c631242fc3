"""The functions that train a group of seeds, compiled for a device mesh."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdrill.config.config import Config
from jaxdrill.data import Dataset
from jaxdrill.nn import network
from jaxdrill.training import devices, metrics, processes
from jaxdrill.training.optimizer import make_optimizer, make_schedule
from jaxdrill.training.random import Stream, root_key, stream
from jaxdrill.training.step import (
    TrainState,
    init_state,
    make_batch_step,
    make_evaluation_step,
    make_train_step,
)

EVALUATION_BATCH = 1000  # images


class Function:
    """A jitted function with the shapes of its arguments. It is compiled once."""

    def __init__(self, jitted: Any, arguments: tuple[Any, ...], precision: str) -> None:
        self.jitted, self.arguments, self.precision = jitted, arguments, precision
        self._lock = threading.Lock()

        self._compiled: Any = None

    def compile(self) -> Any:
        """Return the compiled function. Threads may call this at the same time."""
        with self._lock:
            if self._compiled is None:
                with devices.numerics(self.precision):
                    self._compiled = self.jitted.lower(*self.arguments).compile()
        return self._compiled

    def __call__(self, *arguments: Any) -> Any:
        """Compile the function if necessary, call it, and wait for its result.

        Several programs with all-reduces in the queue of a CPU device can deadlock.
        """
        return jax.block_until_ready(self.compile()(*arguments))


class Trainer:
    """The functions of a group of seeds, for the sizes of a dataset and a mesh of devices.

    The mesh may consist of absent devices, to compile for them. All arrays of a seed, such as its
    root key, have the seeds as first axis.

    Attributes:
        init: keys -> TrainState before the first step.
        shuffle: keys, epoch int32[] -> order of the training images, int32[S, N].
        step: state, data, orders, keys -> state and mean loss float32[S] after one full batch.
        epoch: as `step`, after all full batches of an epoch; None if `execution.epoch` is `steps`.
        rest: as `step`, for the last, smaller batch of an epoch; None if all are full.
        evaluate: state, totals, batch (images, labels, validity) -> Metrics of the totals with the
            batch, and its logits, float32[S, B, 10].
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        num_seeds: int = 1,
        mesh: Mesh | None = None,
        platform: str | None = None,
    ) -> None:
        """Describe the functions. Nothing is compiled yet.

        Args:
            config: the recipe.
            dataset: only its sizes are used.
            num_seeds: seeds that are trained together.
            mesh: with the axes `seeds` and `batch`; `devices.make_mesh` by default.
            platform: of the mesh's devices, if they stand for other ones.
        """
        self.config, self.num_seeds = config, num_seeds
        self.mesh = mesh or devices.make_mesh(num_seeds, config.batch_size)
        self.seeds_per_device = num_seeds // self.mesh.shape["seeds"]
        platform = platform or str(self.mesh.devices.flat[0].platform)
        self.execution = devices.resolve(config.execution, platform)
        self.full_batches, self.rest_size = divmod(len(dataset.train_labels), config.batch_size)
        self.steps_per_epoch = self.full_batches + (self.rest_size > 0)
        self.schedule = make_schedule(
            config.schedule, config.optimizer.learning_rate, self.steps_per_epoch, config.epochs
        )
        self.optimizer = make_optimizer(config.optimizer, self.schedule)
        self.graph = network.make_graph(config.network, self.execution.convolution)
        self.by_seed = NamedSharding(self.mesh, P("seeds"))
        self.by_batch = NamedSharding(self.mesh, P("batch"))
        self.replicated = NamedSharding(self.mesh, P())
        self.zero = jax.tree.map(lambda a: np.broadcast_to(a, (num_seeds,)), metrics.zero())
        self._describe(dataset)
        self._waiting: list[Function] = []  # functions that `compile_rest` compiles

    def _describe(self, dataset: Dataset) -> None:
        """Make the functions from the shapes of their arguments."""
        count = len(dataset.train_labels)
        keys = abstract(jax.eval_shape(lambda: root_keys(range(self.num_seeds))), self.by_seed)
        number = jax.ShapeDtypeStruct((), np.int32, sharding=self.replicated)
        order = jax.ShapeDtypeStruct((*keys.shape, count), np.int32, sharding=self.by_seed)
        train_data = abstract((dataset.train_images, dataset.train_labels), self.replicated)
        shards, size = self.mesh.shape["batch"], min(EVALUATION_BATCH, len(dataset.test_labels))
        self.evaluation_size = size = -(-size // shards) * shards
        images = jax.ShapeDtypeStruct((size, *dataset.test_images.shape[1:]), np.uint8)
        labels = jax.ShapeDtypeStruct((size,), np.uint8), jax.ShapeDtypeStruct((size,), np.bool_)
        batch = abstract((images, *labels), self.by_batch)

        init = jax.vmap(lambda key: init_state(self.config, self.optimizer, key))
        with devices.numerics(self.execution.matmul_precision):
            self.template: TrainState = abstract(jax.eval_shape(init, keys), self.by_seed)
        self.init = self._function(init, keys)

        def shuffle(key: jax.Array, epoch: jax.Array) -> jax.Array:
            key = stream(key, Stream.SHUFFLE, epoch)
            return jax.random.permutation(key, count).astype(np.int32)

        self.shuffle = self._function(jax.vmap(shuffle, (0, None)), keys, number)
        training = (self.template, train_data, order, keys)
        self.step = self._training(self.config.batch_size, 1, training)
        scanned = self.execution.epoch == "scan"
        full = self.full_batches
        self.epoch = self._training(self.config.batch_size, full, training) if scanned else None
        self.rest = self._training(self.rest_size, 1, training) if self.rest_size else None
        step = make_evaluation_step(self.graph, self._batch_axis(self.evaluation_size))
        evaluate = self._on_mesh(step, (P("seeds"), P("seeds"), P("batch")))
        totals = abstract(self.zero, self.by_seed)
        self.evaluate = self._function(evaluate, self.template, totals, batch)

    def _training(self, batch: int, num_steps: int, arguments: tuple[Any, ...]) -> Function:
        """Make the function that takes `num_steps` steps on batches of `batch` images."""
        axis = self._batch_axis(batch)
        train_step = make_train_step(self.config, self.graph, self.optimizer, axis)
        shard = batch // self.mesh.shape["batch"] if axis else batch
        step = make_batch_step(
            train_step, self.steps_per_epoch, self.config.batch_size, shard, axis
        )

        def epoch(state: TrainState, *constants: Any) -> tuple[TrainState, jax.Array]:
            state, losses = jax.lax.scan(
                lambda state, _: step(state, *constants), state, length=num_steps
            )
            return state, losses.mean()

        # A single step is not scanned: in a loop, convolutions are slow on CPU.
        specs = P("seeds"), P(), P("seeds"), P("seeds")
        function = self._on_mesh(step if num_steps == 1 else epoch, specs)
        # Each process checks the losses of all seeds.
        hosts = {device.process_index for device in self.mesh.devices.flat}
        losses = self.by_seed if len(hosts) == 1 else self.replicated
        jitted = jax.jit(function, out_shardings=(self.by_seed, losses), donate_argnums=0)
        return Function(jitted, arguments, self.execution.matmul_precision)

    def _function(self, function: Callable[..., Any], *arguments: Any) -> Function:
        jitted = jax.jit(function, out_shardings=self.by_seed)
        return Function(jitted, arguments, self.execution.matmul_precision)

    def _batch_axis(self, images: int) -> str | None:
        """Return the mesh axis that shards a batch, or None if each device computes all of it."""
        shards = self.mesh.shape["batch"]
        return "batch" if shards > 1 and images % shards == 0 else None

    def _on_mesh(self, function: Callable[..., Any], specs: Sequence[P]) -> Callable[..., Any]:
        """Return a function of one seed as a function of all seeds on all devices of the mesh."""
        one_seed, by_seed = self.seeds_per_device == 1, [spec == P("seeds") for spec in specs]

        def on_device(*arguments: Any) -> Any:
            if not one_seed:
                return jax.vmap(function, [0 if own else None for own in by_seed])(*arguments)
            # Without vmap the program of one seed is 10 % faster on CPU.
            first = [
                jax.tree.map(lambda a: a[0], a) if own else a
                for a, own in zip(arguments, by_seed, strict=True)
            ]
            return jax.tree.map(lambda a: a[None], function(*first))

        return jax.shard_map(
            on_device, mesh=self.mesh, in_specs=specs, out_specs=P("seeds"), check_vma=False
        )

    def functions(self) -> list[Function]:
        """Return the functions that an epoch calls."""
        called = self.epoch or self.step, self.init, self.shuffle, self.rest, self.evaluate
        return [function for function in called if function]

    def compile(self) -> float:
        """Compile what the first training step needs, and return the seconds that it took.

        `compile_rest` compiles the other functions later. Processes that train together compile all
        functions here, because they must do so in the same order.
        """
        began = time.perf_counter()
        several, functions = processes.count() > 1, self.functions()
        first = len(functions) if several else 3
        self._waiting = functions[first:]
        with ThreadPoolExecutor(1 if several else 2) as pool:
            list(pool.map(Function.compile, functions[:first]))
        return time.perf_counter() - began

    def compile_rest(self) -> None:
        """Start to compile the other functions in a thread, one at a time: each takes 400 MB."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            pool = ThreadPoolExecutor(1)
            for function in waiting:
                pool.submit(function.compile)
            pool.shutdown(wait=False)

    def next_function(self, step: int) -> tuple[Function, int]:
        """Return the function to call after `step` steps, and the number of steps it takes."""
        position = step % self.steps_per_epoch
        if self.rest and position == self.full_batches:
            return self.rest, 1
        if self.epoch and position == 0:
            return self.epoch, self.full_batches
        return self.step, 1


def root_keys(seeds: Sequence[int]) -> jax.Array:
    """Return the root key of each seed, key[S]."""
    return jax.vmap(root_key)(jnp.array(seeds, jnp.uint32))


def abstract(tree: Any, sharding: NamedSharding) -> Any:
    """Return the shapes and dtypes of arrays, with their sharding."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)
