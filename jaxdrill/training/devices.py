"""Which devices a run uses, how seeds and batches are laid out over them, and how programs are compiled for them."""

import contextlib
import ctypes
import hashlib
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxdrill.errors import RunError, print_error
from jaxdrill.nn.architecture import trace
from jaxdrill.recipe import Config, Execution

SMALLEST_SHARD = 32  # images a device; with fewer, communication costs more than sharding saves
SEEDS_PER_DEVICE = 32  # at most, on GPU and TPU
MEMORY_FRACTION = 0.8  # of a device's memory that the seeds on it may need
# Without YNNPACK's convolutions: Eigen's are up to six times as fast on the drill's shapes (benchmarks/NOTES.md).
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"}
ARENA_BYTES = 2**26  # of glibc's memory for one thread; a larger array never fits in


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_up(activation_bytes: int) -> None:
    """Makes each CPU core a device of its own and keeps compiled programs for the next start, unless the user has set
    either. To be called before JAX runs; later it only says what is then different.

    Two devices of one core each take about half the time of one device of two cores on these small layers: each core
    runs its own part of every operation instead of waiting for the other.

    Args:
        activation_bytes: what the outputs of all layers take for one batch.
    """
    counted = jax.config.jax_num_cpu_devices > 0 or "device_count" in os.environ.get("XLA_FLAGS", "")  # type: ignore
    if not counted:
        try:
            jax.config.update("jax_num_cpu_devices", cores())
        except RuntimeError:
            if jax.default_backend() == "cpu" and len(jax.devices()) != cores():
                instead = f"{len(jax.devices())} device(s) instead of {cores()}"
                print_error(
                    f"warning: JAX already runs with {instead}, so results differ by rounding; call this first, or set "
                    f"JAX_NUM_CPU_DEVICES={cores()}"
                )
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore
        with contextlib.suppress(OSError):  # a folder that cannot be written: every start compiles
            (folder := _cache_folder()).mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
            keep_memory(ctypes.CDLL(None).mallopt, activation_bytes)


def keep_memory(mallopt: Callable[[int, int], int], activation_bytes: int) -> None:
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
def compiler_options(platform: str) -> dict[str, Any]:
    """Those of CPU_OPTIONS that this jaxlib knows, on CPU."""
    known = {}
    for name, value in CPU_OPTIONS.items() if platform == "cpu" else ():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda: jnp.int32(0)).lower().compile(compiler_options={name: value})
            known[name] = value
    return known


def resolve(execution: Execution, platform: str, seeds_per_device: int) -> Execution:
    """The strategy with every `auto` replaced by what suits the platform and as many seeds on each device."""
    cpu = platform == "cpu"
    one = seeds_per_device == 1 or platform == "tpu"
    automatic = {"epoch": "steps" if cpu else "scan",
                 "convolution": "pairs" if cpu else "plain" if one else "patches"}  # fmt: skip
    return execution.model_copy(
        update={key: value for key, value in automatic.items() if getattr(execution, key) == "auto"}
    )


def seed_bytes(config: Config, convolution: str) -> int:
    """An estimate of the memory that training one seed needs: of each activation the value, its gradient and two
    intermediates, and, where convolutions are products of patches, the largest layer's patches and their gradient
    (1.0 to 2.2 times what XLA allots on CPU to steps 1 and 5: benchmarks/NOTES.md)."""
    flows = trace(config.network)
    patches = max(after.patches - before.patches for before, after in pairwise(flows))
    values = 4 * flows[-1].activations + (2 * patches if convolution == "patches" else 0)
    return 4 * config.batch_size * values


def most_seeds_per_device(config: Config, device: Any) -> int:
    """How many seeds a device trains at once: one on CPU, where `vmap` is slow; elsewhere as many as its memory holds,
    up to SEEDS_PER_DEVICE."""
    if device.platform == "cpu":
        return 1
    limit = (device.memory_stats() or {}).get("bytes_limit")
    convolution = resolve(config.execution, device.platform, 2).convolution
    fitting = int(MEMORY_FRACTION * limit) // seed_bytes(config, convolution) if limit else SEEDS_PER_DEVICE
    return max(1, min(SEEDS_PER_DEVICE, fitting))


