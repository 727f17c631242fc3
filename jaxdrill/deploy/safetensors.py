"""Safetensors files: arrays by name, which any framework reads. The layers and the recipe are in the metadata."""

from pathlib import Path

from jaxdrill import tensors
from jaxdrill.deploy.trained import Trained
from jaxdrill.nn.pytorch import to_pytorch


def write(file: Path, trained: Trained) -> None:
    """With jaxdrill's own names and layout: kernels [K, K, I, O]."""
    tensors.write(file, trained.weights, trained.metadata)


def write_pytorch(file: Path, trained: Trained) -> None:
    """With PyTorch's names and layout: weights [O, I, K, K]."""
    tensors.write(file, to_pytorch(trained.weights), trained.metadata)
