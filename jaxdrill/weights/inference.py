"""Check and run trained networks with JAX."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdrill.config.layers import Layer
from jaxdrill.nn import network as networks
from jaxdrill.training import devices
from jaxdrill.weights import Predict, TrainedNetwork, Weights


def find_mismatch(weights: Weights, layers: Sequence[Layer]) -> str | None:
    """Return why arrays cannot be the weights of a network of these layers, or None if they can."""
    devices.available_devices()  # Without a device JAX would fail with a traceback.
    expected = jax.eval_shape(
        lambda: networks.named_weights(*networks.init(layers, jax.random.key(0)))
    )
    for name in [*expected, *weights]:
        if name not in weights:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is not an array of the network"
        array, shape = weights[name], expected[name].shape
        if array.shape != shape:
            return f"{name} has the shape {list(array.shape)} instead of {list(shape)}"
        if array.dtype not in (np.float16, np.float32, np.float64):
            return f"{name} is {array.dtype}; save it as float32"
        if not np.isfinite(array).all():
            return f"{name} contains values that are NaN or infinite"
    return None


def apply(graph: Any, params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
    """Return the logits float32[N, 10] of images uint8[N, 28, 28]. JAX can trace this function."""
    with jax.default_matmul_precision("float32"):
        return networks.apply(graph, params, batch_stats, images[..., None], train=False)[0]


_apply = jax.jit(apply, static_argnums=0)  # All seeds of a recipe share one compiled program.


def logits(network: TrainedNetwork) -> Predict:
    """Return a network as a function from images to logits float32[N, 10].

    See `weights.load`.
    """
    graph = networks.make_graph(network.config.network)
    variables = networks.from_named_weights(network.weights)

    @devices.single_precision()
    def run(images: Any) -> np.ndarray:
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] not in ((28, 28), (28, 28, 1)):
            what = f"images are {images.dtype}{list(images.shape)}"
            raise ValueError(f"{what}; they must be uint8[N, 28, 28]")
        if not len(images):
            return np.zeros((0, 10), np.float32)
        return np.asarray(_apply(graph, *variables, images.reshape(-1, 28, 28)))

    return run


def probabilities(network: TrainedNetwork) -> Predict:
    """Return a network as a function from images to probabilities float32[N, 10].

    See `weights.load`.
    """
    run = logits(network)
    return devices.single_precision()(lambda images: np.asarray(jax.nn.softmax(run(images))))
