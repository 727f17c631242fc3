"""Train the network of a recipe with PyTorch or Flax. Each contender trains one seed."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.networks import nnx_network, torch_network
from jaxdrill import data
from jaxdrill.config.config import Config

# Equal to those of jaxdrill.nn.network. Importing it would load Flax in the PyTorch processes.
MEAN, STANDARD_DEVIATION = 0.1307, 0.3081


class Contender(ABC):
    """Train one seed of a recipe on a dataset in memory."""

    def __init__(self, config: Config, dataset: data.Dataset) -> None:
        self.config, self.dataset = config, dataset
        self.generator = np.random.default_rng(config.seed)

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the batches of one shuffled epoch: images and labels int64[B].

        The images, float32[B, 28, 28, 1], are rotated by PIL and normalized.
        """
        order = self.generator.permutation(len(self.dataset.train_labels))
        for start in range(0, len(order), self.config.batch_size):
            indices = order[start : start + self.config.batch_size]
            images = self.dataset.train_images[indices]
            if self.config.augmentation.rotation_degrees:
                images = np.stack([self.rotate(image) for image in images])
            yield self.normalize(images), self.dataset.train_labels[indices].astype(np.int64)

    def rotate(self, image: np.ndarray) -> np.ndarray:
        """Rotate an image uint8[28, 28, 1] by a random angle."""
        limit = self.config.augmentation.rotation_degrees
        degrees = self.generator.uniform(-limit, limit)
        picture = Image.fromarray(image[..., 0]).rotate(
            degrees, fillcolor=self.config.augmentation.rotation_fill
        )
        return np.asarray(picture)[..., None]

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """Normalize images uint8[B, 28, 28, 1]. Return float32."""
        return (images.astype(np.float32) / 255 - MEAN) / STANDARD_DEVIATION

    @abstractmethod
    def step(self, images: Any, labels: Any) -> None:
        """Run one training step, and wait for its loss."""

    @abstractmethod
    def evaluate(self) -> float:
        """Return the test accuracy."""

    def finish_compiling(self) -> None:  # noqa: B027 - Only Jaxdrill compiles ahead.
        """Wait until all functions are compiled."""

    def train(self, images: int) -> None:
        """Train on `images` images of one epoch, in full batches."""
        for batch in itertools.islice(self.batches(), images // self.config.batch_size):
            self.step(*batch)

    def epoch(self) -> None:
        """Train for one epoch, then evaluate the test images."""
        for batch in self.batches():
            self.step(*batch)
        self.evaluate()


class Eager(Contender):
    """Train with PyTorch in eager mode."""

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
        """Convert images float32[B, 28, 28, 1] to a tensor float32[B, 1, 28, 28]."""
        x = self.torch.from_numpy(images).permute(0, 3, 1, 2)
        return x.contiguous(memory_format=getattr(self.torch, self.memory_format))

    def step(self, images: Any, labels: Any) -> None:
        """Run one training step, and wait for its loss."""
        self.update(self.images(images), self.torch.from_numpy(labels))

    def update(self, x: Any, y: Any) -> tuple[float, Any]:
        """Run one training step. Return the loss and the logits, float32[B, 10]."""
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
        """Return the test accuracy."""
        self.network.eval()
        images, labels, correct = self.dataset.test_images, self.dataset.test_labels, 0
        with self.torch.no_grad():
            for start in range(0, len(labels), 1000):
                x = self.images(self.normalize(images[start : start + 1000]))
                correct += (self.network(x).argmax(1).numpy() == labels[start : start + 1000]).sum()
        return correct / len(labels)


class ChannelsLast(Eager):
    """Train with PyTorch in eager mode and the memory format `channels_last`."""

    memory_format = "channels_last"


class Compiled(Eager):
    """Train with PyTorch and `torch.compile`."""

    compiled = True


class CompiledChannelsLast(Eager):
    """Train with PyTorch, `torch.compile` and the memory format `channels_last`."""

    memory_format, compiled = "channels_last", True


class Notebook(Eager):
    """Train with PyTorch as in the notebooks.

    A `DataLoader` reads single images, which PIL rotates. A progress bar shows the accuracy. The
    transforms are equivalent to those of torchvision.
    """

    def batches(self) -> Iterator[Any]:
        """Yield the batches of one shuffled epoch from a `DataLoader`."""
        torch, augmentation = self.torch, self.config.augmentation
        limit, fill = augmentation.rotation_degrees, augmentation.rotation_fill
        images = torch.from_numpy(self.dataset.train_images[..., 0])
        labels = torch.from_numpy(self.dataset.train_labels)

        class Images(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return len(labels)

            def __getitem__(self, index: int) -> Any:
                picture = Image.fromarray(images[index].numpy())
                if limit:  # as RandomRotation
                    degrees = float(torch.empty(1).uniform_(-limit, limit).item())
                    picture = picture.rotate(degrees, fillcolor=fill)
                # as ToTensor
                tensor = torch.from_numpy(np.array(picture, np.uint8, copy=True)).view(28, 28, 1)
                tensor = tensor.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
                # as Normalize
                mean, deviation = torch.as_tensor((MEAN,)), torch.as_tensor((STANDARD_DEVIATION,))
                tensor = tensor.clone().sub_(mean.view(-1, 1, 1)).div_(deviation.view(-1, 1, 1))
                return tensor, int(labels[index])

        self.correct = self.seen = 0
        self.bar = tqdm(torch.utils.data.DataLoader(Images(), self.config.batch_size, shuffle=True))
        return iter(self.bar)

    def step(self, images: Any, labels: Any) -> None:
        """Run one training step, and show the loss and the accuracy in the progress bar."""
        loss, logits = self.update(images, labels)
        self.correct += logits.argmax(dim=1, keepdim=True).eq(labels.view(-1, 1)).sum().item()
        self.seen += len(labels)
        self.bar.set_description(f"Loss={loss} Accuracy={100 * self.correct / self.seen:0.2f}")


class Flax(Contender):
    """Train with Flax as in its MNIST example, with batches from NumPy.

    The example uses `nnx.jit`, `nnx.Optimizer` and `nnx.MultiMetric`.
    """

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
        """Run one training step, and wait for its loss."""
        float(self.train_step(self.network, *self.state, images, labels.astype(np.int32)))

    def evaluate(self) -> float:
        """Return the test accuracy."""
        _, metrics = self.state
        metrics.reset()
        self.network.eval()
        for start in range(0, len(self.dataset.test_labels), 1000):
            images = self.normalize(self.dataset.test_images[start : start + 1000])
            labels = self.dataset.test_labels[start : start + 1000].astype(np.int32)
            self.evaluation_step(self.network, metrics, images, labels)
        self.network.train()
        return float(metrics.compute()["accuracy"])
