"""How often the analysis is wrong, on simulated drills whose true effects are known:

    python -m benchmarks.false_verdicts --out results/benchmarks/false_verdicts.json

A drill is the eleven built-in recipes, each with as many seeds, through the code that reports use (`analysis.analyze`).
The accuracies of seeds are normal with a standard deviation of 0.05 percentage points, rounded to 10,000 images.
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

MEAN, DEVIATION, IMAGES = (
    0.99,
    0.0005,
    10_000,
)  # accuracy of each step without an effect, and its spread over seeds
CHANGED = "step_6_small"  # the step that has the effect: no other step extends it
TESTS = 10  # comparisons of a drill


@cache
def recipes() -> tuple[config.Config, ...]:
    """Load the built-in recipes, in the order of the drill."""
    return tuple(config.load(name) for name in config.steps())


def simulate(seeds: int, effect: float, generator: np.random.Generator) -> list[Analysis]:
    """Analyse one drill in which CHANGED is better by `effect` than the others, which are all equal."""
    runs = []
    for recipe in recipes():
        mean = MEAN + effect * (recipe.name == CHANGED)
        accuracy = generator.normal(mean, DEVIATION, (seeds, 1)).clip(0, 1)
        metrics = {"accuracy": np.round(accuracy * IMAGES) / IMAGES, "epoch": np.zeros((seeds, 1))}
        metadata = {"parameters": 0, "split": "test", "dataset_sha256": ""}
        nothing = np.zeros((seeds, 0), np.uint8)
        runs.append(
            FinishedRun(
                Path(recipe.name),
                recipe,
                metadata,
                list(range(1, seeds + 1)),
                metrics,
                nothing[0],
                nothing,
                nothing,
                None,
                {},
                [],
            )
        )
    return analyze(runs)


def count(drills: int, seeds: int, effect: float, seed: int) -> dict[str, Any]:
    """Count what is true and false in the analyses of simulated drills."""
    generator = np.random.default_rng([seeds, seed])
    total = {
        "drills": drills,
        "false": 0,
        "found": 0,
        "means": 0,
        "means_covered": 0,
        "differences": 0,
        "differences_covered": 0,
    }
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
    """Measure false verdicts and coverage without effects, and power at the smallest detectable difference."""
    deviation = DEVIATION * 2**0.5  # of the difference of two independent steps
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
        "drills_with_a_false_verdict_percent": 100 * none["false"] / none["drills"],
        "coverage_of_means_percent": 100 * none["means_covered"] / none["means"],
        "coverage_of_differences_percent": 100 * none["differences_covered"] / none["differences"],
        "detectable_points": 100 * detectable,
        "reported_detectable_points_10_50_90_percentile": reported.tolist(),
        "detected_percent": 100 * effect["found"] / effect["drills"],
        "drills_with_a_false_verdict_beside_the_effect_percent": 100
        * effect["false"]
        / effect["drills"],
    }


def _sum(parts: Iterator[dict[str, Any]]) -> dict[str, Any]:
    found = list(parts)
    return {key: sum((part[key] for part in found[1:]), found[0][key]) for key in found[0]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(
        prog="python -m benchmarks.false_verdicts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--drills", type=int, default=10_000, help="(default: 10000)")
    parser.add_argument("--workers", type=int, default=2, help="(default: 2)")
    parser.add_argument("--out", type=Path, help="JSON file of the results (default: print them)")
    options = parser.parse_args(argv)
    rows = [measure(options.drills, seeds, options.workers) for seeds in (3, 10, 30)]
    text = json.dumps(
        {"deviation_points": 100 * DEVIATION, "tests": TESTS, "results": rows}, indent=1
    )
    print(text)
    if options.out:
        write_text(options.out, text + "\n")


if __name__ == "__main__":
    sys.exit(exit_code(main))
