"""A trained network as its layers and arrays, for whatever is to compute it elsewhere."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdrill import weights as files
from jaxdrill.config.config import Config
from jaxdrill.config.layers import layer_names
from jaxdrill.data.preparation import Preparation
from jaxdrill.nn.functional import EPSILON
from jaxdrill.weights import Weights


@dataclass(frozen=True)
class Trained:
    """The weights of one seed, float32 arrays by name as of `network.named_weights`, or `folded`."""

    config: Config
    weights: Weights
    file: Path  # that they were read from
    preparation: Preparation  # of pictures

    @property
    def layers(self) -> list[dict[str, Any]]:
        """The layers in order, each as its recipe says it and with its `name`."""
        named = zip(layer_names(self.config.network), self.config.network, strict=True)
        return [{"name": name, **layer.model_dump(exclude={"dropout"})} for name, layer in named]

    @property
    def metadata(self) -> dict[str, str]:
        """What a file of the weights says of itself, as JSON."""
        prepared = json.dumps(self.preparation.as_table())
        return {
            "recipe": self.config.model_dump_json(),
            "layers": json.dumps(self.layers),
            "preparation": prepared,
        }


def read(file: Path, fold: bool = True) -> Trained:
    """A trained network of a weights' file; `fold` its batch norms.

    Raises:
        RunError: as `runs.weights.read_weights`.
    """
    weights, config = files.read_weights(file)
    return Trained(config, folded(weights) if fold else weights, file, files.preparation(file))


def folded(weights: Weights) -> Weights:
    """With `conv1.scale` and `conv1.shift` [O], a factor and an addend, in place of the four arrays of
    `conv1.batch_norm`. They follow ReLU, so they cannot go into the kernel."""
    kept = {name: array for name, array in weights.items() if ".batch_norm." not in name}
    for layer in [
        name.removesuffix(".batch_norm.scale")
        for name in weights
        if name.endswith(".batch_norm.scale")
    ]:
        scale, bias, mean, variance = (
            weights[f"{layer}.batch_norm.{key}"].astype(np.float64)
            for key in ("scale", "bias", "mean", "var")
        )
        factor = scale / np.sqrt(variance + EPSILON)
        kept |= {
            f"{layer}.scale": factor.astype(np.float32),
            f"{layer}.shift": (bias - mean * factor).astype(np.float32),
        }
    return kept
