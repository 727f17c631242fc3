"""Convert weights between jaxdrill's and PyTorch's names and layouts, and fold batch norms.

`conv1.kernel` [K, K, I, O] is PyTorch's `conv1.weight` [O, I, K, K]. `conv1.depthwise` [K, K, 1, O]
is `conv1.depthwise.weight` [O, 1, K, K], the weight of a convolution with O groups.
"""

from collections.abc import Mapping

import numpy as np

from jaxdrill.nn.functional import EPSILON
from jaxdrill.weights import Weights

# The names of a layer's arrays in jaxdrill, and the same names in PyTorch.
KERNELS = {"kernel": "weight", "depthwise": "depthwise.weight"}
BATCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
FOLDED = ("scale", "shift")  # the arrays that replace those of a batch norm
TO_PYTORCH = KERNELS | {f"batch_norm.{a}": f"batch_norm.{b}" for a, b in BATCH_NORM.items()}
FROM_PYTORCH = {theirs: ours for ours, theirs in TO_PYTORCH.items()}


def to_pytorch(weights: Mapping[str, np.ndarray]) -> Weights:
    """Convert weights for a PyTorch module of the same layers."""
    return {
        _rename(name, TO_PYTORCH): array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        for name, array in weights.items()
    }


def from_pytorch(weights: Mapping[str, np.ndarray]) -> Weights:
    """Convert the weights of a PyTorch module. PyTorch's `num_batches_tracked` is left out."""
    return {
        _rename(name, FROM_PYTORCH): array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        for name, array in weights.items()
        if not name.endswith(".num_batches_tracked")
    }


def is_pytorch(names: Mapping[str, np.ndarray]) -> bool:
    """Return True if weights have PyTorch's names."""
    return any(name.endswith(".weight") for name in names)


def _rename(name: str, table: Mapping[str, str]) -> str:
    """Translate the part of an array's name after the layer's name. Keep unknown names."""
    layer, _, array = name.partition(".")
    return f"{layer}.{table[array]}" if array in table else name


def fold_batch_norm(weights: Mapping[str, np.ndarray]) -> Weights:
    """Replace the four arrays of each `conv1.batch_norm` by `conv1.scale` and `conv1.shift`,
    float32[O].

    ReLU comes before batch norm, so scale and shift cannot be multiplied into the kernel.
    """
    folded = {name: array for name, array in weights.items() if ".batch_norm." not in name}
    for layer in [name.partition(".batch_norm.")[0] for name in weights if name.endswith(".mean")]:
        scale, bias, mean, variance = (
            weights[f"{layer}.batch_norm.{array}"].astype(np.float64) for array in BATCH_NORM
        )
        scale /= np.sqrt(variance + EPSILON)
        for array, values in zip(FOLDED, (scale, bias - mean * scale), strict=True):
            folded[f"{layer}.{array}"] = values.astype(np.float32)
    return folded
