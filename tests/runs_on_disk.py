"""Write finished run folders without training."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdrill import array_files, config, weights
from jaxdrill.nn import network
from jaxdrill.runs import folder

CURVES = {1: [0.96, 0.981, 0.99], 2: [0.95, 0.982, 0.992], 3: [0.97, 0.983, 0.994]}
BETTER = {1: [0.96, 0.981, 0.995], 2: [0.95, 0.982, 0.996], 3: [0.97, 0.983, 0.999]}


def write_run(
    path: Path,
    step: str,
    curves: dict[int, list[float]],
    data="mnist",
    labels=None,
    split="test",
    flags=None,
    train=None,
    **more,
) -> Path:
    """Write a finished run.

    Args:
        path: the run folder.
        step: name of the step.
        curves: test accuracy of each seed after each epoch. The misclassified images differ.
        data: name of the dataset.
        labels: labels of the evaluated images; 1,000 labels if None.
        split: the evaluated split.
        flags: values that override the recipe.
        train: number of 100 training images that each seed classifies correctly.
        more: further values of run.json.
    """
    epochs, seeds = len(next(iter(curves.values()))), sorted(curves)
    recipe = config.load(step, flags or {}).model_copy(
        update={"data": data, "epochs": epochs, "seed": seeds[0], "seeds": len(seeds)}
    )
    labels = np.arange(1000) % 10 if labels is None else labels
    path.mkdir(parents=True)
    (path / "config.json").write_text(recipe.model_dump_json())
    made = {
        "versions": {"python": "3.11", "jax": "0.10"},
        "devices": ["cpu:0 cpu"],
        "processor": "Abacus, 2 cores",
    }
    metadata = (
        {
            "format": folder.FORMAT,
            "command": ["jaxdrill", "train", "--step", step],
            "parameters": 9606,
            "dataset": data,
            "dataset_sha256": f"sum of {data}",
            "split": split,
            "git_commit": "0" * 40,
            "earlier_sessions": [],
            "seconds": {"data": 1.0, "compile": 4.0, "train": 90.0, "evaluation": 5.0},
        }
        | made
        | more
    )
    (path / "run.json").write_text(json.dumps(metadata))
    rows = [
        {
            "seed": seed,
            "epoch": epoch,
            "step": 469 * (epoch + 1),
            "learning_rate": 0.01,
            "train_loss": 0.1,
            "train_accuracy": 0.99,
            f"{split}_loss": 0.05,
            f"{split}_accuracy": accuracy,
            f"{split}_examples": len(labels),
            "seconds": 9.0,
        }
        for seed in seeds
        for epoch, accuracy in enumerate(curves[seed])
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = set(range(min(10, len(labels))))
    for seed in seeds:
        predicted = np.array(labels, np.uint8)
        wrong = (seed + np.arange(round((1 - curves[seed][-1]) * len(labels)))) % len(labels)
        predicted[wrong] = (predicted[wrong] + 1) % 10
        shown |= set(wrong.tolist())
        arrays = {
            "epoch": epochs - 1,
            "labels": np.array(labels, np.uint8),
            "predicted": predicted,
            "probabilities": np.eye(10, dtype=np.float16)[predicted],
        }
        arrays |= {"train_correct": train[seed], "train_examples": 100} if train else {}
        array_files.write_npz(folder.predictions_file(path, seed), arrays)
    images = np.random.default_rng(0).integers(0, 256, (len(shown), 28, 28), dtype=np.uint8)
    array_files.write_npz(path / "images.npz", {"index": np.array(sorted(shown)), "images": images})
    return path


def write_trained(path: Path, step: str, seeds=(3,)) -> Path:
    """Write the weights of seeds. No array is 0 or 1, which could hide a mistake."""
    recipe = config.load(step)
    shapes = jax.eval_shape(
        lambda: network.named_weights(*network.init(recipe.network, jax.random.key(0)))
    )
    ranges = {"scale": (0.3, 1.5), "var": (0.3, 1.5), "bias": (-0.5, 0.5), "mean": (-0.5, 0.5)}
    for seed in seeds:
        generator, arrays = np.random.default_rng(seed), {}
        for name, array in shapes.items():
            bound = np.prod(array.shape[:-1]) ** -0.5  # of PyTorch's initial kernels
            low, high = ranges.get(name.rpartition(".")[2], (-bound, bound))
            arrays[name] = generator.uniform(low, high, array.shape).astype(np.float32)
        weights.write_weights(weights.weights_file(path, seed), arrays, recipe, {"seed": seed})
    return path


def write_drill(path: Path) -> Path:
    """Write runs of steps 2 to 5. Step 3 has two seeds, the others three."""
    two = {1: CURVES[1], 2: CURVES[2]}
    for step, curves in (("2", CURVES), ("3", two), ("4", CURVES), ("5", BETTER)):
        write_run(path / f"step_{step}", step, curves)
    return path


@pytest.fixture
def drill(tmp_path):
    """The runs of `write_drill`, which a test may change."""
    return write_drill(tmp_path / "runs")


@pytest.fixture(scope="session")
def shared_drill(tmp_path_factory):
    """The runs of `write_drill` for tests that only read them."""
    return write_drill(tmp_path_factory.mktemp("drill") / "runs")


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """Return a finished run with weights. Tests may only add files."""
    run = write_run(tmp_path_factory.mktemp("runs") / "step_6_small", "6_small", BETTER)
    return write_trained(run, "6_small", (1, 2, 3))
