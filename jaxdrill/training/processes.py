"""Several processes that train together, on one host or on many.

Process 0 writes and prints. With a single process, nothing here communicates.
"""

import json
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from jaxdrill.errors import RunError, Stopped, UsageError, exit_code, flush, print_error
from jaxdrill.training import devices

JOIN_SECONDS = 120  # within which all processes must start
HEARTBEAT_SECONDS = 30  # a process that is silent for longer is lost
LOST = re.compile(
    "gloo|peer|coordination|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED|socket", re.IGNORECASE
)


@contextmanager
def distributed(where: str | None) -> Iterator[None]:
    """Run the body as one of several processes. All must run the same command.

    An error ends the process at once, with its exit code. The others may wait for it in an
    all-reduce; the system then tells them. Process 0 ends last, because they depend on it.

    Args:
        where: `auto` if JAX can find the processes (SLURM, Open MPI, Kubernetes, Cloud TPU), or
            `HOST:PORT,NUMBER,COUNT`: the address of process 0, the number of this process, and the
            number of processes. None for a single process.

    Raises:
        UsageError: `where` is neither.
        RunError: the other processes cannot be found.
    """
    if where is None:
        yield
        return
    _join(where)
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        yield
    except BaseException as error:
        if code := _report(error):
            _leave(code)


def _report(error: BaseException) -> int:
    """Print an error, and return the exit code."""
    if isinstance(error, Stopped) and not is_first():
        return error.exit_code  # process 0 prints the message
    if isinstance(error, jax.errors.JaxRuntimeError | ValueError) and LOST.search(f"{error}"):
        error = RunError(
            "another process of this run has ended or cannot be reached. The saved state is "
            "intact. Rerun the command in all processes to resume."
        )

    def fail() -> None:
        raise error

    try:
        return exit_code(fail)
    except BaseException:
        traceback.print_exc()
        return 1


def _join(where: str) -> None:
    """Connect this process with the others."""
    named: dict[str, Any] = {}
    if where != "auto":
        found = re.fullmatch(r"(.+:\d+),(\d+),(\d+)", where)
        if not found or int(found[2]) >= int(found[3]):
            raise UsageError(
                f"--distributed is {where}; allowed: auto, or HOST:PORT,NUMBER,COUNT: the address "
                "of process 0, the number of this process from 0, and the number of processes"
            )
        address, number, count = found[1], int(found[2]), int(found[3])
        named = {"coordinator_address": address, "process_id": number, "num_processes": count}
        print_error(
            f"process {number} of {count} waits up to {JOIN_SECONDS} s for the other processes"
        )
        if number:
            _wait_for(address)
    devices.make_cores_devices()  # now, because JAX runs once the processes are connected
    with suppress(AttributeError):  # SIGTERM is handled here; older versions have no such service
        jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **named,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        fix = "" if named else ". Name them: --distributed HOST:PORT,NUMBER,COUNT"
        raise RunError(f"the other processes cannot be found ({error}){fix}") from error


def _wait_for(address: str) -> None:
    """Wait until process 0 listens. XLA would abort the process instead of raising an error.

    Raises:
        RunError: process 0 does not answer in time.
    """
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            return socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            temporary = isinstance(error, ConnectionError | TimeoutError)
            if time.monotonic() > deadline or not temporary:
                what = f"process 0 does not answer at {address} ({error})"
                raise RunError(f"{what}. Start process 0 there.") from error
            time.sleep(0.2)


def _leave(code: int) -> None:
    """End the process without waiting for the others, as `jax.distributed` does at a normal end."""
    if is_first():
        time.sleep(1)
    flush()
    os._exit(code)


def count() -> int:
    """Return the number of processes that train together."""
    return jax.process_count()


def is_first() -> bool:
    """Return True in process 0, which writes and prints."""
    return jax.process_index() == 0


def to_devices(tree: Any, sharding: Sharding) -> Any:
    """Copy arrays, the same in all processes, to the devices of a sharding."""
    if count() == 1:
        return jax.device_put(tree, sharding)

    def put(array: Any) -> jax.Array:
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(array)))
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def to_host(tree: Any) -> Any:
    """Copy whole arrays from the devices to memory. Collective: every process must call it."""
    if count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def broadcast_from_first(compute: Callable[[], Any]) -> Any:
    """Return in every process what `compute` returns in process 0, through JSON.

    Collective: every process must call it. An exception in process 0 ends all processes.
    """
    if count() == 1:
        return compute()
    text, failure = b"", None
    if is_first():
        try:
            text = json.dumps({"value": compute()}).encode()
        except Exception as error:
            failure, text = (
                error,
                json.dumps({"exit_code": getattr(error, "exit_code", 1)}).encode(),
            )
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    sent = np.frombuffer(text.ljust(size), np.uint8) if is_first() else np.zeros(size, np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(sent), np.uint8)
    if failure:
        raise failure
    answer = json.loads(bytes(received))
    if "exit_code" in answer:
        _leave(answer["exit_code"])  # process 0 prints the reason
    return answer["value"]


def broadcast_arrays(tree: Any, like: Any) -> Any:
    """Return the arrays in memory of process 0. Collective: every process must call it.

    Args:
        tree: arrays in process 0; ignored in the others.
        like: a tree with the same shapes and dtypes.
    """
    if count() == 1:
        return tree
    own = tree if is_first() else jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like)
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(own))


def all_reduce_max(number: int) -> int:
    """Return the maximum over all processes. Collective: every process must call it."""
    if count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))