def plan_groups(seeds: Sequence[int], num_devices: int, per_device: int, together: int = 0) -> list[list[int]]:
    """The seeds in groups that are trained together, each with equally many seeds on each device that it uses.

    Args:
        seeds: in order.
        num_devices: at hand.
        per_device: at most so many seeds on a device.
        together: at most so many seeds in a group; 0 for no other limit.
    """
    groups, rest = [], list(seeds)
    while rest:
        most = min(len(rest), num_devices * per_device, together or len(rest))
        on_each = -(-most // num_devices)
        size = most // on_each * on_each
        groups.append(rest[:size])
        rest = rest[size:]
    return groups


def make_mesh(num_seeds: int, batch_size: int, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes `seeds` and `batch` over as many devices as evenly divide the seeds and a seed's batch."""
    devices = jax.devices() if devices is None else devices
    over_seeds = max(n for n in range(1, len(devices) + 1) if num_seeds % n == 0)
    most = max(1, min(len(devices) // over_seeds, batch_size // SMALLEST_SHARD))
    shards = max(n for n in range(1, most + 1) if batch_size % n == 0)
    used = np.array(devices[: over_seeds * shards]).reshape(over_seeds, shards)
    return Mesh(used, ("seeds", "batch"), axis_types=(AxisType.Auto, AxisType.Auto))


def shard_over_mesh(
    function: Callable[..., Any], mesh: Mesh, specs: Sequence[P], by_seed: Sequence[bool], count: int, vectorize: bool
) -> Callable[..., Any]:
    """A function of one seed, on one device's shard of the data, for all seeds on all devices of the mesh.

    Args:
        function: of one seed.
        mesh: with the axes `seeds` and `batch`.
        specs: of each argument, over which axes of the mesh it is sharded.
        by_seed: of each argument, whether each seed has its own, along the first axis.
        count: seeds on each device.
        vectorize: whether they are computed by `vmap`, rather than in turn.
    """

    def on_device(*arguments: Any) -> Any:
        if count > 1 and vectorize:
            return jax.vmap(function, [0 if own else None for own in by_seed])(*arguments)
        results = []
        for n in range(count):  # without `vmap` the program of one seed is a tenth faster on CPU
            own = (jax.tree.map(lambda a, n=n: a[n], a) if o else a for a, o in zip(arguments, by_seed, strict=True))
            results.append(function(*own))
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    return jax.shard_map(on_device, mesh=mesh, in_specs=tuple(specs), out_specs=P("seeds"), check_vma=False)


@contextlib.contextmanager
def explained_memory_errors(config: Config, num_seeds: int) -> Iterator[None]:
    """A device out of memory becomes one line.

    Raises:
        RunError: with what to lower, and a value that should fit.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        found = at_hand()
        fitting = max(1, min(num_seeds // 2, len(found) * most_seeds_per_device(config, found[0])))
        lower = f"--execution.seeds-together {fitting}" if num_seeds > 1 else "a smaller --batch-size"
        what = f"{num_seeds} seed(s) of batches of {config.batch_size}"
        raise RunError(f"the device has too little memory for {what}; choose {lower}") from error


def at_hand() -> Sequence[Any]:
    """The devices of the backend in use.

    Raises:
        RunError: there are none of the platform that was asked for, or another process holds them.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # without a plugin for GPUs JAX only asserts
        platforms = jax.config.jax_platforms  # type: ignore
        if "already in use" in f"{error}" or "lockfile" in f"{error}":
            what = f"another process holds the TPU; end it ({error})"
        else:
            what = f"no {platforms} device can be used ({error})"
        raise RunError(f"{what}, or set JAX_PLATFORMS=cpu") from error
