"""The MNIST drill in JAX: five small networks, each one change away from the last."""

__version__ = "0.1.0"
