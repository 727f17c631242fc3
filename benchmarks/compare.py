"""Compare the speed of jaxdrill with PyTorch and Flax on this machine.

    python -m benchmarks.compare --data-dir FOLDER

Each contender is a process. In each round, all contenders run one after another, so that a change
of the machine's speed affects all of them. A ratio is the seconds of a contender divided by the
seconds of jaxdrill in the same round.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.workers import PYTORCH, Setting, Worker, best_pytorch, peaks, rounds, show, start
from jaxdrill import data
from jaxdrill.errors import RunError

OTHERS = ("notebook", *PYTORCH, "flax")
# The training steps of the other contenders do not include augmentation and EMA.
NETWORK_ALONE = """extends = "step_{step}"
augmentation = {{ rotation_degrees = 0.0, scale = 0.0, shift_pixels = 0.0 }}
average = {{ decay = 0.0 }}
"""


def training_steps(setting: Setting) -> dict[str, Any]:
    """Measure training steps without augmentation and EMA, per network."""
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
        title = f"one training step of the network of step {step}, batch size {batch_size}"
        show(title, result, 1000 / steps, "ms")
        about = best_pytorch(result) | {"batch_size": batch_size, "steps": steps}
        found[f"step_{step}"] = result | about | {"peak_bytes": peaks(workers)}
    return found


def epochs(setting: Setting) -> dict[str, Any]:
    """Measure an epoch of step 5, and of step 6 if there is a baseline."""
    workers = start(setting, setting.names(), "5", 128)
    result = rounds(workers, "epoch", setting.rounds)
    show("one epoch of step 5: shuffling, rotation, training, evaluation", result, 1, "s")
    found = {"step_5": result | best_pytorch(result) | {"peak_bytes": peaks(workers)}}
    if setting.baseline:  # The other contenders do not have the augmentation and EMA of step 6.
        workers = start(setting, ["baseline", "jaxdrill"], "6", 64)
        result = rounds(workers, "epoch", setting.rounds)
        show("one epoch of step 6", result, 1, "s")
        found["step_6"] = result | {"peak_bytes": peaks(workers)}
    return found


def first_steps(setting: Setting) -> dict[str, Any]:
    """Measure the start to the end of the first step, without and with a compilation cache."""
    print("\nfrom the start of the command to the end of the first training step of step 5, s:")
    print("without and with a cache of compiled programs")
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        places = {
            "JAX_COMPILATION_CACHE_DIR": f"{cache}/jax",
            "TORCHINDUCTOR_CACHE_DIR": f"{cache}/torch",
        }
        for name in setting.names():
            mine = places if name != "flax" else {}  # The example of Flax has no cache.
            starts = []
            for _ in range(1 + setting.rounds):
                worker = Worker(setting, name, "5", 128, environment=mine)
                starts.append(worker.first_step_seconds)
                worker.end()
            found[name] = {"cold": starts[0], "warm": starts[1:]}
            print(f"  {name:10} {starts[0]:6.1f} {statistics.median(starts[1:]):6.1f}", flush=True)
    return found


def batch_sizes(setting: Setting) -> dict[str, Any]:
    """Measure training on 5,120 images of step 5 per batch size."""
    print("\nseconds per 60,000 training images of step 5, per batch size")
    found = {}
    for batch_size in (64, 128, 256, 512, 1024):
        workers = start(setting, setting.names("notebook"), "5", batch_size)
        result = rounds(workers, "5120", setting.rounds)
        times = ", ".join(f"{name} {r['median'] * 60000 / 5120:.1f}" for name, r in result.items())
        print(f"  {batch_size:5} {times}")
        found[str(batch_size)] = result | {"peak_bytes": peaks(workers)}
    return found


def seeds(setting: Setting) -> dict[str, Any]:
    """Measure training on 1,280 images of step 5 per number of seeds."""
    print("\nseconds per seed and 60,000 training images of step 5, per number of seeds")
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


def parse_options() -> argparse.Namespace:
    """Return the options of the command line. Exit with code 2 if one is invalid."""
    about = __doc__.splitlines()[0] if __doc__ else None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=about)

    def add(flag: str, about: str, **settings: Any) -> None:
        parser.add_argument(flag, help=about, **settings)

    folder = "folder with the four official idx .gz files"
    add("--data-dir", folder, type=Path, required=True)
    add("--rounds", "rounds per measurement (default: 5)", type=int, default=5)
    names = ", ".join(PARTS)
    add("--only", names, nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    names = ", ".join(OTHERS)
    add("--others", names, nargs="*", choices=OTHERS, default=OTHERS, metavar="NAME")
    add("--baseline", "checkout of another commit of jaxdrill, a further contender", type=Path)
    add("--json", "write all results to this file; it keeps parts not measured now", type=Path)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; allowed: a whole number >= 1")
    if options.baseline and not (options.baseline / "benchmarks" / "contenders.py").is_file():
        missing = "benchmarks/contenders.py is missing"
        parser.error(f"{options.baseline} is not a checkout of jaxdrill: {missing}.")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"{options.json.absolute().parent} is not a folder. Create it.")
    try:
        torch = ["torch"] if set(options.others) - {"flax"} else []
        packages = ("jax", "jaxlib", "flax", *torch, "numpy", "pillow")
        options.versions = {name: version(name) for name in packages}
        data.load("mnist", options.data_dir, offline=True)
    except PackageNotFoundError as error:
        parser.error(f"{error.name} is not installed. Run pip install -e '.[bench]'.")
    except RunError as error:
        parser.error(f"{error}")
    return options


def main() -> None:
    """Measure the requested parts."""
    options = parse_options()
    found = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    cores = len(os.sched_getaffinity(0))
    found["machine"] = {"processor": processor(), "cores": cores, "versions": options.versions}
    setting = Setting(options.data_dir, options.rounds, tuple(options.others), options.baseline)
    for part in options.only:
        found[part] = PARTS[part](setting)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
