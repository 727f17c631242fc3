"""Everything that one accelerator is to be measured on, in one command:

    python -m benchmarks.accelerator --pack mnist.npz --out results.json

It needs no network and no tfds: `--pack` is the file that jaxdrill keeps in `TFDS_DATA_DIR/jaxdrill`. Parts that no
longer fit into `--limit` seconds are left out and named. PyTorch is measured too if it is installed.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders import torch_network
from jaxdrill import config as recipes
from jaxdrill import data
from jaxdrill.config.config import Config, Execution
from jaxdrill.config.layers import infer_shapes
from jaxdrill.nn.network import MEAN, STANDARD_DEVIATION
from jaxdrill.training import devices
from jaxdrill.training.fit import fit
from jaxdrill.training.trainer import Trainer


def seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """The shortest of a few calls after a first one."""
    function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def ceilings(size: int) -> dict[str, float]:
    """What the device reaches: matrix products of a side of `size` in FLOP/s, and a copy of as much in bytes/s."""
    found = {}
    for dtype, precision in (
        ("bfloat16", "default"),
        ("float32", "default"),
        ("float32", "highest"),
    ):
        a = jnp.ones((size, size), dtype)
        product = jax.jit(lambda a, precision=precision: jnp.matmul(a, a, precision=precision))
        found[f"matmul_{dtype}_{precision}"] = (
            2 * size**3 / seconds(lambda a=a, f=product: f(a).block_until_ready())
        )
    a = jnp.ones((16, size, size), jnp.float32)
    copy = jax.jit(lambda a: a + 1)
    found["bytes"] = 2 * a.nbytes / seconds(lambda: copy(a).block_until_ready())
    return found


def run(config: Config, dataset: data.Dataset, epochs: int) -> dict[str, Any]:
    """Train all seeds together: seconds of each epoch, and the accuracies after it.

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
    """Operations and bytes of one training step, as the compiler counts them."""
    config = config.model_copy(update={"execution": Execution(epoch="steps", convolution="xla")})
    analysis = Trainer(config, dataset).step.compile().cost_analysis()
    return {
        "flop": analysis.get("flops", float("nan")),
        "bytes": analysis.get("bytes accessed", float("nan")),
    }


