"""A recipe compiled for a dataset, a number of seeds, and a mesh of devices."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdrill.config.config import Config
from jaxdrill.data import Dataset
from jaxdrill.nn.network import from_named_weights
from jaxdrill.training import backend, devices, processes
from jaxdrill.training.lowering import Launch, Lowering, root_keys, test_batches, training_subset
from jaxdrill.training.metrics import Sums
from jaxdrill.training.step import Progress, TrainState


class Program(Lowering):
    """Everything that a group of seeds runs, compiled, and the data on the devices."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        num_seeds: int = 1,
        mesh: Mesh | None = None,
        initial: Mapping[str, Any] | None = None,
    ) -> None:
        """Puts the dataset on the devices and compiles. `mesh` is that of `devices.make_mesh` if none is given; every
        seed starts from the `initial` weights, by name, if they are.

        Raises:
            UsageError: the network does not fit the images, or a batch is larger than the data.
        """
        began = time.perf_counter()
        super().__init__(
            config, dataset, num_seeds, mesh or devices.make_mesh(num_seeds, config.batch_size)
        )
        self._initial = initial
        self._train_data = processes.to_devices(
            (dataset.train_images, dataset.train_labels), self.replicated
        )
        test, self._test_count = (
            test_batches(dataset, self.mesh.shape["batch"]),
            len(dataset.test_labels),
        )
        self._test_data = processes.to_devices(test, self.over_batch)
        subset = training_subset(len(dataset.train_labels))
        self._train_subset = dataset.train_images[subset], dataset.train_labels[subset]
        self._test_batches = processes.to_devices(
            list(np.arange(len(test[0]), dtype=np.int32)), self.replicated
        )
        launch, *rest = dict.fromkeys(self.launches(0))
        first, self._later = (launch, "start", "shuffle"), (*rest, "evaluate")
        several = processes.count() > 1  # They must keep to one order.
        with ThreadPoolExecutor(1 if several else 2) as pool:
            self.compiled: dict[Any, Any] = dict(
                zip(first, pool.map(self._compile, first), strict=True)
            )
        self._compiling: dict[Any, Future[Any]] = {}
        for name in self._later if several else ():
            self.executable(name)
        self.compile_seconds = time.perf_counter() - began

    def executable(self, name: Any) -> Any:
        """Return a compiled function by its name, as in `names`.

        The evaluation, and the launch of an epoch's last batch, which is smaller, are compiled while others run.
        """
        if name not in self.compiled:
            future = self._compiling.get(name)
            self.compiled[name] = future.result() if future else self._compile(name)
        return self.compiled[name]

    def _compile_others(self) -> None:
        """Begin to compile in the background what is not yet compiled, one after another: each takes 400 MB."""
        waiting, self._later = [name for name in self._later if name not in self.compiled], ()
        if waiting:
            pool = ThreadPoolExecutor(1)
            self._compiling = {name: pool.submit(self._compile, name) for name in waiting}
            pool.shutdown(wait=False)

    def root_keys(self, seeds: Sequence[int]) -> jax.Array:
        """The key of each seed, key[S], on its device; there must be as many seeds as the program was made for."""
        return processes.to_devices(root_keys(seeds), self.sharding)

    def start(self, keys: jax.Array) -> Progress:
        """Before the first step."""
        progress = self.executable("start")(keys)
        if not self._initial:
            return progress
        every = jax.tree.map(
            lambda a: np.broadcast_to(a, (len(keys), *a.shape)), from_named_weights(self._initial)
        )
        params, batch_stats = processes.to_devices(every, self.sharding)
        average = (
            None if progress.state.average is None else processes.to_devices(every, self.sharding)
        )
        state = replace(progress.state, params=params, batch_stats=batch_stats, average=average)
        return replace(progress, state=state)

    def shuffle(self, keys: jax.Array, epoch: int) -> jax.Array:
        """Each seed's order of the training images in an epoch, int32[S, N]."""
        return self.executable("shuffle")(
            keys, processes.to_devices(np.int32(epoch), self.replicated)
        )

    def train(
        self, progress: Progress, orders: jax.Array, keys: jax.Array, launch: Launch
    ) -> tuple[Progress, np.ndarray]:
        """The progress after a launch, and each seed's mean loss in it, float32[S]. The progress given is used up.

        It waits for the result, as `evaluate` does for each batch: CPU devices that queue programs with sums over
        devices can deadlock in them.
        """
        # After a stop within an epoch that is scanned, the first launch is a new one.
        arguments = progress, self._train_data, orders, keys
        progress, losses = jax.block_until_ready(self.executable(launch)(*arguments))
        self._compile_others()  # not before: what runs in Python then would delay the first launch
        return progress, np.asarray(losses)

    def evaluate(self, state: TrainState) -> tuple[Sums, np.ndarray]:
        """The sums of each seed over every test image, each counted once, and the images' logits, float32[S, N, 10]."""
        totals, logits = processes.to_devices(self.zero, self.sharding), []
        for batch in self._test_batches:
            totals, new = jax.block_until_ready(
                self.executable("evaluate")(state, totals, self._test_data, batch)
            )
            logits.append(processes.to_host(new))
        return totals, np.concatenate(logits, axis=1)[:, : self._test_count]

    def evaluate_training(self, state: TrainState) -> Sums:
        """Evaluate a fixed subset of the training images, without dropout and augmentation.

        The subset is cut into parts with the shape of the test images, so that the same program evaluates them.

        Returns:
            The sums of each seed over at most TRAINING_SUBSET images, each counted once.
        """
        images, labels = self._train_subset
        num_batches, size = self.test_data[0].shape[:2]
        totals = processes.to_devices(self.zero, self.sharding)
        for first in range(0, len(labels), num_batches * size):
            indices = first + np.arange(num_batches * size).reshape(num_batches, size)
            padded, valid = np.minimum(indices, len(labels) - 1), indices < len(labels)
            part = processes.to_devices((images[padded], labels[padded], valid), self.over_batch)
            for batch in self._test_batches[: -(-(len(labels) - first) // size)]:
                totals, _ = jax.block_until_ready(
                    self.executable("evaluate")(state, totals, part, batch)
                )
        return totals

    def reset(self, progress: Progress) -> Progress:
        """The progress at the beginning of an epoch."""
        return replace(progress, totals=processes.to_devices(self.zero, self.sharding))

    def _compile(self, name: Any) -> Any:
        with backend.single_precision():  # It holds for one thread.
            return self.lower(name).compile()
