"""Compile the programs of the drill for absent TPUs, or lower them for GPUs.

    pip install -e '.[tpu]'
    python -m benchmarks.compile_ahead
    python -m benchmarks.compile_ahead --gpus

Each case is compiled in a separate process, so that a crash of the compiler is recorded as a
failure. No program runs. The times are lower bounds of a roofline model: the FLOP and bytes that
the compiler counts, at the published peak rate and bandwidth of the chip.
"""

import argparse
import importlib.util
import json
import math
import os
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdrill import config as recipes
from jaxdrill.data import Dataset
from jaxdrill.files import write_text
from jaxdrill.training import devices
from jaxdrill.training.trainer import Trainer

# Per chip, from https://cloud.google.com/tpu/docs/v5e: bfloat16 FLOP/s, bytes/s, bytes.
PEAK, BANDWIDTH, MEMORY = 197e12, 819e9, 16e9
# Multiplications in bfloat16 per multiplication in each precision.
PASSES = {"float32": 6, "tensorfloat32": 3, "bfloat16": 1}
OUT = Path("runs/benchmarks/tpu_v5e_compiled.json")
GPU_OUT = Path("runs/benchmarks/gpu_lowered.json")
TOPOLOGIES = {"v5e:1x1": [1, 1, 1], "v5e:2x2": [2, 2, 1]}  # chips per host, along each axis
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

Case = dict[str, Any]  # the keys are step, topology, mesh (its shape), seeds and convolution


def cases() -> list[Case]:
    """Return the cases: all recipes with one seed on one chip, and variants of step 5.

    The variants have several seeds, two forms of the convolution, and four chips.
    """
    chip = {"topology": "v5e:1x1", "mesh": [1, 1]}
    one = [{"step": step, **chip, "seeds": 1, "convolution": "auto"} for step in recipes.steps()]
    several = [
        {"step": "step_5", **chip, "seeds": seeds, "convolution": form}
        for seeds, form in product((8, 32), ("auto", "im2col"))
    ]
    meshes = ([1, 4], 1), ([4, 1], 4), ([4, 1], 32), ([2, 2], 8)
    four = [
        {
            "step": "step_5",
            "topology": "v5e:2x2",
            "mesh": mesh,
            "seeds": seeds,
            "convolution": "auto",
        }
        for mesh, seeds in meshes
    ]
    return one + several + four


def mnist() -> Dataset:
    """Return a dataset with the sizes of MNIST and black images."""
    train, test = (
        (np.zeros((count, 28, 28, 1), np.uint8), np.zeros(count, np.uint8))
        for count in (60_000, 10_000)
    )
    return Dataset("mnist", *train, *test)


def make_trainer(case: Case) -> Trainer:
    """Build the trainer of a case for the devices of an absent TPU."""
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(
        platform="tpu",
        topology_name=case["topology"],
        chips_per_host_bounds=TOPOLOGIES[case["topology"]],
    )
    config = recipes.load(case["step"], {"execution.convolution": case["convolution"]})
    mesh = devices.make_mesh(case["seeds"], config.batch_size, topology.devices)
    if list(mesh.devices.shape) != case["mesh"]:
        used = np.array(topology.devices).reshape(case["mesh"])
        mesh = jax.sharding.Mesh(used, mesh.axis_names, axis_types=mesh.axis_types)
    return Trainer(config, mnist(), case["seeds"], mesh)


