"""Measure jaxdrill on one accelerator, and PyTorch if it is installed.

    python -m benchmarks.accelerator --pack mnist.npz --out results.json

Neither a network nor tensorflow-datasets is necessary: `--pack` is the file that jaxdrill keeps in
`TFDS_DATA_DIR/jaxdrill`. No part starts later than `--limit` seconds after the start.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.networks import torch_network
from jaxdrill import config as recipes
from jaxdrill import data
from jaxdrill.config.config import Config, Execution
from jaxdrill.config.layers import infer_shapes
from jaxdrill.nn.network import MEAN, STANDARD_DEVIATION
from jaxdrill.training import devices
from jaxdrill.training.fit import fit
from jaxdrill.training.trainer import Trainer


def seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """Return the minimum duration of `repeats` calls. A first call is not measured."""
    function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def ceilings(size: int) -> dict[str, float]:
    """Measure matrix multiplication in FLOP/s and memory bandwidth in bytes/s.

    Args:
        size: rows and columns of the matrices. The bandwidth is measured on 16 of them.
    """
    found = {}
    for dtype, precision in (
        ("bfloat16", "default"),
        ("float32", "default"),
        ("float32", "highest"),
    ):
        a = jnp.ones((size, size), dtype)
        product = jax.jit(lambda a, precision=precision: jnp.matmul(a, a, precision=precision))
        elapsed = seconds(lambda a=a, f=product: f(a).block_until_ready())
        found[f"matmul_{dtype}_{precision}"] = 2 * size**3 / elapsed
    a = jnp.ones((16, size, size), jnp.float32)
    copy = jax.jit(lambda a: a + 1)
    found["bytes"] = 2 * a.nbytes / seconds(lambda: copy(a).block_until_ready())
    return found


def run(config: Config, dataset: data.Dataset, epochs: int) -> dict[str, Any]:
    """Train all seeds together. Return the seconds and the accuracies of each epoch.

    The first epochs include the compilation of the last batch and of the evaluation.
    """
    config = config.model_copy(update={"epochs": epochs})
    trainer = Trainer(config, dataset, len(config.seed_list))
    compile_seconds = trainer.compile()
    began = time.perf_counter()
    results = [
        replace(each, logits=np.zeros(0)) for each in fit(trainer, dataset, config.seed_list)
    ]
    elapsed = time.perf_counter() - began
    accuracies = [
        (np.asarray(r.test.correct) / np.asarray(r.test.count)).round(6).tolist() for r in results
    ]
    return {
        "step": config.name,
        "execution": trainer.execution.model_dump(),
        "seeds": len(config.seed_list),
        "epochs": epochs,
        "seconds": elapsed,
        "compile_seconds": compile_seconds,
        "epoch_train_seconds": [round(r.train_seconds, 5) for r in results],
        "epoch_test_seconds": [round(r.test_seconds, 5) for r in results],
        "test_accuracies": accuracies,
    }


def work(config: Config, dataset: data.Dataset) -> dict[str, float]:
    """Return the FLOP and the bytes of one training step, as counted by the compiler."""
    config = config.model_copy(update={"execution": Execution(epoch="steps", convolution="xla")})
    analysis = Trainer(config, dataset).step.compile().cost_analysis()
    return {
        "flop": analysis.get("flops", float("nan")),
        "bytes": analysis.get("bytes accessed", float("nan")),
    }


def pytorch(config: Config, dataset: data.Dataset) -> dict[str, Any]:
    """Measure an epoch of PyTorch in eager mode, without evaluation.

    The images are stored and rotated on the device.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {"missing": "PyTorch is not installed"}
    if not torch.cuda.is_available() and jax.default_backend() == "gpu":
        return {"missing": "PyTorch sees no GPU"}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = torch_network(config).to(device).train()
    optimizer = torch.optim.SGD(
        network.parameters(), config.optimizer.learning_rate, config.optimizer.momentum
    )
    images = torch.from_numpy(dataset.train_images).to(device).permute(0, 3, 1, 2)
    labels = torch.from_numpy(dataset.train_labels).long().to(device)

    def epoch() -> None:
        order = torch.randperm(len(labels), device=device)
        for batch in order.split(config.batch_size):
            x = images[batch].float()
            angle = torch.deg2rad(
                (torch.rand(len(batch), device=device) * 2 - 1)
                * config.augmentation.rotation_degrees
            )
            zero = torch.zeros_like(angle)
            rows = angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero
            rotation = torch.stack(rows, 1).reshape(-1, 2, 3)
            grid = torch.nn.functional.affine_grid(rotation, list(x.shape), align_corners=False)
            x = torch.nn.functional.grid_sample(x, grid, mode="nearest", align_corners=False)
            optimizer.zero_grad()
            logits = network((x / 255 - MEAN) / STANDARD_DEVIATION)
            torch.nn.functional.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return {"device": str(device), "version": torch.__version__, "seconds": seconds(epoch, 2)}


