"""jaxdrill beside what people use, on this machine, in one run: `python -m benchmarks.compare --data-dir FOLDER`.

Each contender is a process that waits; in each round they work one after another, so that a change of the machine's
speed meets all of them. Ratios are taken round by round: another contender's seconds divided by jaxdrill's.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxdrill import data
from jaxdrill.errors import RunError

PYTORCH = ("eager", "channels_last", "compile", "compile_channels_last")
OTHERS = ("notebook", *PYTORCH, "flax")
NETWORK_ALONE = """extends = "step_{step}"
augmentation = {{ rotation_degrees = 0.0, scale = 0.0, shift_pixels = 0.0 }}
average = {{ decay = 0.0 }}
"""  # a recipe without what the other contenders' training steps do not do


@dataclass(frozen=True)
class Setting:
    """What is measured beside jaxdrill, and how."""

    folder: Path  # of the four official idx files
    rounds: int
    others: tuple[str, ...]
    baseline: Path | None  # a checkout of another commit, which is one more contender

    def names(self, *left_out: str) -> list[str]:
        """The contenders, jaxdrill last."""
        others = [name for name in self.others if name not in left_out]
        return [*others, *(["baseline"] if self.baseline else []), "jaxdrill"]


class Worker:
    """A contender's process."""

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
        command = [
            sys.executable,
            "-m",
            "benchmarks.contenders",
            "jaxdrill" if other else name,
            step,
        ]
        command += [str(batch_size), str(seeds), str(setting.folder.absolute())]
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
        """What the contender answers to `work`."""
        assert self.process.stdin
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        return float(self._read())

    def end(self) -> int:
        """Peak memory in bytes."""
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
            raise SystemExit(f"{' '.join(self.process.args)} ended with {self.process.wait()}")  # type: ignore
        return line


def rounds(workers: Mapping[str, Worker], work: str, count: int) -> dict[str, Any]:
    """Seconds of each contender in each round, and its ratio to jaxdrill."""
    for worker in workers.values():
        if work != "epoch":
            worker.seconds(work)  # warm
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(count):
        for name, worker in workers.items():
            seconds[name].append(worker.seconds(work))
    return {name: summary(values, seconds["jaxdrill"]) for name, values in seconds.items()}


