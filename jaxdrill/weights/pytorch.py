"""Weights in PyTorch's names and layout, and back. No JAX, no PyTorch.

`conv1.kernel` [K, K, I, O] is `conv1.weight` [O, I, K, K] there, `conv2.depthwise` [K, K, 1, O] is
`conv2.depthwise.weight` [O, 1, K, K], of a convolution of O groups, and `conv1.batch_norm.scale`, `.bias`, `.mean` and
`.var` are `conv1.batch_norm.weight`, `.bias`, `.running_mean` and `.running_var`.
"""

from collections.abc import Mapping

import numpy as np

ENDINGS = {
    ".batch_norm.scale": ".batch_norm.weight",
    ".batch_norm.bias": ".batch_norm.bias",
    ".batch_norm.mean": ".batch_norm.running_mean",
    ".batch_norm.var": ".batch_norm.running_var",
    ".depthwise": ".depthwise.weight",
    ".kernel": ".weight",
}


def to_pytorch(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights by name, as `network.named_weights`, for a PyTorch module of the same layers."""
    return {
        _renamed(name, ENDINGS): array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        for name, array in weights.items()
    }


def from_pytorch(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `to_pytorch`. What PyTorch counts of its own, `num_batches_tracked`, is left out."""
    endings = {there: here for here, there in ENDINGS.items()}
    kept = {
        name: array for name, array in weights.items() if not name.endswith(".num_batches_tracked")
    }
    return {
        _renamed(name, endings): array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        for name, array in kept.items()
    }


def is_pytorch(names: Mapping[str, np.ndarray]) -> bool:
    """Whether weights are named as PyTorch's are."""
    return any(name.endswith(".weight") for name in names)


def _renamed(name: str, endings: Mapping[str, str]) -> str:
    """The name with its ending replaced, if it is one of these."""
    for old, new in endings.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
