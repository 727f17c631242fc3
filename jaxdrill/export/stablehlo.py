"""A program that JAX runs without jaxdrill, for any number of images on CPU, CUDA and TPU (`jax.export`)."""

from pathlib import Path

import flatbuffers  # noqa: F401 - jax.export needs it, and jax does not install it
import jax
import jax.numpy as jnp
from jax import export

from jaxdrill.files import write_bytes
from jaxdrill.nn import network
from jaxdrill.training import devices
from jaxdrill.weights import read_weights
from jaxdrill.weights.trained import Trained

PLATFORMS = ("cpu", "cuda", "tpu")


@devices.single_precision()
def write(file: Path, trained: Trained) -> None:
    """From images uint8[N, 28, 28], 0..255, to logits float32[N, 10]. The weights are constants in the program; batch
    norms are kept in it, as compilers fold constants."""
    weights, config = read_weights(trained.file)
    graph, arrays = network.make_graph(config.network), network.from_named_weights(weights)

    def logits(images: jax.Array) -> jax.Array:
        return network.apply(graph, *arrays, images[..., None], train=False)[0]

    images = jax.ShapeDtypeStruct(export.symbolic_shape("n, 28, 28"), jnp.uint8)
    with jax.default_matmul_precision("float32"):
        program = export.export(jax.jit(logits), platforms=PLATFORMS)(images)
    write_bytes(file, bytes(program.serialize()))
