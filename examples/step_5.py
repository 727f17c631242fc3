"""Train step 5 of the drill: a network of 9,606 parameters that classifies MNIST's digits.

Run `python examples/step_5.py`, or add `--data digits --epochs 3` for a short run without MNIST.
"""

import argparse
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.training import train_state
from jax import Array
from jax.scipy.ndimage import map_coordinates

from jaxdrill import data

EPOCHS, BATCH_SIZE, LEARNING_RATE, MOMENTUM = 20, 128, 0.01, 0.95
DECAY_FACTOR, DECAY_EPOCHS = 0.1, 5  # Every 5 epochs the learning rate is multiplied by 0.1.
MAX_DEGREES, FILL_VALUE = 7.0, 1  # maximum rotation; value of pixels from outside the image
MEAN, STANDARD_DEVIATION = 0.1307, 0.3081  # of MNIST's training pixels in 0..1, for every dataset

torch_uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's default
Conv = functools.partial(nnx.Conv, use_bias=False, kernel_init=torch_uniform)


class Block(nnx.Module):
    """Apply a convolution without bias, ReLU, batch norm and dropout, in this order."""

    def __init__(
        self, inputs: int, outputs: int, size: int, padding: int, dropout: float, rngs: nnx.Rngs
    ) -> None:
        self.conv = Conv(inputs, outputs, (size, size), padding=padding, rngs=rngs)
        self.batch_norm = nnx.BatchNorm(outputs, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: Array, train: bool, rngs: nnx.Rngs | None) -> Array:
        x = self.batch_norm(nnx.relu(self.conv(x)), use_running_average=not train)
        return self.dropout(x, deterministic=rngs is None, rngs=rngs)


