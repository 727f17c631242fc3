"""Trained weights as safetensors files, which need neither Orbax nor a mesh to be read, and networks from them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxdrill.config import from_table
from jaxdrill.errors import RunError, UsageError
from jaxdrill.files import replacing
from jaxdrill.recipe import Config
from jaxdrill.runs.folder import weights_file

Predict = Callable[[Any], np.ndarray]


def write_weights(file: Path, weights: Mapping[str, np.ndarray], config: Config, metadata: Mapping[str, Any]) -> None:
    """Replaces the file. `weights` are float32 arrays by name, such as `conv1.kernel` (`network.named_weights`); the
    file's metadata hold the recipe and `metadata` as JSON."""
    texts = {"recipe": config.model_dump_json()} | {key: json.dumps(value) for key, value in metadata.items()}
    with replacing(file) as temporary:
        save_file({name: np.ascontiguousarray(a) for name, a in weights.items()}, temporary, texts)


def read_weights(file: Path) -> tuple[dict[str, np.ndarray], Config]:
    """The arrays of a file by name, and the recipe that they were trained with.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        with safe_open(file, "numpy") as content:
            table = json.loads(content.metadata()["recipe"])
            config = from_table(table.pop("name"), table, f"{file}: ")
            return {name: content.get_tensor(name) for name in content.keys()}, config  # noqa: SIM118
    except FileNotFoundError as error:
        raise RunError(f"there is no {file}; a finished seed leaves it") from error
    except (OSError, SafetensorError, UsageError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{file} is damaged ({error}); repeat the command that trained it") from error


def load(run: Path, seed: int | None = None) -> Predict:
    """A trained network as a function: images uint8[N, 28, 28] or [N, 28, 28, 1], 0..255, light on dark as in MNIST, to
    probabilities float32[N, 10].

    Args:
        run: a run folder, or a `.safetensors` file in it.
        seed: which of the folder's seeds; the first if None.

    Raises:
        RunError: the weights are missing, damaged, or not those of their recipe's network.
    """
    import jax

    from jaxdrill.nn import network
    from jaxdrill.training.augmentation import normalize

    file = weights_file(run, seed or 0) if seed is not None or not run.is_file() else run
    if seed is None and not run.is_file():
        file = min(run.glob("weights/seed_*.safetensors"), key=lambda path: int(path.stem[5:]), default=file)
    weights, config = read_weights(file)
    expected = jax.eval_shape(lambda: network.named_weights(*network.init(config.network, jax.random.key(0))))
    shapes = {name: (a.shape, a.dtype) for name, a in weights.items()}
    if shapes != {name: (a.shape, a.dtype) for name, a in expected.items()}:
        raise RunError(f"{file} does not hold the weights of its recipe's network; repeat the command that trained it")
    graph, (params, batch_stats) = network.make_graph(config.network), network.from_named_weights(weights)

    @jax.jit
    def probabilities(images: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("float32"):
            return jax.nn.softmax(network.apply(graph, params, batch_stats, normalize(images), train=False)[0])

    def predict(images: Any) -> np.ndarray:
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] not in ((28, 28), (28, 28, 1)):
            raise ValueError(f"images are {images.dtype}{list(images.shape)}; they must be uint8[N, 28, 28]")
        return np.asarray(probabilities(images.reshape(-1, 28, 28, 1)))

    return predict
