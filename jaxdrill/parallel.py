"""Which devices a run uses, and how a batch is shared between them."""

import contextlib
import os

import jax
from jax.sharding import AxisType, Mesh

SMALLEST_SHARE = 32  # images a device; with fewer, talking costs more than sharing saves


def use_cpu_cores() -> None:
    """Makes each CPU core a device of its own, unless devices are already set up or counted by the user.

    Two devices of one core each take about half the time of one device of two cores on these small layers: each core
    runs its own share of every operation instead of waiting for the other.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counted = jax.config.jax_num_cpu_devices > 0 or "device_count" in os.environ.get("XLA_FLAGS", "")  # type: ignore
    with contextlib.suppress(RuntimeError):  # JAX already runs in this process
        if not counted:
            jax.config.update("jax_num_cpu_devices", cores)


def make_mesh(batch_size: int) -> Mesh:
    """A mesh of one axis, `batch`, over as many devices as share a batch evenly."""
    devices = jax.devices()
    shares = max(1, min(len(devices), batch_size // SMALLEST_SHARE))
    shares = next(n for n in range(shares, 0, -1) if batch_size % n == 0)
    return jax.make_mesh((shares,), ("batch",), devices=devices[:shares], axis_types=(AxisType.Auto,))
