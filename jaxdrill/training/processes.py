"""Several processes that train as one, on one host or many: who writes, what all agree on, and arrays that are spread
over them. With a single process nothing here communicates."""

import json
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from jaxdrill.errors import RunError, Stopped, UsageError, exit_code, flush, print_error
from jaxdrill.training import backend

JOIN_SECONDS = 120  # in which all processes must have started
HEARTBEAT_SECONDS = 30  # after which one that says nothing is lost
LOST = re.compile(
    "gloo|peer|coordination|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED|socket", re.IGNORECASE
)


def run_distributed(where: str | None, command: Callable[[], None]) -> None:
    """Runs a command as one process of several. All run the same one; process 0 writes and prints.

    An error ends the process at once, with its exit code: the others, which may wait for it in a sum over devices, are
    then told by the system, and process 0 goes last, because they hang on it.

    Args:
        where: `auto` where JAX can tell (SLURM, Open MPI, Kubernetes, Cloud TPU), or `HOST:PORT,NUMBER,COUNT`,
            the address of process 0, the number of this process, and of how many. None for a single process.
        command: raises what `errors.exit_code` knows.

    Raises:
        UsageError: `where` is neither.
        RunError: the others cannot be found.
    """
    if where is None:
        return command()
    _join(where)
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115

    def explained() -> None:
        try:
            command()
        except Stopped as error:
            if is_first():
                raise
            _leave(error.exit_code)  # process 0 says it
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if not LOST.search(f"{error}"):
                raise
            raise RunError(
                "another process of this run has ended or cannot be reached; what is saved is whole, and the same "
                "command, in all processes, continues from there"
            ) from error

    try:
        code = exit_code(explained)
    except BaseException:
        traceback.print_exc()
        code = 1
    if code:
        _leave(code)


def _join(where: str) -> None:
    """Makes this process one of several."""
    named: dict[str, Any] = {}
    if where != "auto":
        if not (found := re.fullmatch(r"(.+:\d+),(\d+),(\d+)", where)) or int(found[2]) >= int(
            found[3]
        ):
            raise UsageError(
                f"--distributed is {where}; allowed: auto, or HOST:PORT,NUMBER,COUNT: the address of process 0, the "
                "number of this one, from 0, and how many there are"
            )
        named = {
            "coordinator_address": found[1],
            "process_id": int(found[2]),
            "num_processes": int(found[3]),
        }
        print_error(
            f"process {found[2]} of {found[3]} waits for the others, at most {JOIN_SECONDS} s"
        )
        if named["process_id"]:
            _await(found[1])
    backend.make_cores_devices()  # before they meet, for JAX runs from then on
    with suppress(AttributeError):  # SIGTERM is ours; an older JAX has no such service to turn off
        jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **named,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        how = "" if named else "; name them: --distributed HOST:PORT,NUMBER,COUNT"
        raise RunError(f"the other processes cannot be found ({error}){how}") from error


def _await(address: str) -> None:
    """Waits for process 0, for XLA would abort with its own lines.

    Raises:
        RunError: it does not answer in time.
    """
    host, port = address.rsplit(":", 1)
    until = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            return socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            if time.monotonic() > until or not isinstance(error, ConnectionError | TimeoutError):
                raise RunError(
                    f"process 0 does not answer at {address} ({error}); start it there"
                ) from error
            time.sleep(0.2)


def _leave(code: int) -> None:
    """Ends the process without waiting for the others, as `jax.distributed` does at a normal end."""
    if is_first():
        time.sleep(1)
    flush()
    os._exit(code)


def count() -> int:
    """How many processes train as one."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this is process 0, which writes."""
    return jax.process_index() == 0


def to_devices(tree: Any, sharding: Sharding) -> Any:
    """Arrays in memory, the same in all processes, as arrays on devices."""
    if count() == 1:
        return jax.device_put(tree, sharding)

    def spread(array: Any) -> jax.Array:
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(spread(jax.random.key_data(array)))
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(spread, tree)


def to_host(tree: Any) -> Any:
    """Arrays on devices as arrays in memory, whole, in every process; all must call it."""
    return (
        jax.device_get(tree)
        if count() == 1
        else multihost_utils.process_allgather(tree, tiled=True)
    )


def broadcast_from_first(compute: Callable[[], Any]) -> Any:
    """What process 0 computes, as JSON; all must call it. What it raises ends all of them."""
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
    told = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(sent), np.uint8)))
    if failure:
        raise failure
    if "exit_code" in told:
        _leave(told["exit_code"])  # process 0 says why
    return told["value"]


def broadcast_arrays(tree: Any, like: Any) -> Any:
    """Arrays in memory that process 0 has, of the shapes and dtypes of `like`; all must call it."""
    if count() == 1:
        return tree
    own = tree if is_first() else jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like)
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(own))


def all_reduce_max(number: int) -> int:
    """The largest number of all processes; all must call it."""
    return (
        number if count() == 1 else int(np.max(multihost_utils.process_allgather(np.int32(number))))
    )
