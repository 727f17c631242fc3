"""Which devices a run uses, how they share seeds and batches, and how programs are compiled for them."""

import contextlib
import ctypes
import hashlib
import math
import os
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxdrill.config import Execution

SMALLEST_SHARE = 32  # images a device; with fewer, talking costs more than sharing saves
SEEDS_TOGETHER = 32  # on GPU and TPU
# Without YNNPACK's convolutions: Eigen's are up to six times as fast on the drill's shapes (benchmarks/NOTES.md).
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"}
ARENA_BYTES = 2**26  # of glibc's memory for one thread; a larger array never fits in


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_up(activation_bytes: int) -> None:
    """Makes each CPU core a device of its own and keeps compiled programs for the next start, unless the user has set
    either. To be called before JAX runs.

    Two devices of one core each take about half the time of one device of two cores on these small layers: each core
    runs its own share of every operation instead of waiting for the other.

    Args:
        activation_bytes: what the outputs of all layers take for one batch.
    """
    counted = jax.config.jax_num_cpu_devices > 0 or "device_count" in os.environ.get("XLA_FLAGS", "")  # type: ignore
    with contextlib.suppress(RuntimeError):  # JAX already runs in this process
        if not counted:
            jax.config.update("jax_num_cpu_devices", cores())
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore
        with contextlib.suppress(OSError):  # a folder that cannot be written: every start compiles
            (folder := _cache_folder()).mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        _keep_memory(ctypes.CDLL(None).mallopt, activation_bytes)


def _keep_memory(mallopt: Callable[[int, int], int], activation_bytes: int) -> None:
    """Has glibc keep the memory of large arrays between steps, where it would return it and fetch it anew each time."""
    mallopt(-3, 2**30)  # M_MMAP_THRESHOLD, bytes
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes
    if activation_bytes > ARENA_BYTES:
        mallopt(-8, 1)  # M_ARENA_MAX: all threads share the arena that can grow; it costs small arrays a tenth


def _cache_folder() -> Path:
    """A folder for this kind of processor: a program for another one could stop at an unknown instruction."""
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        flags = platform.processor()
    kind = hashlib.sha256(flags.encode()).hexdigest()[:12]
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxdrill" / f"xla_{kind}"


@cache
def compiler_options() -> dict[str, Any]:
    """Those of CPU_OPTIONS that this jaxlib knows, on CPU."""
    if jax.default_backend() != "cpu":
        return {}
    known = {}
    for name, value in CPU_OPTIONS.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda: jnp.int32(0)).lower().compile(compiler_options={name: value})
            known[name] = value
    return known


def compile_lowered(lowered: Any) -> Any:
    """A lowered program compiled, or read from the cache of earlier starts."""
    return lowered.compile(compiler_options=compiler_options())


def resolve(execution: Execution, seeds: int) -> Execution:
    """The strategy with every `auto` replaced by what suits the devices and as many seeds together."""
    cpu, devices = jax.default_backend() == "cpu", len(jax.devices())
    together = execution.seeds_together or (devices if cpu else SEEDS_TOGETHER)
    epoch = {"auto": "steps" if cpu else "scan"}.get(execution.epoch, execution.epoch)
    convolution = {"auto": "pairs" if cpu else "plain" if seeds <= devices else "patches"}.get(
        execution.convolution, execution.convolution
    )
    return Execution(epoch, together, convolution)


def make_mesh(seeds: int, batch_size: int) -> Mesh:
    """A mesh with the axes `seeds` and `batch` over as many devices as evenly share the seeds and a seed's batch."""
    devices = jax.devices()
    over_seeds = math.gcd(seeds, len(devices))
    shares = max(1, min(len(devices) // over_seeds, batch_size // SMALLEST_SHARE))
    shares = next(n for n in range(shares, 0, -1) if batch_size % n == 0)
    shape, types = (over_seeds, shares), (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(shape, ("seeds", "batch"), devices=devices[: over_seeds * shares], axis_types=types)


def over_devices(function: Callable[..., Any], mesh: Mesh, *specs: P) -> Callable[..., Any]:
    """A function of one seed, on one device's share of the data, for all seeds on all devices of the mesh.

    `specs` says of each argument over which axes of the mesh it is split; the seeds' axis is the arrays' first.
    """
    mapped = [0 if spec == P("seeds") else None for spec in specs]

    def on_device(*arguments: Any) -> Any:
        if len(jax.tree.leaves(arguments[0])[0]) > 1:
            return jax.vmap(function, mapped)(*arguments)
        # One seed: without `vmap` the program is a tenth faster on CPU.
        first = (jax.tree.map(lambda a: a[0], a) if m == 0 else a for a, m in zip(arguments, mapped, strict=True))
        return jax.tree.map(lambda a: a[None], function(*first))

    return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=P("seeds"), check_vma=False)


def all_sum(tree: Any, axis: str | None) -> Any:
    """The sums over the devices along a mesh axis, in one message; whole numbers must stay below 2**24."""
    if axis is None:
        return tree
    flat, unravel = ravel_pytree(jax.tree.map(lambda a: a.astype(jnp.float32), tree))
    return jax.tree.map(lambda total, a: total.astype(a.dtype), unravel(lax.psum(flat, axis)), tree)