def pytorch(config: Config, dataset: data.Dataset) -> dict[str, Any]:
    """PyTorch eager, the data on the device and rotated there: seconds of an epoch without the evaluation."""
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
            zero, rows = (
                torch.zeros_like(angle),
                (angle.cos(), -angle.sin(), angle.sin(), angle.cos()),
            )
            turn = torch.stack([rows[0], rows[1], zero, rows[2], rows[3], zero], 1).reshape(
                -1, 2, 3
            )
            grid = torch.nn.functional.affine_grid(turn, list(x.shape), align_corners=False)
            x = torch.nn.functional.grid_sample(x, grid, mode="nearest", align_corners=False)
            optimizer.zero_grad()
            logits = network((x / 255 - MEAN) / STANDARD_DEVIATION)
            torch.nn.functional.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return {"device": str(device), "version": torch.__version__, "seconds": seconds(epoch, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator", description=__doc__)
    parser.add_argument("--pack", type=Path, required=True, help="packed MNIST, a .npz file")
    parser.add_argument(
        "--out", type=Path, required=True, help="file for every figure, rewritten after each part"
    )
    parser.add_argument("--step", default="5", help="the recipe to measure (default: 5)")
    parser.add_argument(
        "--drill",
        nargs="+",
        default=recipes.steps(),
        help="the recipes of the drill (default: all)",
    )
    parser.add_argument("--epochs", type=int, default=20, help="(default: 20)")
    parser.add_argument("--many", type=int, default=32, help="seeds together (default: 32)")
    parser.add_argument(
        "--drill-seeds",
        type=int,
        default=10,
        help="seeds of each recipe of the drill (default: 10)",
    )
    parser.add_argument(
        "--ceiling", type=int, default=8192, help="side of the matrices (default: 8192)"
    )
    parser.add_argument(
        "--limit", type=float, default=460, help="seconds for everything (default: 460)"
    )
    options = parser.parse_args()
    if not options.pack.is_file():
        parser.error(f"there is no {options.pack}; train on mnist once, and jaxdrill packs it")
    if not options.out.absolute().parent.is_dir():
        parser.error(f"{options.out.absolute().parent} is not a folder; create it")
    began = time.perf_counter()
    recipe = recipes.load(options.step)
    devices.set_up(4 * infer_shapes(recipe.network)[-1].activations * recipe.batch_size)
    with np.load(options.pack) as arrays:
        dataset = data.Dataset("mnist", **{name: arrays[name] for name in data.FILES})
    names = [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()]
    steps = -(-len(dataset.train_labels) // recipe.batch_size)
    report: dict[str, Any] = {
        "devices": names,
        "jax": jax.__version__,
        "sha256": dataset.sha256,
        "steps_per_epoch": steps,
    }

    def part(name: str, function: Callable[[], Any]) -> Any:
        if time.perf_counter() - began > options.limit:
            report.setdefault("left_out", []).append(name)
            return None
        report[name] = function()
        report["elapsed_seconds"] = time.perf_counter() - began
        options.out.write_text(json.dumps(report, indent=1) + "\n")
        shown = (
            {k: v for k, v in report[name].items() if k != "test_accuracies"}
            if report[name]
            else report[name]
        )
        print(f"{report['elapsed_seconds']:6.1f} s  {name}: {json.dumps(shown)}", flush=True)
        return report[name]

    def strategy(epoch: str, convolution: str, seeds: int, epochs: int) -> dict[str, Any]:
        execution = recipe.execution.model_copy(update={"epoch": epoch, "convolution": convolution})
        return run(
            recipe.model_copy(update={"seeds": seeds, "execution": execution}), dataset, epochs
        )

    part("ceilings", lambda: ceilings(options.ceiling))
    part("one_seed", lambda: strategy("auto", "auto", 1, options.epochs))
    part("many_seeds", lambda: strategy("auto", "auto", options.many, options.epochs))
    for name in options.drill:
        each = recipes.load(name).model_copy(update={"seeds": options.drill_seeds})
        part(
            f"drill_{each.name}",
            lambda each=each: run(each, dataset, min(each.epochs, options.epochs)),
        )
    part("pytorch_epoch", lambda: pytorch(recipe, dataset))
    part("work_of_a_step", lambda: work(recipe, dataset))
    for epoch, convolution, seeds in (
        ("steps", "xla", 1),
        ("scan", "im2col", 1),
        ("scan", "xla", options.many),
    ):
        name = f"one_epoch_{epoch}_{convolution}_{seeds}_seeds"
        part(name, lambda e=epoch, c=convolution, s=seeds: strategy(e, c, s, 1))
    part("summary", lambda: summary(report))


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """The targets' figures, from what was measured."""
    figures = {}
    if one := report.get("one_seed"):
        figures["one_seed_seconds"] = one["seconds"]
        epoch = float(np.median(one["epoch_train_seconds"]))
        if "seconds" in report.get("pytorch_epoch", {}):
            figures["pytorch_seconds_per_ours"] = report["pytorch_epoch"]["seconds"] / epoch
        if (work := report.get("work_of_a_step")) and (most := report.get("ceilings")):
            steps = report["steps_per_epoch"]
            figures["share_of_bandwidth"] = work["bytes"] * steps / epoch / most["bytes"]
            figures["share_of_float32"] = (
                work["flop"] * steps / epoch / most["matmul_float32_highest"]
            )
    if many := report.get("many_seeds"):
        figures["seconds_a_seed_of_many"] = many["seconds"] / many["seeds"]
    drill = [part["seconds"] for name, part in report.items() if name.startswith("drill_")]
    return figures | {"drill_seconds": sum(drill)}


if __name__ == "__main__":
    main()
