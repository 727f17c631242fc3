"""Measure the error rates of the analysis on simulated drills with known effects.

    python -m benchmarks.false_verdicts --out results/benchmarks/false_verdicts.json

A drill consists of the eleven built-in recipes with the same number of seeds. `analysis.analyze`
analyzes it, as in a report. The accuracies of the seeds are normally distributed with a standard
deviation of 0.05 percentage points, and rounded to multiples of 1/10,000.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxdrill import config
from jaxdrill.errors import Parser, exit_code
from jaxdrill.files import write_text
from jaxdrill.report import statistics
from jaxdrill.report.analysis import Analysis, analyze
from jaxdrill.runs.reader import FinishedRun

MEAN, DEVIATION = 0.99, 0.0005  # accuracy of the seeds of a step without an effect
IMAGES = 10_000
CHANGED = "step_6_small"  # Only this step has an effect. No other step extends it.
TESTS = 10  # comparisons per drill


@cache
def recipes() -> tuple[config.Config, ...]:
    """Load the built-in recipes, in the order of the drill."""
    return tuple(config.load(name) for name in config.steps())


def simulate(seeds: int, effect: float, generator: np.random.Generator) -> list[Analysis]:
    """Analyze one drill. CHANGED is better by `effect` than all other steps, which are equal."""
    runs = []
    for recipe in recipes():
        mean = MEAN + effect * (recipe.name == CHANGED)
        accuracy = generator.normal(mean, DEVIATION, (seeds, 1)).clip(0, 1)
        metrics = {"accuracy": np.round(accuracy * IMAGES) / IMAGES, "epoch": np.zeros((seeds, 1))}
        metadata = {"parameters": 0, "split": "test", "dataset_sha256": ""}
        start = Path(recipe.name), recipe, metadata, list(range(1, seeds + 1)), metrics
        nothing = np.zeros((seeds, 0), np.uint8)
        runs.append(FinishedRun(*start, nothing[0], nothing, nothing, None, {}, []))
    return analyze(runs)


def count(drills: int, seeds: int, effect: float, seed: int) -> dict[str, Any]:
    """Count the true and false statements in the analyses of simulated drills."""
    generator = np.random.default_rng([seeds, seed])
    counted = "false", "found", "means", "means_covered", "differences", "differences_covered"
    total = {"drills": drills} | dict.fromkeys(counted, 0)
    detectable: list[float] = []
    for _ in range(drills):
        changes = []
        for found in simulate(seeds, effect, generator):
            truth = effect * (found.run.name == CHANGED)
            if found.last.interval:
                total["means"] += 1
                total["means_covered"] += _covers(found.last.interval, MEAN + truth)
            if (change := found.change) and change.interval:
                total["differences"] += 1
                total["differences_covered"] += _covers(change.interval, truth)
                detectable.append(change.detectable or np.nan)
                changes.append((truth, change.verdict))
        total["false"] += any(verdict != "inconclusive" for truth, verdict in changes if not truth)
        total["found"] += any(verdict == "helped" for truth, verdict in changes if truth)
    return total | {"detectable": detectable}


def _covers(interval: tuple[float, float], truth: float) -> bool:
    return interval[0] <= truth <= interval[1]


def measure(drills: int, seeds: int, workers: int = 1) -> dict[str, Any]:
    """Measure false verdicts and coverage without effects, and the power.

    The power is measured for an effect of the smallest detectable difference.
    """
    deviation = DEVIATION * 2**0.5  # of the difference between two independent steps
    detectable = statistics.detectable_difference(seeds, deviation, statistics.ALPHA / TESTS)
    parts = max(1, drills // 250)
    with ProcessPoolExecutor(workers) as pool:
        none, effect = (
            _sum(pool.map(partial(count, drills // parts, seeds, size), range(parts)))
            for size in (0.0, detectable)
        )
    reported = np.percentile(100 * np.array(none["detectable"]), [10, 50, 90])
    return {
        "seeds": seeds,
        "drills": none["drills"],
        "drills_with_a_false_verdict_percent": _percent(none),
        "coverage_of_means_percent": 100 * none["means_covered"] / none["means"],
        "coverage_of_differences_percent": 100 * none["differences_covered"] / none["differences"],
        "detectable_points": 100 * detectable,
        "reported_detectable_points_10_50_90_percentile": reported.tolist(),
        "detected_percent": 100 * effect["found"] / effect["drills"],
        "drills_with_a_false_verdict_beside_the_effect_percent": _percent(effect),
    }


def _percent(counts: dict[str, Any]) -> float:
    """Return the percentage of drills with a false verdict."""
    return 100 * counts["false"] / counts["drills"]


def _sum(parts: Iterator[dict[str, Any]]) -> dict[str, Any]:
    found = list(parts)
    return {key: sum((part[key] for part in found[1:]), found[0][key]) for key in found[0]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = Parser(
        prog="python -m benchmarks.false_verdicts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--drills", type=int, default=10_000, help="drills per number of seeds (default: 10000)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--out", type=Path, help="JSON file of the results, which are also printed")
    options = parser.parse_args(argv)
    rows = [measure(options.drills, seeds, options.workers) for seeds in (3, 10, 30)]
    found = {"deviation_points": 100 * DEVIATION, "tests": TESTS, "results": rows}
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        write_text(options.out, text + "\n")


if __name__ == "__main__":
    sys.exit(exit_code(main))
