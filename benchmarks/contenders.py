"""Ways to train a recipe's network, each in a process of its own that does as standard input says.

`python -m benchmarks.contenders NAME STEP BATCH_SIZE SEEDS MNIST_DIR` prints a line once the first training step is
done. Then each line it reads, `IMAGES` or `epoch`, is answered with the seconds that training on so many images of
each seed, or a whole epoch with the evaluation, took; and the end of its input with its peak memory in bytes.
"""

import itertools
import resource
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from jaxdrill import config as recipes
from jaxdrill import data
from jaxdrill.config.config import Config
from jaxdrill.config.layers import Pool

MEAN, STANDARD_DEVIATION = (
    0.1307,
    0.3081,
)  # as in jaxdrill.training.augmentation, which would load JAX beside PyTorch


class Contender(ABC):
    """Trains one seed of a recipe on a dataset in memory; the seeds of other contenders would run one by one."""

    def __init__(self, config: Config, dataset: data.Dataset) -> None:
        self.config, self.dataset, self.generator = (
            config,
            dataset,
            np.random.default_rng(config.seed),
        )

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """One shuffled epoch of normalised images float32[B, 28, 28, 1], each rotated by PIL, and labels int64[B]."""
        order = self.generator.permutation(len(self.dataset.train_labels))
        for start in range(0, len(order), self.config.batch_size):
            indices = order[start : start + self.config.batch_size]
            images = self.dataset.train_images[indices]
            if self.config.augmentation.rotation_degrees:
                images = np.stack([self.rotated(image) for image in images])
            yield self.normalised(images), self.dataset.train_labels[indices].astype(np.int64)

    def rotated(self, image: np.ndarray) -> np.ndarray:
        """The image uint8[28, 28, 1] turned by a random angle."""
        limit = self.config.augmentation.rotation_degrees
        degrees = self.generator.uniform(-limit, limit)
        picture = Image.fromarray(image[..., 0]).rotate(
            degrees, fillcolor=self.config.augmentation.rotation_fill
        )
        return np.asarray(picture)[..., None]

    def normalised(self, images: np.ndarray) -> np.ndarray:
        """uint8[B, 28, 28, 1] to float32."""
        return (images.astype(np.float32) / 255 - MEAN) / STANDARD_DEVIATION

    @abstractmethod
    def step(self, images: Any, labels: Any) -> None:
        """One training step, its loss read."""

    @abstractmethod
    def evaluate(self) -> float:
        """The test accuracy."""

    def finish_compiling(self) -> None:  # noqa: B027 - only jaxdrill compiles while it trains
        """Wait for compilations in the background."""

    def train(self, images: int) -> None:
        """Trains on so many images."""
        for batch in itertools.islice(self.batches(), images // self.config.batch_size):
            self.step(*batch)

    def epoch(self) -> None:
        """Trains on every image once, then reads the test accuracy."""
        for batch in self.batches():
            self.step(*batch)
        self.evaluate()


class Eager(Contender):
    """PyTorch, eager, data in memory."""

    memory_format, compiled = "contiguous_format", False

    def __init__(self, config: Config, dataset: data.Dataset) -> None:
        import torch  # pyright: ignore[reportMissingImports]

        super().__init__(config, dataset)
        self.torch = torch
        torch.manual_seed(config.seed)
        network = torch_network(config).to(memory_format=getattr(torch, self.memory_format))
        self.network = torch.compile(network) if self.compiled else network
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            config.optimizer.learning_rate,
            momentum=config.optimizer.momentum,
            nesterov=config.optimizer.nesterov,
        )

    def images(self, images: np.ndarray) -> Any:
        """Return images float32[B, 28, 28, 1] as a tensor float32[B, 1, 28, 28] in the memory format in use."""
        x = self.torch.from_numpy(images).permute(0, 3, 1, 2)
        return x.contiguous(memory_format=getattr(self.torch, self.memory_format))

    def step(self, images: Any, labels: Any) -> None:
        self.update(self.images(images), self.torch.from_numpy(labels))

    def update(self, x: Any, y: Any) -> tuple[float, Any]:
        self.network.train()
        self.optimizer.zero_grad()
        logits = self.network(x)
        loss = self.torch.nn.functional.cross_entropy(
            logits, y, label_smoothing=self.config.loss.label_smoothing
        )
        loss.backward()
        self.optimizer.step()
        return loss.item(), logits

    def evaluate(self) -> float:
        self.network.eval()
        images, labels, correct = self.dataset.test_images, self.dataset.test_labels, 0
        with self.torch.no_grad():
            for start in range(0, len(labels), 1000):
                x = self.images(self.normalised(images[start : start + 1000]))
                correct += (self.network(x).argmax(1).numpy() == labels[start : start + 1000]).sum()
        return correct / len(labels)


class ChannelsLast(Eager):
    """PyTorch, eager, with arrays in the memory format `channels_last`."""

    memory_format = "channels_last"


class Compiled(Eager):
    """PyTorch with `torch.compile`."""

    compiled = True


class CompiledChannelsLast(Eager):
    """PyTorch with `torch.compile` and `channels_last`."""

    memory_format, compiled = "channels_last", True


