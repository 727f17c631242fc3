"""Measure the accuracy on training images, in evaluation mode, from the weights of old runs.

    python -m benchmarks.training_gap --data-dir FOLDER --out results/training_gap.json

Later versions of jaxdrill measure it during training, after the last epoch and on the same images,
and the report shows it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdrill import data, weights
from jaxdrill.errors import Parser, exit_code
from jaxdrill.files import write_text
from jaxdrill.report import statistics
from jaxdrill.runs.reader import FinishedRun, read_all
from jaxdrill.training.fit import training_subset

BATCH = 1000


def accuracy(folder: Path, seed: int, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy of the network of a seed on images uint8[N, 28, 28, 1]."""
    network = weights.load(folder, seed)
    predicted = [
        network(images[first : first + BATCH]).argmax(axis=-1)
        for first in range(0, len(labels), BATCH)
    ]
    return float(np.mean(np.concatenate(predicted) == labels))


def measure(run: FinishedRun, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Measure the accuracies of the seeds that have weights, and their differences, in percent."""
    seeds = [seed for seed in weights.seeds(run.folder) if seed in run.seeds]
    train = np.array([accuracy(run.folder, seed, images, labels) for seed in seeds])
    test = run.metrics["accuracy"][[run.seeds.index(seed) for seed in seeds], -1]
    gap = statistics.summary(train - test, low=-1)
    interval = [round(100 * end, 3) for end in gap.interval] if gap.interval else None
    return {
        "step": run.name,
        "seeds": seeds,
        "train_percent": np.round(100 * train, 3).tolist(),
        "test_percent": np.round(100 * test, 3).tolist(),
        "gap_points": round(100 * gap.mean, 3),
        "interval": interval,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = Parser(
        prog="python -m benchmarks.training_gap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        default=[Path("results")],
        metavar="RUN",
        help="run folder, or a folder of run folders (default: results)",
    )
    parser.add_argument("--data", default="mnist", help="(default: mnist)")
    parser.add_argument("--data-dir", type=Path, help="folder of the four official idx files")
    parser.add_argument("--out", type=Path, help="JSON file of the results, which are also printed")
    options = parser.parse_args(argv)
    dataset = data.load(options.data, options.data_dir)
    subset = training_subset(len(dataset.train_labels))
    images, labels = dataset.train_images[subset], dataset.train_labels[subset]
    rows = []
    for run in read_all(options.runs):
        rows.append(measure(run, images, labels))
        print(json.dumps(rows[-1]), flush=True)
    if options.out:
        write_text(options.out, json.dumps({"images": len(subset), "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(exit_code(main))