class Network(nnx.Module):
    """Compute logits float32[B, 10] from images [B, 28, 28, 1] with pixels 0..255."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.block1 = Block(1, 10, size=3, padding=0, dropout=0.05, rngs=rngs)  # output 26x26
        self.block2 = Block(10, 16, size=3, padding=0, dropout=0.05, rngs=rngs)  # 24x24
        self.block3 = Block(16, 10, size=1, padding=0, dropout=0.0, rngs=rngs)  # 24x24
        self.block4 = Block(10, 20, size=3, padding=0, dropout=0.05, rngs=rngs)  # after pool: 10x10
        self.block5 = Block(20, 16, size=3, padding=0, dropout=0.05, rngs=rngs)  # 8x8
        self.block6 = Block(16, 10, size=3, padding=0, dropout=0.05, rngs=rngs)  # 6x6
        self.block7 = Block(10, 16, size=3, padding=1, dropout=0.0, rngs=rngs)  # 6x6
        self.head = Conv(16, 10, (1, 1), rngs=rngs)  # 1x1

    def __call__(self, images: Array, train: bool, rngs: nnx.Rngs | None = None) -> Array:
        x = (images.astype(jnp.float32) / 255 - MEAN) / STANDARD_DEVIATION
        for block in (self.block1, self.block2, self.block3):
            x = block(x, train, rngs)
        x = nnx.max_pool(x, (2, 2), strides=(2, 2))  # 12x12
        for block in (self.block4, self.block5, self.block6, self.block7):
            x = block(x, train, rngs)
        return self.head(x.mean(axis=(1, 2), keepdims=True))[:, 0, 0]


class TrainState(train_state.TrainState):
    """Add the network's structure and its batch statistics to Flax's TrainState."""

    graphdef: nnx.GraphDef  # the network without its arrays
    batch_stats: Any  # the running mean and variance of each batch norm


def create_state(key: Array, epochs: int, steps_per_epoch: int) -> TrainState:
    """Initialize the network and the optimizer."""
    graph, params, stats = nnx.split(Network(nnx.Rngs(params=key)), nnx.Param, nnx.BatchStat)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    decays = {n * steps_per_epoch: DECAY_FACTOR for n in range(DECAY_EPOCHS, epochs, DECAY_EPOCHS)}
    tx = optax.sgd(optax.piecewise_constant_schedule(LEARNING_RATE, decays), MOMENTUM)
    return TrainState.create(apply_fn=None, params=params, tx=tx, graphdef=graph, batch_stats=stats)


def rotate(image: Array, degrees: Array) -> Array:
    """Rotate an image [S, S, 1] counter-clockwise about its center by nearest-neighbor sampling."""
    offset = jnp.arange(len(image), dtype=jnp.float32) - (len(image) - 1) / 2
    y, x = jnp.meshgrid(offset, offset, indexing="ij")
    sine, cosine = jnp.sin(jnp.deg2rad(degrees)), jnp.cos(jnp.deg2rad(degrees))
    row, column = sine * x + cosine * y - offset[0], cosine * x - sine * y - offset[0]
    return map_coordinates(image[..., 0], [row, column], order=0, cval=FILL_VALUE)[..., None]


def loss_fn(params: Any, state: TrainState, images: Array, labels: Array, key: Array | None) -> Any:
    """Return the mean loss and the new batch statistics. Without a key there is no dropout."""
    network = nnx.merge(state.graphdef, params, state.batch_stats)
    logits = network(images, train=True, rngs=None if key is None else nnx.Rngs(dropout=key))
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))


@jax.jit
def train_step(state: TrainState, images: Array, labels: Array, key: Array) -> Any:
    """Return the next state and the loss. Pass the same key in each step: the step is folded in."""
    rotation_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
    degrees = jax.random.uniform(rotation_key, labels.shape, jnp.float32, -MAX_DEGREES, MAX_DEGREES)
    images = jax.vmap(rotate)(images.astype(jnp.float32), degrees)
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, stats), grads = value_and_grad(state.params, state, images, labels, dropout_key)
    return state.apply_gradients(grads=grads, batch_stats=stats), loss  # loss before the update


@jax.jit
def evaluate(state: TrainState, images: Array, labels: Array) -> Array:
    """Return the accuracy, 0..1. The last batch is padded, and its padding is not counted."""
    network = nnx.merge(state.graphdef, state.params, state.batch_stats)
    padded = jnp.pad(images, [(0, -len(images) % BATCH_SIZE), (0, 0), (0, 0), (0, 0)])
    batches = padded.reshape(-1, BATCH_SIZE, 28, 28, 1)
    logits = jax.lax.map(lambda batch: network(batch, train=False), batches).reshape(-1, 10)
    return (logits[: len(labels)].argmax(axis=-1) == labels).mean()


def main() -> None:
    """Train, and print the training loss and the test accuracy of each epoch."""
    parser = argparse.ArgumentParser(description="Train step 5 of the drill.")
    names = "mnist, fashion_mnist, kmnist, digits, or auto: mnist, else digits"
    parser.add_argument("--data", default="auto", help=names)
    parser.add_argument("--data-dir", type=Path, help="folder with the dataset's four files")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    dataset = data.load(args.data, args.data_dir)
    images, labels = jax.device_put((dataset.train_images, dataset.train_labels))
    test_data = jax.device_put((dataset.test_images, dataset.test_labels))
    starts = range(0, len(labels), BATCH_SIZE)  # The last batch of an epoch is smaller.
    key = jax.random.key(args.seed, impl="rbg")  # compiles faster on CPU than the default, threefry
    init_key, shuffle_key, step_key = jax.random.split(key, 3)
    state = create_state(init_key, args.epochs, steps_per_epoch=len(starts))
    for epoch in range(args.epochs):
        order = jax.random.permutation(jax.random.fold_in(shuffle_key, epoch), len(labels))
        total = 0.0
        for start in starts:
            batch = order[start : start + BATCH_SIZE]
            state, loss = train_step(state, images[batch], labels[batch], step_key)
            total += loss * len(batch)
        loss, accuracy = total / len(labels), evaluate(state, *test_data)
        print(f"epoch {epoch + 1}: training loss {loss:.4f}, test accuracy {accuracy:.2%}")


if __name__ == "__main__":
    main()
