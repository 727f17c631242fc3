"""Measure how the time of epochs and files scales with seeds, devices and processes on the CPU.

    python -m benchmarks.scaling

First, measure how long process 0 writes the files of many seeds. Then train step 5 on digits with
each number of devices, processes and seeds, and print the seconds per seed of the fastest epoch.
The devices share the cores, so the results show only the cost of dividing the work.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdrill import config
from jaxdrill.files import write_text
from jaxdrill.runs.checkpoints import Checkpoints, named
from jaxdrill.runs.folder import read_rows, write_predictions
from jaxdrill.training.devices import cores
from jaxdrill.training.optimizer import make_optimizer
from jaxdrill.training.step import init_state

SHAPES = [*((devices, 1) for devices in (1, 2, 4, 8)), *((1, processes) for processes in (2, 4))]


def epoch_seconds(devices: int, processes: int, seeds: int, folder: Path) -> float:
    """Train with `devices` devices per process.

    Returns:
        The seconds per seed of the fastest epoch.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [sys.executable, "-m", "jaxdrill.main"]
    command += ["--step", "5", "--data", "digits", "--epochs", "3", "--batch-size", "256"]
    command += ["--seeds", f"{seeds}", "--workdir", f"{folder}"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": f"{devices}", "JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(
            command + (["--distributed", f"{address},{n},{processes}"] if processes > 1 else []),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for n in range(processes)
    ]
    if any(process.wait() for process in started):
        raise RuntimeError(f"training failed with {processes} process(es) of {devices} device(s)")
    return min(row["seconds"] for row in read_rows(folder)[0])


def write_seconds(seeds: int, folder: Path) -> dict[str, Any]:
    """Measure the seconds to write a checkpoint and the predictions of `seeds` seeds of step 5."""
    recipe = config.load("5")
    optimizer = make_optimizer(recipe.optimizer, lambda step: 0.01)
    state = init_state(recipe, optimizer, jax.random.key(1))
    arrays = {name: np.repeat(a[None], seeds, axis=0) for name, a in named(state).items()}
    rows = [
        {"seed": seed, "epoch": epoch, "test_accuracy": 0.99}
        for seed in range(seeds)
        for epoch in range(20)
    ]
    began = time.perf_counter()
    Checkpoints(folder).save(1, arrays, {"seeds": list(range(seeds)), "rows": rows})
    saved = time.perf_counter()
    logits = np.random.default_rng(0).normal(0, 5, (10_000, 10)).astype(np.float32)
    write_predictions(folder, 1, 19, np.zeros(10_000, np.uint8), logits, (0, 10_000))
    each = time.perf_counter() - saved
    size = (folder / "step_1.safetensors").stat().st_size
    return {
        "seeds": seeds,
        "checkpoint_bytes": size,
        "checkpoint_seconds": round(saved - began, 3),
        "predictions_seconds": round(seeds * each, 3),
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    about = "write all results to this file"
    parser.add_argument("--json", type=Path, metavar="FILE", help=about)
    options = parser.parse_args()
    rows, written = [], []
    for seeds in (1, 16, 256):
        with tempfile.TemporaryDirectory() as folder:
            written.append(write_seconds(seeds, Path(folder)))
        print(written[-1], flush=True)
    for seeds in (1, 4):
        for devices, processes in SHAPES:
            with tempfile.TemporaryDirectory() as folder:
                seconds = epoch_seconds(devices, processes, seeds, Path(folder) / "run")
            case = {"seeds": seeds, "devices": devices, "processes": processes}
            rows.append(case | {"epoch_seconds": seconds})
            print(rows[-1], flush=True)
    if options.json:
        found = {"cores": cores(), "epochs": rows, "written": written}
        write_text(options.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
