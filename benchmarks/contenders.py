"""Run one contender of `benchmarks.compare` in a process that reads requests from standard input.

`python -m benchmarks.contenders NAME STEP BATCH_SIZE SEEDS MNIST_DIR` runs one training step, then
prints a line. The process answers each line of its input with a duration in seconds:

- `N`, a number: train each seed on N images.
- `epoch`: train each seed for one epoch, and evaluate the test images.

At the end of its input, the process prints its peak memory in bytes.
"""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.other_contenders import (
    ChannelsLast,
    Compiled,
    CompiledChannelsLast,
    Eager,
    Flax,
    Notebook,
)
from jaxdrill import config as recipes
from jaxdrill import data
from jaxdrill.config.config import Config


class Jaxdrill:
    """Train all seeds with jaxdrill, with its default execution strategy."""

    def __init__(self, config: Config, dataset: data.Dataset) -> None:
        import jax

        from jaxdrill.config.layers import infer_shapes
        from jaxdrill.training import devices
        from jaxdrill.training.trainer import Trainer

        devices.set_up(4 * infer_shapes(config.network)[-1].activations * config.batch_size)
        per_device = devices.max_seeds_per_device(config, jax.devices()[0])
        together = config.execution.seeds_together
        self.groups = devices.plan_groups(
            config.seed_list, len(jax.devices()), per_device, together
        )
        self.config, self.dataset = config.model_copy(update={"epochs": 1}), dataset
        sizes = set(map(len, self.groups))
        self.trainers = {size: Trainer(self.config, dataset, size) for size in sizes}
        for trainer in self.trainers.values():
            trainer.compile()
        arrays = dataset.train_images, dataset.train_labels
        self.data = {
            size: jax.device_put(arrays, trainer.replicated)
            for size, trainer in self.trainers.items()
        }

    def finish_compiling(self) -> None:
        """Wait until all functions are compiled."""
        for trainer in self.trainers.values():
            for function in trainer.functions():
                function.compile()

    def train(self, images: int) -> None:
        """Train each seed on `images` images of one epoch, in full batches."""
        import jax
        import numpy as np

        from jaxdrill.training.trainer import root_keys

        for group in self.groups:
            trainer, step = self.trainers[len(group)], 0
            keys = jax.device_put(root_keys(group), trainer.by_seed)
            epoch = jax.device_put(np.int32(0), trainer.replicated)
            state, orders = trainer.init(keys), trainer.shuffle(keys, epoch)
            while step < images // self.config.batch_size:
                function, num_steps = trainer.next_function(step)
                state, _ = function(state, self.data[len(group)], orders, keys)
                step += num_steps

    def epoch(self) -> None:
        """Train each seed for one epoch, then evaluate the test images."""
        from jaxdrill.training.fit import fit

        for group in self.groups:
            (_,) = fit(self.trainers[len(group)], self.dataset, group)


CONTENDERS: dict[str, Callable[[Config, data.Dataset], Any]] = {
    "notebook": Notebook,
    "eager": Eager,
    "channels_last": ChannelsLast,
    "compile": Compiled,
    "compile_channels_last": CompiledChannelsLast,
    "flax": Flax,
    "jaxdrill": Jaxdrill,
}


def main() -> None:
    """Answer the requests of standard input."""
    name, step, batch_size, seeds, folder = sys.argv[1:]
    config = recipes.load(step).model_copy(
        update={"batch_size": int(batch_size), "seeds": int(seeds)}
    )
    contender = CONTENDERS[name](config, data.load("mnist", Path(folder), offline=True))
    contender.train(config.batch_size)
    print("ready", flush=True)
    contender.finish_compiling()
    for line in sys.stdin:
        began = time.perf_counter()
        contender.epoch() if line.strip() == "epoch" else contender.train(int(line))
        print(time.perf_counter() - began, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)


if __name__ == "__main__":
    main()
