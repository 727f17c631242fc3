"""Safetensors files: arrays by name, which any framework reads. The layers and the recipe are in the metadata."""

from pathlib import Path

from jaxdrill import array_files
from jaxdrill.weights.pytorch import to_pytorch
from jaxdrill.weights.trained import Trained


def write(file: Path, trained: Trained) -> None:
    """With jaxdrill's own names and layout: kernels [K, K, I, O]."""
    array_files.write(file, trained.weights, trained.metadata)


def write_pytorch(file: Path, trained: Trained) -> None:
    """With PyTorch's names and layout: weights [O, I, K, K]."""
    array_files.write(file, to_pytorch(trained.weights), trained.metadata)
