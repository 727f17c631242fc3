"""Several processes on this machine train together, as on several hosts."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from runs_in_parts import rows

from jaxdrill.errors import UsageError
from jaxdrill.main import main
from jaxdrill.runs import checkpoints
from jaxdrill.training import processes

LOST = "jaxdrill: another process of this run has ended or cannot be reached. The saved state is "
# Batches that two processes can share. With larger rates, rounding grows too much.
SLOWLY = "--batch-size", "512", "--optimizer.learning-rate", "0.002"


def free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def start(count: int, *arguments: object) -> list[subprocess.Popen]:
    """The command in so many processes of one device each."""
    address, environment = free_address(), os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-m", "jaxdrill.main", *map(str, arguments), "--distributed"]
    return [
        subprocess.Popen(
            [*command, f"{address},{n},{count}"],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for n in range(count)
    ]


def until_epoch(process: subprocess.Popen, epoch: int) -> None:
    for line in process.stdout:
        if f" epoch {epoch:2d} of" in line:
            return
    raise AssertionError(process.stderr.read())


def ended(started: list[subprocess.Popen]) -> list[tuple[int, str, list[str]]]:
    """Exit code, output and lines of errors of each."""
    return [
        (process.returncode, out, err.splitlines())
        for process in started
        for out, err in [process.communicate(timeout=120)]
    ]


def numbers(folder: Path) -> np.ndarray:
    """Everything measured, a row an epoch and seed; the last column is the test loss."""
    return np.array(
        [
            [
                row[key]
                for key in ("seed", "epoch", "step", "train_loss", "train_accuracy", "test_loss")
            ]
            for row in rows(folder)
        ]
    )


@pytest.mark.slow
def test_two_processes_that_are_stopped(tiny_recipe, tmp_path):
    """The processes share the batches of a seed. A signal to one stops both; then they resume."""
    train = "--step", tiny_recipe, "--workdir", tmp_path / "two", "--epochs", 4, *SLOWLY
    began = start(2, *train)
    until_epoch(began[0], 1)
    began[1].send_signal(signal.SIGTERM)
    (code, _, said), (other, nothing, _) = ended(began)
    assert code == other == 143 and "digits" not in nothing
    assert said[-1].startswith("jaxdrill: stopped at step ")
    assert (
        int(said[-1].split()[4])
        == checkpoints.latest(tmp_path / "two" / "checkpoints" / "seed_1").step
        < 4 * 23
    )
    assert [code for code, _, _ in ended(start(2, *train))] == [0, 0]
    assert_as_one_process(tmp_path / "two", train)


def assert_as_one_process(folder: Path, train: tuple) -> None:
    """The same command in this process gives the same numbers to rounding."""
    one = folder.with_name("one")
    assert main([f"{one}" if argument == folder else f"{argument}" for argument in train]) == 0
    np.testing.assert_allclose(numbers(folder), numbers(one), rtol=2e-3)


@pytest.mark.parametrize(
    ("count", "victim"),
    [
        pytest.param(2, 1, marks=pytest.mark.slow),
        *(pytest.param(4, n, marks=pytest.mark.soak) for n in (2, 0)),
    ],
)
def test_processes_of_which_one_is_killed(tiny_recipe, tmp_path, count, victim):
    """Each of two seeds has one or two processes. The others end, and a rerun resumes."""
    train = (
        "--step",
        tiny_recipe,
        "--workdir",
        tmp_path / "run",
        "--seeds",
        2,
        "--epochs",
        5,
        *SLOWLY,
    )
    began = start(count, *train)
    until_epoch(began[0], 2)
    began[victim].kill()
    killed = time.monotonic()
    left = [each for n, each in enumerate(ended(began)) if n != victim]
    assert time.monotonic() - killed < 60
    if victim:  # The first line says which process waits.
        assert all(
            code == 1 and len(said) == 2 and said[-1].startswith(LOST) for code, _, said in left
        ), left
    else:  # Process 0 hosts JAX's service; without it JAX may abort the others.
        assert all(code in (1, -signal.SIGABRT) for code, _, _ in left), left
    assert [code for code, _, _ in ended(start(count, *train))] == [0] * count
    assert_as_one_process(tmp_path / "run", train)


def test_processes_with_different_settings(tiny_recipe, tmp_path):
    """Both are rejected, and nothing is written. Each core is a device; otherwise it would warn."""
    address = free_address()
    environment = {
        k: v for k, v in os.environ.items() if k not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
    }
    train = [
        sys.executable,
        "-m",
        "jaxdrill.main",
        "--step",
        tiny_recipe,
        "--workdir",
        tmp_path / "run",
    ]
    began = [
        subprocess.Popen(
            [*train, "--distributed", f"{address},{n},2", "--seeds", f"{n + 2}"],
            cwd=ROOT,
            text=True,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for n in range(2)
    ]
    (first, _, told), (second, _, said) = ended(began)
    assert (first, second) == (2, 2)
    same = "Start every process with the same command."
    assert told[-1] == f"jaxdrill: process 1 was started with different settings. {same}"
    differs = "process 1 differs from process 0 in seeds: [1, 2, 3] instead of [1, 2]"
    assert said[-1] == f"jaxdrill: {differs}. {same}"
    assert not [line for line in told + said if "warning" in line]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "where", ["here", "host,0,1", "host:x,0,2", "host:1,2,2", "host:1,0", "host:1,-1,2"]
)
def test_invalid_places_among_processes(where):
    with (
        pytest.raises(
            UsageError, match=f"--distributed is {where}; allowed: auto, or HOST:PORT,NUMBER,COUNT"
        ),
        processes.distributed(where),
    ):
        pass


def test_a_first_process_that_does_not_answer(monkeypatch, capsys):
    monkeypatch.setattr(processes, "JOIN_SECONDS", 0.3)
    assert main(["--distributed", f"{free_address()},1,2"]) == 1
    assert "process 0 does not answer at 127.0.0.1:" in capsys.readouterr().err.splitlines()[-1]


def test_a_machine_that_belongs_to_no_cluster(monkeypatch, capsys):
    """JAX already runs here; in a new process it would find no cluster. Both are errors."""
    assert main(["--distributed"]) == 1
    error = capsys.readouterr().err
    assert (
        "the other processes cannot be found (" in error
        and "--distributed HOST:PORT,NUMBER,COUNT" in error
    )