def compile_case(case: Case) -> dict[str, Any]:
    """Compile the epoch and the evaluation of a case.

    Returns:
        Per function: the seconds of the compilation, and the FLOP, bytes and memory per device.
        The FLOP and bytes are those of a training step of all seeds, or of a batch of evaluation.
    """
    trainer, found = make_trainer(case), {}
    functions = {"epoch": trainer.epoch or trainer.step, "evaluation": trainer.evaluate}
    for name, function in functions.items():
        with devices.numerics(function.precision):
            lowered = function.jitted.lower(*function.arguments)
        began = time.perf_counter()
        compiled = lowered.compile()
        elapsed = time.perf_counter() - began
        counted, memory = compiled.cost_analysis(), compiled.memory_analysis()
        flop, accessed = counted["flops"], counted["bytes accessed"]
        found[name] = {
            "compile_seconds": round(elapsed, 1),
            "bytes": accessed,
            "flop": flop,
            "arguments_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
        } | roofline(flop, accessed, trainer.execution.matmul_precision)
    return found | {"peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def roofline(flop: float, bytes_accessed: float, precision: str) -> dict[str, float]:
    """Return the seconds at the peak rate or at the bandwidth, whichever is longer."""
    return {"roofline_seconds": max(flop * PASSES[precision] / PEAK, bytes_accessed / BANDWIDTH)}


def lower_for_gpus() -> dict[str, Any]:
    """Export all functions of all recipes for NVIDIA and AMD GPUs, for 1 and 8 seeds.

    Returns:
        The bytes of each exported module.
    """
    from jax import export

    found: dict[str, Any] = {}
    mesh = devices.make_mesh(1, 1, jax.devices("cpu")[:1])
    for platform, step, seeds in product(("cuda", "rocm"), recipes.steps(), (1, 8)):
        trainer = Trainer(recipes.load(step), mnist(), seeds, mesh, platform)
        for name in ("init", "shuffle", "evaluate", "step", "epoch", "rest"):
            if function := getattr(trainer, name):
                with devices.numerics(function.precision):
                    exported = export.export(function.jitted, platforms=[platform])
                    module = exported(*function.arguments).mlir_module_serialized
                found[f"{platform} {step} {seeds} {name}"] = len(module)
    return found


def drill_minutes(results: list[dict[str, Any]]) -> float | None:
    """Return the roofline minutes of the drill on one chip, or None if a recipe is missing.

    Each recipe trains 10 seeds, one after another.
    """
    seconds = 0.0
    for step in recipes.steps():
        config = recipes.load(step)
        steps = -(-60_000 // config.batch_size)
        fitting = [
            each["epoch"]["roofline_seconds"] + each["evaluation"]["roofline_seconds"] * 10 / steps
            for each in results
            if "epoch" in each
            and each["step"] == step
            and (each["seeds"], each["convolution"], each["topology"]) == (1, "auto", "v5e:1x1")
        ]
        if not fitting:
            return None
        seconds += fitting[0] * 10 * config.epochs * steps
    return seconds / 60


def measure(case: Case, limit: float) -> dict[str, Any]:
    """Compile a case in a new process. Return its results, or the reason of the failure."""
    command = [sys.executable, "-m", "benchmarks.compile_ahead", "--case", json.dumps(case)]
    try:
        done = subprocess.run(
            command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return case | {"failed": f"not compiled within {limit:g} s"}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "Error" in line or "ERROR" in line]
        lines = lines or done.stderr.splitlines() or [f"ended with exit code {done.returncode}"]
        return case | {"failed": lines[-1][:300]}
    return case | json.loads(done.stdout.splitlines()[-1])


def line(result: dict[str, Any]) -> str:
    """Format a result as one line."""
    seeds = result["seeds"]
    title = f"{result['step']:18} {result['topology']} {result['mesh']} {seeds:2} "
    title += f"{result['convolution']:7}"
    if "failed" in result:
        return f"{title} FAILS: {result['failed']}"
    epoch, scale = result["epoch"], math.prod(result["mesh"]) / seeds
    return (
        f"{title} {epoch['compile_seconds']:6.1f} s  {epoch['bytes'] * scale / 1e6:7.1f} MB and "
        f"{epoch['flop'] * scale / 1e9:6.3f} GFLOP per seed  "
        f"{epoch['temporary_bytes'] / 1e6:8.1f} MB temporary  "
        f"{epoch['roofline_seconds'] * scale * 1e6:7.1f} us per step and seed"
    )


def parse_options() -> argparse.Namespace:
    """Return the options of the command line. Exit with code 2 if libtpu is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_ahead", description=__doc__)

    def add(flag: str, about: str, **settings: Any) -> None:
        parser.add_argument(flag, help=about, **settings)

    add("--case", argparse.SUPPRESS, type=json.loads)  # `measure` passes the case to compile.
    about = f"file of all results (default: {OUT} or {GPU_OUT})"
    add("--out", about, type=Path, metavar="FILE")
    add("--step", "only these recipes, such as step_5", nargs="+")
    add("--seeds", "only cases with these numbers of seeds", nargs="+", type=int)
    add("--gpus", "lower for GPUs instead", action="store_true")
    add("--limit", "seconds per case (default: 600)", type=float, default=600)
    options = parser.parse_args()
    for_tpu = not options.case and not options.gpus
    if for_tpu and importlib.util.find_spec("libtpu") is None:
        parser.error("libtpu is not installed. Run pip install -e '.[tpu]'.")
    return options


def measure_all(options: argparse.Namespace) -> None:
    """Compile the requested cases for TPUs. Write the results after each case."""
    out = options.out or OUT
    known = json.loads(out.read_text())["results"] if out.exists() else []
    results = [each for each in known if {key: each[key] for key in cases()[0]} in cases()]
    about = {
        "versions": {name: version(name) for name in ("jax", "jaxlib", "libtpu")},
        "steps_a_scan": 468,
        "peak_flops": PEAK,
        "bandwidth": BANDWIDTH,
        "memory": MEMORY,
    }
    for case in cases():
        if options.step and case["step"] not in options.step:
            continue
        if options.seeds and case["seeds"] not in options.seeds:
            continue
        results = [each for each in results if {key: each[key] for key in case} != case]
        results.append(measure(case, options.limit))
        print(line(results[-1]), flush=True)
        found = about | {"drill_roofline_minutes": drill_minutes(results), "results": results}
        write_text(out, json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Run the command."""
    options = parse_options()
    if options.case:
        print(json.dumps(compile_case(options.case)))
    elif options.gpus:
        found = {"versions": {"jax": jax.__version__}, "bytes_of_modules": lower_for_gpus()}
        write_text(out := options.out or GPU_OUT, json.dumps(found, indent=1) + "\n")
        print(f"{len(found['bytes_of_modules'])} programs lowered: {out}")
    else:
        measure_all(options)


if __name__ == "__main__":
    main()