def best_pytorch(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of PyTorch's configuration with the smallest ratio to jaxdrill, as an entry of its own."""
    measured = [name for name in PYTORCH if name in results]
    return (
        {"best_pytorch": min(measured, key=lambda name: results[name]["ratio"])} if measured else {}
    )


def summary(values: list[float], ours: list[float]) -> dict[str, Any]:
    """Seconds of every round, their median, and the ratios to jaxdrill's of the same round."""
    ratios = [a / b for a, b in zip(values, ours, strict=True)]
    return {
        "seconds": values,
        "median": statistics.median(values),
        "ratio": statistics.median(ratios),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
    }


def show(title: str, results: Mapping[str, Any], scale: float, unit: str) -> None:
    """A line a contender."""
    print(f"\n{title}")
    for name, result in results.items():
        spread = f"{result['ratio']:6.2f}  ({result['lowest_ratio']:.2f} to {result['highest_ratio']:.2f})"
        print(
            f"  {name:21} {result['median'] * scale:10.2f} {unit:3}  times jaxdrill's {spread}",
            flush=True,
        )


def peaks(workers: Mapping[str, Worker]) -> dict[str, int]:
    """Ends the processes; their peak memory in bytes."""
    found = {name: worker.end() for name, worker in workers.items()}
    print(
        "  peak memory, GB: "
        + ", ".join(f"{name} {peak / 1e9:.2f}" for name, peak in found.items()),
        flush=True,
    )
    return found


def start(setting: Setting, names: Iterable[str], step: str, batch_size: int) -> dict[str, Worker]:
    """Contenders that have done their first training step."""
    return {name: Worker(setting, name, step, batch_size) for name in names}


def training_steps(setting: Setting) -> dict[str, Any]:
    found: dict[str, Any] = {}
    sizes = {
        "3": (128, 60),
        "2": (128, 60),
        "1": (128, 10),
        "6": (64, 60),
        "6_fast": (64, 60),
        "6_small": (32, 60),
    }
    for step, (batch_size, steps) in sizes.items():
        with tempfile.TemporaryDirectory() as folder:
            recipe = Path(folder, "network.toml")
            recipe.write_text(NETWORK_ALONE.format(step=step))
            workers = start(setting, setting.names("notebook"), str(recipe), batch_size)
        result = rounds(workers, f"{steps * batch_size}", setting.rounds)
        show(
            f"one training step of step {step}'s network, batch {batch_size}",
            result,
            1000 / steps,
            "ms",
        )
        about = best_pytorch(result) | {"batch_size": batch_size, "steps": steps}
        found[f"step_{step}"] = result | about | {"peak_bytes": peaks(workers)}
    return found


def epochs(setting: Setting) -> dict[str, Any]:
    workers = start(setting, setting.names(), "5", 128)
    result = rounds(workers, "epoch", setting.rounds)
    show("one whole epoch of step 5: order, rotation, training, evaluation", result, 1, "s")
    found = {"step_5": result | best_pytorch(result) | {"peak_bytes": peaks(workers)}}
    if setting.baseline:  # The other contenders do not do step 6's augmentation and average.
        workers = start(setting, ["baseline", "jaxdrill"], "6", 64)
        result = rounds(workers, "epoch", setting.rounds)
        show("one whole epoch of step 6", result, 1, "s")
        found["step_6"] = result | {"peak_bytes": peaks(workers)}
    return found


def first_steps(setting: Setting) -> dict[str, Any]:
    print(
        "\nfrom the command to the first training step of step 5, s: without and with a cache of compiled programs"
    )
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        places = {
            "JAX_COMPILATION_CACHE_DIR": f"{cache}/jax",
            "TORCHINDUCTOR_CACHE_DIR": f"{cache}/torch",
        }
        for name in setting.names():
            mine = places if name != "flax" else {}  # the example sets up none
            starts = []
            for _ in range(1 + setting.rounds):
                worker = Worker(setting, name, "5", 128, environment=mine)
                starts.append(worker.first_step_seconds)
                worker.end()
            found[name] = {"cold": starts[0], "warm": starts[1:]}
            print(f"  {name:10} {starts[0]:6.1f} {statistics.median(starts[1:]):6.1f}", flush=True)
    return found


def batch_sizes(setting: Setting) -> dict[str, Any]:
    print("\nseconds for 60,000 images of step 5, without the evaluation, by batch size")
    found = {}
    for batch_size in (64, 128, 256, 512, 1024):
        workers = start(setting, setting.names("notebook"), "5", batch_size)
        result = rounds(workers, "5120", setting.rounds)
        times = ", ".join(f"{name} {r['median'] * 60000 / 5120:.1f}" for name, r in result.items())
        print(f"  {batch_size:5} {times}")
        found[str(batch_size)] = result | {"peak_bytes": peaks(workers)}
    return found


def seeds(setting: Setting) -> dict[str, Any]:
    print(
        "\nseconds a seed for 60,000 images of step 5, without the evaluation, by seeds in the run"
    )
    workers = {
        number: Worker(setting, "jaxdrill", "5", 128, number) for number in (1, 2, 4, 8, 16, 32)
    }
    found: dict[str, Any] = {str(number): {"seconds": []} for number in workers}
    for _ in range(setting.rounds):
        for number, worker in workers.items():
            found[str(number)]["seconds"].append(worker.seconds("1280") / number)
    for number, worker in workers.items():
        median = statistics.median(found[str(number)]["seconds"])
        print(f"  {number:5} {median * 60000 / 1280:.1f}", flush=True)
        found[str(number)] |= {"median_a_seed": median, "peak_bytes": worker.end()}
    return found


PARTS = {
    "training_steps": training_steps,
    "epochs": epochs,
    "first_steps": first_steps,
    "batch_sizes": batch_sizes,
    "seeds": seeds,
}


def main() -> None:
    about = __doc__.splitlines()[0] if __doc__ else None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=about)
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="folder with the four official idx .gz files"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement (default: 5)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help=", ".join(PARTS),
    )
    parser.add_argument(
        "--others",
        nargs="*",
        choices=OTHERS,
        default=OTHERS,
        metavar="NAME",
        help=", ".join(OTHERS),
    )
    parser.add_argument(
        "--baseline",
        type=Path,
        help="a checkout of another commit of jaxdrill, measured beside this one",
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="write every figure to this file; parts not measured now stay in it",
    )
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; allowed: a whole number of at least 1")
    if options.baseline and not (options.baseline / "benchmarks" / "contenders.py").is_file():
        parser.error(
            f"{options.baseline} is no checkout of jaxdrill: it holds no benchmarks/contenders.py"
        )
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"{options.json.absolute().parent} is not a folder; create it")
    try:
        torch = ["torch"] if set(options.others) - {"flax"} else []
        packages = {
            name: version(name) for name in ("jax", "jaxlib", "flax", *torch, "numpy", "pillow")
        }
        data.load("mnist", options.data_dir, offline=True)
    except PackageNotFoundError as error:
        parser.error(f"{error.name} is not installed; pip install -e '.[bench]'")
    except RunError as error:
        parser.error(f"{error}")
    found = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    cores = len(os.sched_getaffinity(0))
    found["machine"] = {"processor": processor(), "cores": cores, "versions": packages}
    setting = Setting(options.data_dir, options.rounds, tuple(options.others), options.baseline)
    for part in options.only:
        found[part] = PARTS[part](setting)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