class Notebook(Eager):
    """PyTorch as the notebooks have it: a `DataLoader` over images that PIL rotates one by one, and a progress bar with
    the accuracy so far. The four transforms do what torchvision's do."""

    def batches(self) -> Iterator[Any]:
        torch, augmentation = self.torch, self.config.augmentation
        limit, fill = augmentation.rotation_degrees, augmentation.rotation_fill
        images, labels = (
            torch.from_numpy(self.dataset.train_images[..., 0]),
            torch.from_numpy(self.dataset.train_labels),
        )

        class Images(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return len(labels)

            def __getitem__(self, index: int) -> Any:
                picture = Image.fromarray(images[index].numpy())
                if limit:  # RandomRotation
                    picture = picture.rotate(
                        float(torch.empty(1).uniform_(-limit, limit).item()), fillcolor=fill
                    )
                tensor = torch.from_numpy(np.array(picture, np.uint8, copy=True)).view(
                    28, 28, 1
                )  # ToTensor
                tensor = tensor.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
                mean, deviation = (
                    torch.as_tensor((MEAN,)),
                    torch.as_tensor((STANDARD_DEVIATION,)),
                )  # Normalize
                return tensor.clone().sub_(mean.view(-1, 1, 1)).div_(deviation.view(-1, 1, 1)), int(
                    labels[index]
                )

        self.correct = self.seen = 0
        self.bar = tqdm(torch.utils.data.DataLoader(Images(), self.config.batch_size, shuffle=True))
        return iter(self.bar)

    def step(self, images: Any, labels: Any) -> None:
        loss, logits = self.update(images, labels)
        self.correct += logits.argmax(dim=1, keepdim=True).eq(labels.view(-1, 1)).sum().item()
        self.seen += len(labels)
        self.bar.set_description(f"Loss={loss} Accuracy={100 * self.correct / self.seen:0.2f}")


def torch_network(config: Config) -> Any:
    """The recipe's network in PyTorch."""
    from torch import nn  # pyright: ignore[reportMissingImports]

    channels, modules = 1, []
    for layer in config.network:
        if isinstance(layer, Pool):
            modules.append((nn.MaxPool2d if layer.pool == "max" else nn.AvgPool2d)(layer.size))
            continue
        if layer.separable:
            modules.append(nn.Conv2d(channels, layer.conv, 1, bias=False))
        groups = layer.conv if layer.separable else 1
        channels = layer.conv if layer.separable else channels
        modules.append(
            nn.Conv2d(
                channels, layer.conv, layer.kernel, padding=layer.padding, groups=groups, bias=False
            )
        )
        modules += [nn.ReLU()] if layer.relu else []
        modules += [nn.BatchNorm2d(layer.conv)] if layer.batch_norm else []
        modules += [nn.Dropout(layer.dropout)] if layer.dropout else []
        channels = layer.conv
    return nn.Sequential(*modules, nn.Flatten())


class Flax(Contender):
    """As the MNIST example of Flax trains: `nnx.jit`, `nnx.Optimizer`, `nnx.MultiMetric`; batches made by NumPy."""

    def __init__(self, config: Config, dataset: data.Dataset) -> None:
        import optax
        from flax import nnx

        super().__init__(config, dataset)
        self.network = nnx_network(config)
        sgd = optax.sgd(
            config.optimizer.learning_rate, config.optimizer.momentum, config.optimizer.nesterov
        )
        optimizer = nnx.Optimizer(self.network, sgd, wrt=nnx.Param)
        metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
        self.state = optimizer, metrics

        def loss(network: Any, images: Any, labels: Any) -> Any:
            logits = network(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

        @nnx.jit
        def train_step(network: Any, optimizer: Any, metrics: Any, images: Any, labels: Any) -> Any:
            (value, logits), gradient = nnx.value_and_grad(loss, has_aux=True)(
                network, images, labels
            )
            metrics.update(loss=value, logits=logits, labels=labels)
            optimizer.update(network, gradient)
            return value

        @nnx.jit
        def evaluation_step(network: Any, metrics: Any, images: Any, labels: Any) -> None:
            value, logits = loss(network, images, labels)
            metrics.update(loss=value, logits=logits, labels=labels)

        self.train_step, self.evaluation_step = train_step, evaluation_step

    def step(self, images: Any, labels: Any) -> None:
        float(self.train_step(self.network, *self.state, images, labels.astype(np.int32)))

    def evaluate(self) -> float:
        _, metrics = self.state
        metrics.reset()
        self.network.eval()
        for start in range(0, len(self.dataset.test_labels), 1000):
            images = self.normalised(self.dataset.test_images[start : start + 1000])
            labels = self.dataset.test_labels[start : start + 1000].astype(np.int32)
            self.evaluation_step(self.network, metrics, images, labels)
        self.network.train()
        return float(metrics.compute()["accuracy"])


def nnx_network(config: Config) -> Any:
    """The recipe's network as a Flax user would write it."""
    from functools import partial

    from flax import nnx

    rngs, channels, modules = nnx.Rngs(config.seed), 1, []
    for layer in config.network:
        window = dict(window_shape=(size := getattr(layer, "size", 1), size), strides=(size, size))
        if isinstance(layer, Pool):
            modules.append(partial(nnx.max_pool if layer.pool == "max" else nnx.avg_pool, **window))
            continue
        kernel = (layer.kernel, layer.kernel)
        conv = partial(nnx.Conv, out_features=layer.conv, use_bias=False, rngs=rngs)
        if layer.separable:
            modules.append(conv(channels, kernel_size=(1, 1)))
        groups = layer.conv if layer.separable else 1
        channels = layer.conv if layer.separable else channels
        modules.append(
            conv(channels, kernel_size=kernel, padding=layer.padding, feature_group_count=groups)
        )
        modules += [nnx.relu] if layer.relu else []
        modules += [nnx.BatchNorm(layer.conv, momentum=0.9, rngs=rngs)] if layer.batch_norm else []
        modules += [nnx.Dropout(layer.dropout, rngs=rngs)] if layer.dropout else []
        channels = layer.conv
    return nnx.Sequential(*modules, lambda x: x.reshape(len(x), -1))


class Jaxdrill:
    """This package: all seeds, with the strategy that it chooses."""

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
        for trainer in self.trainers.values():
            for function in trainer.functions():
                function.compile()

    def train(self, images: int) -> None:
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