class Report:
    """The results of all parts, written to a JSON file after each part."""

    def __init__(self, file: Path, limit: float) -> None:
        self.file, self.limit, self.began = file, limit, time.perf_counter()
        self.results: dict[str, Any] = {}

    def measure(self, name: str, part: Callable[[], Any]) -> None:
        """Measure and print a part. Skip it if the time limit has passed."""
        if time.perf_counter() - self.began > self.limit:
            self.results.setdefault("left_out", []).append(name)
            return
        result = self.results[name] = part()
        elapsed = self.results["elapsed_seconds"] = time.perf_counter() - self.began
        self.file.write_text(json.dumps(self.results, indent=1) + "\n")
        if result:
            result = {key: value for key, value in result.items() if key != "test_accuracies"}
        print(f"{elapsed:6.1f} s  {name}: {json.dumps(result)}", flush=True)


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """Return the main results, computed from the other parts."""
    figures = {}
    if one := report.get("one_seed"):
        figures["one_seed_seconds"] = one["seconds"]
        epoch = float(np.median(one["epoch_train_seconds"]))
        if "seconds" in report.get("pytorch_epoch", {}):
            figures["pytorch_seconds_per_ours"] = report["pytorch_epoch"]["seconds"] / epoch
        if (work := report.get("work_of_a_step")) and (peak := report.get("ceilings")):
            steps = report["steps_per_epoch"]
            figures["share_of_bandwidth"] = work["bytes"] * steps / epoch / peak["bytes"]
            figures["share_of_float32"] = (
                work["flop"] * steps / epoch / peak["matmul_float32_highest"]
            )
    if many := report.get("many_seeds"):
        figures["seconds_a_seed_of_many"] = many["seconds"] / many["seeds"]
    drill = [part["seconds"] for name, part in report.items() if name.startswith("drill_")]
    return figures | {"drill_seconds": sum(drill)}


def parse_options() -> argparse.Namespace:
    """Return the options of the command line. Exit with code 2 if one is invalid."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator", description=__doc__)

    def add(flag: str, about: str, **settings: Any) -> None:
        parser.add_argument(flag, help=about, **settings)

    add("--pack", "packed MNIST, a .npz file", type=Path, required=True)
    add("--out", "JSON file of all results, rewritten after each part", type=Path, required=True)
    add("--step", "recipe to measure (default: 5)", default="5")
    steps = recipes.steps()
    add("--drill", "recipes of the drill (default: all)", nargs="+", default=steps)
    add("--epochs", "(default: 20)", type=int, default=20)
    add("--many", "number of seeds that train together (default: 32)", type=int, default=32)
    add("--drill-seeds", "seeds per recipe of the drill (default: 10)", type=int, default=10)
    about = "rows and columns of the matrices that measure the peak rates (default: 8192)"
    add("--ceiling", about, type=int, default=8192)
    about = "seconds after which no further part starts (default: 460)"
    add("--limit", about, type=float, default=460)
    options = parser.parse_args()
    if not options.pack.is_file():
        hint = "Train on MNIST once; jaxdrill then writes the file."
        parser.error(f"{options.pack} does not exist. {hint}")
    if not options.out.absolute().parent.is_dir():
        parser.error(f"{options.out.absolute().parent} is not a folder. Create it.")
    return options


def measure_all(
    report: Report, options: argparse.Namespace, recipe: Config, dataset: data.Dataset
) -> None:
    """Measure all parts, the most important ones first."""

    def train(epoch: str, convolution: str, seeds: int, epochs: int) -> dict[str, Any]:
        execution = recipe.execution.model_copy(update={"epoch": epoch, "convolution": convolution})
        config = recipe.model_copy(update={"seeds": seeds, "execution": execution})
        return run(config, dataset, epochs)

    report.measure("ceilings", lambda: ceilings(options.ceiling))
    report.measure("one_seed", lambda: train("auto", "auto", 1, options.epochs))
    report.measure("many_seeds", lambda: train("auto", "auto", options.many, options.epochs))
    for name in options.drill:
        each = recipes.load(name).model_copy(update={"seeds": options.drill_seeds})
        epochs = min(each.epochs, options.epochs)
        report.measure(f"drill_{each.name}", partial(run, each, dataset, epochs))
    report.measure("pytorch_epoch", lambda: pytorch(recipe, dataset))
    report.measure("work_of_a_step", lambda: work(recipe, dataset))
    strategies = ("steps", "xla", 1), ("scan", "im2col", 1), ("scan", "xla", options.many)
    for epoch, convolution, seeds in strategies:
        name = f"one_epoch_{epoch}_{convolution}_{seeds}_seeds"
        report.measure(name, partial(train, epoch, convolution, seeds, 1))
    report.measure("summary", lambda: summary(report.results))


def main() -> None:
    """Run the command."""
    options = parse_options()
    report = Report(options.out, options.limit)
    recipe = recipes.load(options.step)
    devices.set_up(4 * infer_shapes(recipe.network)[-1].activations * recipe.batch_size)
    with np.load(options.pack) as arrays:
        dataset = data.Dataset("mnist", **{name: arrays[name] for name in data.FILES})
    names = [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()]
    report.results |= {
        "devices": names,
        "jax": jax.__version__,
        "sha256": dataset.sha256,
        "steps_per_epoch": -(-len(dataset.train_labels) // recipe.batch_size),
    }
    measure_all(report, options, recipe, dataset)


if __name__ == "__main__":
    main()
