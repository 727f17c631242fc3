"""Every program of the drill compiled for TPUs that are not at hand, and lowered for GPUs:

    pip install -e '.[tpu]' && python -m benchmarks.compile_ahead && python -m benchmarks.compile_ahead --gpus

Each program is compiled in a process of its own, so that a compiler that crashes is one more outcome. Nothing is run:
the times are those of a roofline, what the operations and bytes that the compiler counts would take at the chip's
published peak and bandwidth, and a real step takes longer.
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

# https://cloud.google.com/tpu/docs/v5e: a chip's peak in bfloat16, its memory's bandwidth and size.
PEAK, BANDWIDTH, MEMORY = 197e12, 819e9, 16e9
PASSES = {
    "float32": 6,
    "tensorfloat32": 3,
    "bfloat16": 1,
}  # bfloat16 products for one product of that precision
OUT, GPU_OUT = (
    Path("runs/benchmarks/tpu_v5e_compiled.json"),
    Path("runs/benchmarks/gpu_lowered.json"),
)
TOPOLOGIES = {"v5e:1x1": [1, 1, 1], "v5e:2x2": [2, 2, 1]}  # and the chips of a host
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

Case = dict[str, Any]  # what to compile: step, topology, shape of the mesh, seeds, convolution


def cases() -> list[Case]:
    """Each recipe with one seed on one chip; step 5 with several seeds in each form; and step 5 on four chips."""
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
    """As many images as MNIST has, all black: only the sizes matter."""
    train, test = (
        (np.zeros((count, 28, 28, 1), np.uint8), np.zeros(count, np.uint8))
        for count in (60_000, 10_000)
    )
    return Dataset("mnist", *train, *test)


def described(case: Case) -> Trainer:
    """The programs of a case, for the devices of a TPU that is described."""
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
    """The epoch and the evaluation of a case compiled: what each needs, a device."""
    trainer, found = described(case), {}
    for name, function in (
        ("epoch", trainer.epoch or trainer.step),
        ("evaluation", trainer.evaluate),
    ):
        with devices.numerics(function.precision):
            lowered = function.jitted.lower(*function.arguments)
        began = time.perf_counter()
        compiled = lowered.compile()
        elapsed, counted, memory = (
            time.perf_counter() - began,
            compiled.cost_analysis(),
            compiled.memory_analysis(),
        )
        found[name] = {
            "compile_seconds": round(elapsed, 1),
            "bytes": counted[
                "bytes accessed"
            ],  # of a training step of all seeds, or of an evaluation's batch
            "flop": counted["flops"],
            "arguments_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
        } | roofline(
            counted["flops"], counted["bytes accessed"], trainer.execution.matmul_precision
        )
    return found | {"peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def roofline(flop: float, bytes_accessed: float, precision: str) -> dict[str, float]:
    """Seconds at the published peak and bandwidth, whichever takes longer."""
    return {"roofline_seconds": max(flop * PASSES[precision] / PEAK, bytes_accessed / BANDWIDTH)}


def lower_for_gpus() -> dict[str, Any]:
    """The programs of each recipe, of one seed and of eight, exported for NVIDIA's and AMD's GPUs: bytes of each."""
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
    """Each recipe's epochs with 10 seeds, by the roofline of one seed after another: the minutes on one chip."""
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
    """What a process of its own says of a case, or why it said nothing."""
    command = [sys.executable, "-m", "benchmarks.compile_ahead", "--case", json.dumps(case)]
    try:
        done = subprocess.run(
            command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return case | {"failed": f"not compiled in {limit:g} s"}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "Error" in line or "ERROR" in line]
        return case | {
            "failed": (lines or done.stderr.splitlines() or [f"ended with {done.returncode}"])[-1][
                :300
            ]
        }
    return case | json.loads(done.stdout.splitlines()[-1])


def line(result: dict[str, Any]) -> str:
    """A result for a person."""
    title = f"{result['step']:18} {result['topology']} {result['mesh']} {result['seeds']:2} {result['convolution']:7}"
    if "failed" in result:
        return f"{title} FAILS: {result['failed']}"
    epoch, chips = result["epoch"], math.prod(result["mesh"])
    return (
        f"{title} {epoch['compile_seconds']:6.1f} s  {epoch['bytes'] * chips / result['seeds'] / 1e6:7.1f} MB and "
        f"{epoch['flop'] * chips / result['seeds'] / 1e9:6.3f} GFLOP a seed  {epoch['temporary_bytes'] / 1e6:8.1f} MB "
        f"temporary  {epoch['roofline_seconds'] * chips / result['seeds'] * 1e6:7.1f} us a step and seed"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_ahead", description=__doc__)
    parser.add_argument(
        "--case", type=json.loads, help=argparse.SUPPRESS
    )  # what a process of its own compiles
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"for every figure (default: {OUT} or {GPU_OUT})"
    )
    parser.add_argument("--step", nargs="+", help="only these recipes, such as step_5")
    parser.add_argument("--seeds", nargs="+", type=int, help="only with so many seeds")
    parser.add_argument("--gpus", action="store_true", help="lower for GPUs instead")
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds for a program (default: 600)"
    )
    options = parser.parse_args()
    if options.case:
        return print(json.dumps(compile_case(options.case)))
    if options.gpus:
        about = {"versions": {"jax": jax.__version__}, "bytes_of_modules": lower_for_gpus()}
        write_text(out := options.out or GPU_OUT, json.dumps(about, indent=1) + "\n")
        return print(f"{len(about['bytes_of_modules'])} programs lowered: {out}")
    if importlib.util.find_spec("libtpu") is None:
        parser.error("libtpu is not installed; pip install -e '.[tpu]'")
    from importlib.metadata import version

    out = options.out or OUT
    known = json.loads(out.read_text())["results"] if out.exists() else []
    results = [each for each in known if {key: each[key] for key in cases()[0]} in cases()]
    chosen = [
        case
        for case in cases()
        if (not options.step or case["step"] in options.step)
        and (not options.seeds or case["seeds"] in options.seeds)
    ]
    for case in chosen:
        results = [each for each in results if {key: each[key] for key in case} != case] + [
            measure(case, options.limit)
        ]
        print(line(results[-1]), flush=True)
        about = {
            "versions": {name: version(name) for name in ("jax", "jaxlib", "libtpu")},
            "steps_a_scan": 468,
            "peak_flops": PEAK,
            "bandwidth": BANDWIDTH,
            "memory": MEMORY,
            "drill_roofline_minutes": drill_minutes(results),
        }
        write_text(out, json.dumps(about | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
