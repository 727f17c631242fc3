"""Run contenders in processes, and compare their durations with those of jaxdrill."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

PYTORCH = ("eager", "channels_last", "compile", "compile_channels_last")


@dataclass(frozen=True)
class Setting:
    """The contenders of a comparison, and the number of rounds."""

    folder: Path  # contains the four official idx files
    rounds: int
    others: tuple[str, ...]
    baseline: Path | None  # a checkout of another commit, which is a further contender

    def names(self, *left_out: str) -> list[str]:
        """Return the names of the contenders, except those of `left_out`. jaxdrill is the last."""
        others = [name for name in self.others if name not in left_out]
        return [*others, *(["baseline"] if self.baseline else []), "jaxdrill"]


class Worker:
    """A process of `benchmarks.contenders` that has run its first training step.

    Attributes:
        first_step_seconds: seconds from the start of the process to the end of its first step.
    """

    def __init__(
        self,
        setting: Setting,
        name: str,
        step: str,
        batch_size: int,
        seeds: int = 1,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        began = time.perf_counter()
        other = setting.baseline if name == "baseline" else None
        command = [sys.executable, "-m", "benchmarks.contenders", "jaxdrill" if other else name]
        command += [step, str(batch_size), str(seeds), str(setting.folder.absolute())]
        path = os.pathsep.join([f"{other or Path.cwd()}", os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": path} | {**environment},
            cwd=other,
        )
        self._read()
        self.first_step_seconds = time.perf_counter() - began

    def seconds(self, work: str) -> float:
        """Return the seconds that a request takes: `epoch`, or a number of images."""
        assert self.process.stdin
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        return float(self._read())

    def end(self) -> int:
        """End the process. Return its peak memory in bytes."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        peak = int(self._read())
        self.process.wait()
        self.process.stdout.close()
        return peak

    def _read(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            command = " ".join(self.process.args)  # type: ignore
            raise SystemExit(f"{command} ended with exit code {self.process.wait()}.")
        return line


def start(setting: Setting, names: Iterable[str], step: str, batch_size: int) -> dict[str, Worker]:
    """Start a worker per contender. Each has run its first training step."""
    return {name: Worker(setting, name, step, batch_size) for name in names}


def rounds(workers: Mapping[str, Worker], work: str, count: int) -> dict[str, Any]:
    """Measure the seconds of each worker in `count` rounds, and its ratios to jaxdrill."""
    for worker in workers.values():
        if work != "epoch":
            worker.seconds(work)  # The first request may be slower, so it is not measured.
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(count):
        for name, worker in workers.items():
            seconds[name].append(worker.seconds(work))
    return {name: summary(values, seconds["jaxdrill"]) for name, values in seconds.items()}


def summary(values: list[float], ours: list[float]) -> dict[str, Any]:
    """Return the seconds of each round, their median, and the ratios to jaxdrill per round."""
    ratios = [a / b for a, b in zip(values, ours, strict=True)]
    return {
        "seconds": values,
        "median": statistics.median(values),
        "ratio": statistics.median(ratios),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
    }


def best_pytorch(results: Mapping[str, Any]) -> dict[str, str]:
    """Return {"best_pytorch": name} of the PyTorch configuration with the smallest ratio.

    The dict is empty if PyTorch was not measured.
    """
    measured = [name for name in PYTORCH if name in results]
    if not measured:
        return {}
    return {"best_pytorch": min(measured, key=lambda name: results[name]["ratio"])}


def show(title: str, results: Mapping[str, Any], scale: float, unit: str) -> None:
    """Print a title and one line per contender. Seconds are multiplied by `scale`."""
    print(f"\n{title}")
    for name, result in results.items():
        low, high = result["lowest_ratio"], result["highest_ratio"]
        spread = f"{result['ratio']:6.2f}  ({low:.2f} to {high:.2f})"
        median = f"{result['median'] * scale:10.2f} {unit:3}"
        print(f"  {name:21} {median}  ratio to jaxdrill {spread}", flush=True)


def peaks(workers: Mapping[str, Worker]) -> dict[str, int]:
    """End the workers. Print and return their peak memory in bytes."""
    found = {name: worker.end() for name, worker in workers.items()}
    shown = ", ".join(f"{name} {peak / 1e9:.2f}" for name, peak in found.items())
    print(f"  peak memory, GB: {shown}", flush=True)
    return found
