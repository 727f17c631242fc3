"""Read, write, convert and run trained weights.

A weights file is a safetensors file. It contains float32 arrays by name and JSON texts as metadata:
the recipe, and how pictures must be prepared for the network. Importing this module does not import
JAX.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxdrill import array_files
from jaxdrill.config import from_table
from jaxdrill.config.config import Config
from jaxdrill.config.layers import Layer, infer_shapes, layer_names
from jaxdrill.errors import RunError, UsageError
from jaxdrill.files import parse_json

if TYPE_CHECKING:
    from jaxdrill.data.preparation import Preparation

Predict = Callable[[Any], np.ndarray]
Weights = dict[str, np.ndarray]  # by the names of `nn.network.named_weights`
MISSING = "Every seed that finishes training writes weights/seed_N.safetensors."
RETRAIN = "Rerun the command that trained it."


class TrainedNetwork(NamedTuple):
    """The content of a weights file.

    weights: float32 arrays by name, such as `conv1.kernel` [K, K, I, O].
    config: the recipe that the network was trained with.
    preparation: how a picture must be prepared for the network.
    """

    weights: Weights
    config: Config
    preparation: "Preparation"

    @property
    def layers(self) -> list[dict[str, Any]]:
        """Return the name and the recipe fields of each layer, in the order of the network."""
        named = zip(layer_names(self.config.network), self.config.network, strict=True)
        return [{"name": name, **layer.model_dump(exclude={"dropout"})} for name, layer in named]

    @property
    def metadata(self) -> dict[str, str]:
        """Return the metadata of an exported file, as JSON texts."""
        return {
            "recipe": self.config.model_dump_json(),
            "layers": json.dumps(self.layers),
            "preparation": json.dumps(self.preparation.as_table()),
        }

    def arrays(self, fold: bool) -> Weights:
        """Return the weights. If `fold`, replace each batch norm by a scale and a shift."""
        from jaxdrill.weights.convert import fold_batch_norm

        return fold_batch_norm(self.weights) if fold else self.weights


def weights_file(run: Path, seed: int) -> Path:
    """Return the path of a seed's weights file in a run folder."""
    return run / "weights" / f"seed_{seed}.safetensors"


def seeds(run: Path) -> list[int]:
    """Return the seeds of a run folder that have a weights file, in ascending order.

    Raises:
        RunError: no seed has a weights file.
    """
    numbers = [file.stem.removeprefix("seed_") for file in run.glob("weights/seed_*.safetensors")]
    if found := sorted(int(number) for number in numbers if number.isdecimal()):
        return found
    raise RunError(f"{run} contains no weights. {MISSING}")


def find(run: Path, seed: int | None = None) -> Path:
    """Return the weights file of a seed.

    Args:
        run: a run folder. If `run` is a file and `seed` is None, `run` is returned.
        seed: a seed in the run folder; the first seed if None.

    Raises:
        RunError: `seed` is None and no seed has a weights file.
    """
    if run.is_file() and seed is None:
        return run
    return weights_file(run, seeds(run)[0] if seed is None else seed)


def write_weights(
    file: Path, weights: Mapping[str, np.ndarray], config: Config, metadata: Mapping[str, Any]
) -> None:
    """Write a weights file. An existing file is replaced.

    Args:
        file: the path.
        weights: float32 arrays by name, as from `nn.network.named_weights`.
        config: the recipe, stored in the metadata.
        metadata: further metadata; each value is stored as JSON.
    """
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    array_files.write(file, weights, {"recipe": config.model_dump_json(), **texts})


def read_weights(file: Path) -> TrainedNetwork:
    """Read and validate a weights file.

    Files of earlier versions do not record the preparation. It then follows from the name of their
    dataset; pictures for unknown datasets are prepared as for MNIST.

    Raises:
        RunError: the file is missing or damaged, or its arrays do not fit the network of its
        recipe.
    """
    from jaxdrill.data.preparation import from_metadata
    from jaxdrill.weights.inference import find_mismatch

    arrays, metadata = _read_arrays(file, f". {MISSING}")
    try:
        if "recipe" not in metadata:
            raise ValueError("recipe is missing")
        known = ("recipe", "preparation", "dataset")
        values = {key: parse_json(metadata[key]) for key in known if key in metadata}
        table = values["recipe"]
        config = from_table(table.pop("name"), table, "")
        infer_shapes(config.network)
        preparation = from_metadata(values, values.get("dataset") or config.data)
    except (UsageError, ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"{file} is damaged: its metadata cannot be read ({error})"
        raise RunError(f"{what}. {RETRAIN}") from error
    if mismatch := find_mismatch(arrays, config.network):
        what = f"{file} does not contain the weights of its recipe's network: {mismatch}"
        raise RunError(f"{what}. {RETRAIN}")
    return TrainedNetwork(arrays, config, preparation)


def initial_weights(file: Path, layers: Sequence[Layer]) -> Weights:
    """Read the initial weights of a training run.

    Args:
        file: a safetensors file that a run, the export or PyTorch wrote, with jaxdrill's or
            PyTorch's names.
        layers: the network to train.

    Returns:
        float32 arrays with jaxdrill's names.

    Raises:
        RunError: the file is missing or damaged.
        UsageError: the file contains the weights of another network.
    """
    from jaxdrill.weights.convert import from_pytorch, is_pytorch
    from jaxdrill.weights.inference import find_mismatch

    arrays, _ = _read_arrays(file)
    arrays = from_pytorch(arrays) if is_pytorch(arrays) else arrays
    if mismatch := find_mismatch(arrays, layers):
        message = f"--init-from {file} does not fit the network: {mismatch}"
        if any(name.endswith(".shift") for name in arrays):
            message += ". Its batch norms are folded: export it with --batch-norm kept"
        raise UsageError(message)
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def _read_arrays(file: Path, advice: str = "") -> tuple[Weights, dict[str, str]]:
    """Read the arrays and the metadata of a safetensors file."""
    try:
        return array_files.read(file)
    except FileNotFoundError as error:
        raise RunError(f"{file} does not exist{advice}") from error


def load(run: Path, seed: int | None = None) -> Predict:
    """Load a trained network as a function from images to probabilities float32[N, 10].

    The images are uint8[N, 28, 28] or [N, 28, 28, 1], 0..255, and must look like the training
    images: for MNIST light on dark, scaled and centred; for other data with the scale, position and
    polarity of that data. The function does not change the images. `predict.read_picture` prepares
    a picture.

    Args:
        run: a run folder, or a weights file.
        seed: a seed in the run folder; the first seed if None.

    Raises:
        RunError: the weights are missing or damaged, or do not fit the network of their recipe.
    """
    from jaxdrill.weights import inference

    return inference.probabilities(read_weights(find(run, seed)))
