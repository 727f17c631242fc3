"""Trained weights as safetensors files, which need neither checkpoint nor mesh to be read, and networks from them."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxdrill import array_files
from jaxdrill.config import from_table
from jaxdrill.config.config import Config
from jaxdrill.config.layers import Layer, infer_shapes
from jaxdrill.data.preparation import Preparation, from_metadata
from jaxdrill.errors import RunError, UsageError
from jaxdrill.files import parse_json
from jaxdrill.runs.folder import weights_file
from jaxdrill.weights.pytorch import from_pytorch, is_pytorch

Predict = Callable[[Any], np.ndarray]
Weights = dict[str, np.ndarray]  # as of `network.named_weights`


def write_weights(
    file: Path, weights: Mapping[str, np.ndarray], config: Config, metadata: Mapping[str, Any]
) -> None:
    """Replaces the file. `weights` are float32 arrays by name, such as `conv1.kernel` (`network.named_weights`); the
    file's metadata hold the recipe and `metadata` as JSON."""
    texts = {"recipe": config.model_dump_json()} | {
        key: json.dumps(value) for key, value in metadata.items()
    }
    array_files.write(file, weights, texts)


def read_weights(file: Path) -> tuple[Weights, Config]:
    """The arrays of a file by name, and the recipe that they were trained with.

    Raises:
        RunError: the file is missing, damaged, or does not hold the weights of its recipe's network.
    """
    arrays, metadata = _read(file, "; a finished seed leaves it")
    again = "repeat the command that trained it"
    try:
        table = parse_json(metadata["recipe"])
        config = from_table(table.pop("name"), table, "")
        infer_shapes(config.network)
    except (UsageError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{file} is damaged: it holds no recipe ({error}); {again}") from error
    if wrong := _misfit(arrays, config.network):
        raise RunError(
            f"{file} does not hold the weights of its recipe's network: {wrong}; {again}"
        )
    return arrays, config


def preparation(file: Path) -> Preparation:
    """Return how a picture must be prepared for the network of a weights file, as its metadata record it.

    Files that were written before it was recorded name their dataset: pictures are prepared as that needs it, and for
    unknown datasets as MNIST.

    Raises:
        RunError: the file is missing or damaged.
    """
    _, metadata = _read(file, "; a finished seed leaves it")
    try:
        texts = {
            key: parse_json(metadata[key]) for key in ("preparation", "dataset") if key in metadata
        }
        dataset = texts.get("dataset") or parse_json(metadata["recipe"])["data"]
        return from_metadata(texts, dataset)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(
            f"{file} is damaged: its metadata cannot be read ({error}). Train the seed again."
        ) from error


def initial_weights(file: Path, layers: Sequence[Layer]) -> Weights:
    """The weights that a run of these layers is to start from, float32 arrays by name, of a file that a run, the export
    or PyTorch left (`nn.pytorch`).

    Raises:
        RunError: the file is missing or damaged.
        UsageError: it holds the weights of another network.
    """
    arrays, _ = _read(file)
    arrays = from_pytorch(arrays) if is_pytorch(arrays) else arrays
    if wrong := _misfit(arrays, layers):
        folded = any(name.endswith(".shift") for name in arrays)
        advice = "; its batch norms are folded: export it with --batch-norm kept" if folded else ""
        raise UsageError(f"--init-from {file} does not fit the network: {wrong}{advice}")
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def _read(file: Path, advice: str = "") -> tuple[Weights, dict[str, str]]:
    """The arrays and the metadata of a safetensors file."""
    try:
        return array_files.read(file)
    except FileNotFoundError as error:
        raise RunError(f"there is no {file}{advice}") from error


def _misfit(weights: Weights, layers: Sequence[Layer]) -> str | None:
    """Why arrays are not the weights of a network of these layers, or None."""
    import jax

    from jaxdrill.nn import network
    from jaxdrill.training import devices

    devices.available_devices()  # else JAX fails with a traceback where its platform is missing
    expected = jax.eval_shape(
        lambda: network.named_weights(*network.init(layers, jax.random.key(0)))
    )
    for name in [*expected, *weights]:
        if name not in weights:
            return f"it has no {name}"
        if name not in expected:
            return f"it has {name}, and the network has not"
        if weights[name].shape != expected[name].shape:
            return f"{name} is {list(weights[name].shape)}, in the network {list(expected[name].shape)}"
        if weights[name].dtype not in (np.float16, np.float32, np.float64):
            return f"{name} is {weights[name].dtype}; save it as float32"
        if not np.isfinite(weights[name]).all():
            return f"{name} is not all finite numbers"
    return None


def seeds(run: Path) -> list[int]:
    """The seeds of a run folder that have weights, in order.

    Raises:
        RunError: there are none.
    """
    numbers = [file.stem.removeprefix("seed_") for file in run.glob("weights/seed_*.safetensors")]
    if found := sorted(int(number) for number in numbers if number.isdecimal()):
        return found
    raise RunError(f"{run} holds no weights; a finished seed leaves weights/seed_N.safetensors")


def find(run: Path, seed: int | None = None) -> Path:
    """The weights' file of a run folder's seed, the first if None; or `run` itself if it is a file.

    Raises:
        RunError: there is none.
    """
    return (
        run
        if run.is_file() and seed is None
        else weights_file(run, seeds(run)[0] if seed is None else seed)
    )


def load(run: Path, seed: int | None = None) -> Predict:
    """Return a trained network as a function from images to probabilities float32[N, 10].

    The images are uint8[N, 28, 28] or [N, 28, 28, 1], 0..255, as the training images were: for MNIST light on dark,
    scaled and centred; for other data in the scale, place and polarity of that data. Nothing is changed in them:
    `predict.digit.read(path, preparation(file))` prepares a picture.

    Args:
        run: a run folder, or a `.safetensors` file in it.
        seed: which of the folder's seeds; the first if None.

    Raises:
        RunError: the weights are missing, damaged, or not those of their recipe's network.
    """
    import jax

    from jaxdrill.training import devices

    logits = load_logits(find(run, seed))
    return devices.single_precision()(lambda images: np.asarray(jax.nn.softmax(logits(images))))


def load_logits(file: Path) -> Predict:
    """As `load`, of a file, but logits float32[N, 10]."""
    import jax

    from jaxdrill.nn import network
    from jaxdrill.training import devices

    weights, config = read_weights(file)
    graph, (params, batch_stats) = (
        network.make_graph(config.network),
        network.from_named_weights(weights),
    )

    @devices.single_precision()
    def logits(images: Any) -> np.ndarray:
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] not in ((28, 28), (28, 28, 1)):
            raise ValueError(
                f"images are {images.dtype}{list(images.shape)}; they must be uint8[N, 28, 28]"
            )
        if not len(images):
            return np.zeros((0, 10), np.float32)
        x = jax.numpy.asarray(images.reshape(-1, 28, 28, 1))
        with jax.default_matmul_precision("float32"):
            return np.asarray(_compiled()(graph, params, batch_stats, x))

    return logits


@cache
def _compiled() -> Callable[..., Any]:
    """The network as one program a recipe, whose seeds share it."""
    import jax

    from jaxdrill.nn import network

    return jax.jit(lambda *arguments: network.apply(*arguments, train=False)[0], static_argnums=0)
