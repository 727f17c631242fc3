"""How seeds and batches are laid out over devices, and how programs are compiled for them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxdrill.config.config import Config, Execution
from jaxdrill.config.layers import infer_shapes
from jaxdrill.errors import RunError
from jaxdrill.training import backend

# The minimum images per device; with fewer, communication costs more than sharding saves. A TPU's vectors hold 128
# images and are padded if there are fewer. The value for GPUs is a guess.
MIN_SHARD = {"cpu": 16, "gpu": 32, "tpu": 128}
SEEDS_PER_DEVICE = 32  # at most, on GPU and TPU
MEMORY_FRACTION = 0.8  # of a device's memory that the seeds on it may need


def resolve(execution: Execution, platform: str, seeds_per_device: int) -> Execution:
    """The strategy with every `auto` replaced by what suits the platform and as many seeds on each device."""
    one_seed = {"cpu": "rows"}.get(platform, "xla")
    several = {"cpu": "rows", "tpu": "xla"}.get(platform, "im2col")
    automatic = {
        "epoch": "steps" if platform == "cpu" else "scan",
        "convolution": one_seed if seeds_per_device == 1 else several,
    }
    return execution.model_copy(
        update={key: value for key, value in automatic.items() if getattr(execution, key) == "auto"}
    )


def seed_bytes(config: Config, convolution: str) -> int:
    """An estimate of the memory that training one seed needs: of each activation the value, its gradient and two
    intermediates, and, where convolutions are products of patches, the largest layer's patches and their gradient
    (1.0 to 2.2 times what XLA allots on CPU to steps 1 and 5: benchmarks/NOTES.md)."""
    flows = infer_shapes(config.network)
    patches = max(after.patches - before.patches for before, after in pairwise(flows))
    values = 4 * flows[-1].activations + (2 * patches if convolution == "im2col" else 0)
    return 4 * config.batch_size * values


def most_seeds_per_device(config: Config, device: Any) -> int:
    """How many seeds a device trains at once: one on CPU, where `vmap` is slow, and on TPU, where all of one seed stays
    in fast memory (benchmarks/NOTES.md), unless `seeds_together` asks for more; elsewhere as many as its memory holds,
    up to SEEDS_PER_DEVICE."""
    if device.platform == "cpu" or (
        device.platform == "tpu" and not config.execution.seeds_together
    ):
        return 1
    limit = (device.memory_stats() or {}).get("bytes_limit")
    convolution = resolve(config.execution, device.platform, 2).convolution
    fitting = (
        int(MEMORY_FRACTION * limit) // seed_bytes(config, convolution)
        if limit
        else SEEDS_PER_DEVICE
    )
    return max(1, min(SEEDS_PER_DEVICE, fitting))


def plan_groups(
    seeds: Sequence[int], num_devices: int, per_device: int, together: int = 0
) -> list[list[int]]:
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
    smallest = MIN_SHARD.get(devices[0].platform, 32)
    most = max(1, min(len(devices) // over_seeds, batch_size // smallest))
    shards = max(n for n in range(1, most + 1) if batch_size % n == 0)
    used = np.array(devices[: over_seeds * shards]).reshape(over_seeds, shards)
    return Mesh(used, ("seeds", "batch"), axis_types=(AxisType.Auto, AxisType.Auto))


def shard_over_mesh(
    function: Callable[..., Any],
    mesh: Mesh,
    specs: Sequence[P],
    by_seed: Sequence[bool],
    count: int,
    vectorize: bool,
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
            own = (
                jax.tree.map(lambda a, n=n: a[n], a) if o else a
                for a, o in zip(arguments, by_seed, strict=True)
            )
            results.append(function(*own))
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    return jax.shard_map(
        on_device, mesh=mesh, in_specs=tuple(specs), out_specs=P("seeds"), check_vma=False
    )


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
        found = backend.available_devices()
        fitting = max(1, min(num_seeds // 2, len(found) * most_seeds_per_device(config, found[0])))
        lower = (
            f"--execution.seeds-together {fitting}" if num_seeds > 1 else "a smaller --batch-size"
        )
        what = f"{num_seeds} seed(s) of batches of {config.batch_size}"
        raise RunError(f"the device has too little memory for {what}; choose {lower}") from error
