"""Weights and batches for the comparison with PyTorch, drawn by NumPy's generator."""

import numpy as np

# With the recipes' learning rate of 0.01, rounding in single precision changes the losses of step
# 2's network by 1e-3 in 20 steps (PyTorch against itself in double precision). So its cases use
# smaller learning rates.
STEPS, BATCH = 20, 64
# Kernel side, input channels, output channels, batch norm: each convolution in order.
NETWORKS = {
    "step_1": [
        (3, 1, 32, False),
        (3, 32, 64, False),
        (3, 64, 128, False),
        (1, 128, 32, False),
        (3, 32, 64, False),
        (3, 64, 128, False),
        (1, 128, 10, False),
        (7, 10, 10, False),
    ],
    "step_2": [
        (3, 1, 10, True),
        (3, 10, 16, True),
        (1, 16, 10, True),
        (3, 10, 20, True),
        (3, 20, 16, True),
        (3, 16, 10, True),
        (3, 10, 16, True),
        (1, 16, 10, False),
    ],
}
OPTIMIZERS = {  # case: network, optimiser, momentum, learning rate
    "step_1_sgd_0.9": ("step_1", "sgd", 0.9, 0.01),
    "sgd_0.9": ("step_2", "sgd", 0.9, 0.0003),
    "sgd_0.95": ("step_2", "sgd", 0.95, 0.0003),
    "adam": ("step_2", "adam", 0.0, 0.0001),
}


def weights(network: str) -> list[dict[str, np.ndarray]]:
    """Return kernel float32[K, K, I, O], and scale and bias float32[O], of each convolution."""
    generator, layers = np.random.default_rng(0), []
    for kernel, inputs, outputs, batch_norm in NETWORKS[network]:
        bound = (kernel * kernel * inputs) ** -0.5
        layer = {"kernel": generator.uniform(-bound, bound, (kernel, kernel, inputs, outputs))}
        if batch_norm:
            layer["scale"] = generator.uniform(0.5, 1.5, outputs)
            layer["bias"] = generator.uniform(-0.5, 0.5, outputs)
        layers.append({name: array.astype(np.float32) for name, array in layer.items()})
    return layers


def batches() -> tuple[np.ndarray, np.ndarray]:
    """Return uint8[STEPS, BATCH, 28, 28, 1], noise that depends on the class, and int32 labels."""
    generator = np.random.default_rng(1)
    templates = generator.random((10, 28, 28, 1)) < 0.3
    labels = generator.integers(0, 10, (STEPS, BATCH), dtype=np.int32)
    brightness = generator.integers(0, 256, (STEPS, BATCH, 28, 28, 1))
    return (templates[labels] * brightness).astype(np.uint8), labels
