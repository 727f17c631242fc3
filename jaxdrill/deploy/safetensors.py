"""Safetensors files: arrays by name, which any framework reads. The layers and the recipe are in the metadata."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from jaxdrill.deploy.trained import Trained
from jaxdrill.files import replacing
from jaxdrill.nn.pytorch import to_pytorch


def write(file: Path, trained: Trained) -> None:
    """With jaxdrill's own names and layout: kernels [K, K, I, O]."""
    with replacing(file) as temporary:
        arrays = {name: np.ascontiguousarray(a) for name, a in trained.weights.items()}
        temporary.write_bytes(save(arrays, trained.metadata))


def write_pytorch(file: Path, trained: Trained) -> None:
    """With PyTorch's names and layout: weights [O, I, K, K]."""
    write(file, Trained(trained.config, to_pytorch(trained.weights), trained.file))
