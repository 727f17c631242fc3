"""What the seeds of a run show, and whether a step helped. Accuracies are fractions in 0..1.

A test is a t-test, which holds for few seeds if their accuracies scatter normally; the interval of a mean is a
bootstrap's, which with few seeds is too narrow (it cannot leave the range of what was seen).
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median_low
from typing import Any

import numpy as np
from scipy import stats

from jaxdrill.config import recipe_folder
from jaxdrill.folder import Run

TARGET = 0.994  # the drill's, of the test images
CONFIDENCE, ALPHA, POWER = 0.95, 0.05, 0.8
MOST_SEEDS = 1000  # beyond this nobody will train
# The test labels that most people reject, by index from 0: Northcutt, Athalye and Mueller, "Pervasive label errors in
# test sets destabilize machine learning benchmarks", 2021 (github.com/cleanlab/label-errors, mnist_mturk.json).
DISPUTED = [947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937, 6651, 6783, 8527, 9679, 9729]


@dataclass(frozen=True)
class Summary:
    """The mean over seeds; with one seed, or seeds that are all equal, there is no interval."""

    mean: float
    deviation: float | None  # standard deviation, n - 1
    interval: tuple[float, float] | None  # of the mean, 95 %


def summary(values: Sequence[float] | np.ndarray) -> Summary:
    """Mean, standard deviation and bootstrap interval (BCa, Efron 1987; 9,999 resamples of a fixed generator) of one
    value a seed."""
    x = np.asarray(values, np.float64)
    if len(x) == 1:
        return Summary(float(x[0]), None, None)
    interval = None
    if not _all_equal(x):
        drawn = stats.bootstrap((x,), np.mean, confidence_level=CONFIDENCE, rng=np.random.default_rng(0))
        low, high = map(float, drawn.confidence_interval)
        interval = (low, high) if np.isfinite([low, high]).all() else None
    return Summary(float(x.mean()), float(x.std(ddof=1)), interval)


@dataclass(frozen=True)
class Difference:
    """A step's last test accuracies minus those of the step before, seed by seed."""

    before: str  # the step's name
    seeds: int  # that both have
    mean: float
    interval: tuple[float, float] | None = None  # of the mean, 95 %, not corrected
    p_value: float | None = None  # two-sided paired t-test
    corrected: float | None = None  # over all steps of the drill
    seeds_needed: int | None = None  # None: more than 1,000, or no telling

    @property
    def verdict(self) -> str:
        """helped, hurt, or what is missing to tell, in words."""
        if self.seeds == 1:
            return "one seed: cannot be told"
        if self.corrected is not None and self.corrected < ALPHA:
            return "helped" if self.mean > 0 else "hurt"
        text = f"no evidence at {self.seeds} seeds"
        if self.p_value is None:
            return f"{text}: every seed differs by as much"
        needed = f"about {self.seeds_needed:,}" if self.seeds_needed else f"more than {MOST_SEEDS:,}"
        return f"{text}; a difference of this size takes {needed} to see"


def difference(before: str, old: np.ndarray, new: np.ndarray) -> Difference:
    """The paired difference of accuracies, one a seed, in the same order of seeds."""
    delta = np.asarray(new, np.float64) - np.asarray(old, np.float64)
    if len(delta) == 1 or _all_equal(delta):
        return Difference(before, len(delta), float(delta.mean()))
    test: Any = stats.ttest_rel(new, old)
    low, high = test.confidence_interval(CONFIDENCE)
    needed = seeds_needed(abs(delta.mean()) / delta.std(ddof=1))
    return Difference(before, len(delta), float(delta.mean()), (float(low), float(high)), float(test.pvalue),
                      seeds_needed=needed)  # fmt: skip


def corrected(differences: Sequence[Difference | None]) -> list[Difference | None]:
    """The same with p-values corrected for their number: Benjamini and Yekutieli (2001), which holds for any
    dependence; neighbours in the drill share a step."""
    tested = [d.p_value for d in differences if d is not None and d.p_value is not None]
    adjusted = iter(stats.false_discovery_control(tested, method="by").tolist() if tested else [])
    return [d if d is None or d.p_value is None else replace(d, corrected=next(adjusted)) for d in differences]


def seeds_needed(effect: float) -> int | None:
    """How many pairs a two-sided paired t-test at 5 % needs to see a true mean difference of `effect` standard
    deviations four times in five; None above 1,000. Its power is that of the noncentral t distribution (Cohen 1988)."""
    for n in range(2, MOST_SEEDS + 1):
        critical, shift = stats.t.isf(ALPHA / 2, n - 1), effect * np.sqrt(n)
        if stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift) >= POWER:
            return n
    return None


def above(values: Sequence[float] | np.ndarray, minimum: float) -> float | None:
    """The p-value of a one-sided t-test: how likely such accuracies are if their true mean is no more than the minimum.
    None if it cannot be told: one seed, or all seeds equal."""
    if len(values) == 1 or _all_equal(np.asarray(values)):
        return None
    test: Any = stats.ttest_1samp(values, minimum, alternative="greater")
    return float(test.pvalue)


def _all_equal(x: np.ndarray) -> bool:
    return bool(np.ptp(x) < 1e-9)


def epochs_at_target(curve: np.ndarray) -> tuple[int, int | None]:
    """How many epochs of a test accuracy's curve, float64[E], reach 99.4 %, and the first from which all do."""
    reached = curve >= TARGET - 1e-9
    below = np.flatnonzero(~reached)
    first = int(below[-1]) + 1 if len(below) else 0
    return int(reached.sum()), first if first < len(curve) else None


def notebook(name: str, epochs: int) -> list[float]:
    """The test accuracies that the original notebook of a step printed, of as many epochs; none if it has none."""
    table = tomllib.loads((recipe_folder() / "notebook_results.toml").read_text())
    return [percent / 100 for percent in table.get(name, [])[:epochs]]


@dataclass(frozen=True)
class Evidence:
    """A run, and what its seeds show."""

    run: Run
    before: Run | None  # the run that it is compared with
    change: Difference | None  # from it

    @cached_property
    def last(self) -> Summary:
        """Test accuracy after the last epoch."""
        return summary(self.run.metrics["test_accuracy"][:, -1])

    @cached_property
    def best(self) -> Summary:
        """Test accuracy of each seed's best epoch. The epoch is chosen by the test images, so it is too high."""
        return summary(self.run.metrics["test_accuracy"].max(axis=1))

    @cached_property
    def train(self) -> Summary:
        """Training accuracy of the last epoch, measured while training, with dropout and augmentation."""
        return summary(self.run.metrics["train_accuracy"][:, -1])

    @cached_property
    def gap(self) -> Summary:
        """Training minus test accuracy, last epoch."""
        return summary(self.run.metrics["train_accuracy"][:, -1] - self.run.metrics["test_accuracy"][:, -1])

    @cached_property
    def at_target(self) -> tuple[float, int, int | None]:
        """The mean number of epochs at 99.4 % or more, how many seeds stay there to the end, and from which epoch on
        (their lower median)."""
        counted = [epochs_at_target(curve) for curve in self.run.metrics["test_accuracy"]]
        stay = [first for _, first in counted if first is not None]
        return float(np.mean([count for count, _ in counted])), len(stay), median_low(stay) if stay else None

    @cached_property
    def notebook(self) -> tuple[float, int, float] | None:
        """The notebook's best test accuracy over as many epochs, its epoch, and the share of our seeds whose own best
        is lower (equal ones count half)."""
        curve = notebook(self.run.name, self.run.epochs) if self.run.config.data == "mnist" else []
        if not curve:
            return None
        ours = np.round(self.run.metrics["test_accuracy"].max(axis=1), 6)
        best = max(curve)
        return best, curve.index(best), float(stats.percentileofscore(ours, round(best, 6), kind="mean")) / 100

    @cached_property
    def ensemble(self) -> float | None:
        """Test accuracy of the seeds' averaged probabilities; None of one seed."""
        if len(self.run.seeds) == 1:
            return None
        return float(np.mean(self.probabilities.argmax(axis=-1) == self.run.labels))

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Of each test image and class, the mean over the seeds, float64[N, 10]."""
        return self.run.probabilities.astype(np.float64).mean(axis=0)

    @cached_property
    def disputed(self) -> tuple[float, float] | None:
        """Mean number of the disputed labels that a seed contradicts, and its accuracy on the other images; MNIST
        only."""
        if self.run.config.data != "mnist" or len(self.run.labels) <= max(DISPUTED):
            return None
        right = self.run.predicted == self.run.labels
        return float((~right[:, DISPUTED]).sum(axis=1).mean()), float(np.delete(right, DISPUTED, axis=1).mean())


def evidence(runs: Sequence[Run]) -> list[Evidence]:
    """What the runs show, each against the one that its recipe extends, if that is here, or else the one before it."""
    befores: list[Run | None] = []
    differences: list[Difference | None] = []
    for n, run in enumerate(runs):
        earlier = [other for other in runs if other.name == run.config.extends] or list(runs[:n][-1:])
        before = earlier[0] if earlier else None
        shared = sorted(set(run.seeds) & set(before.seeds)) if before else []
        befores.append(before)
        differences.append(
            difference(before.name, _last(before, shared), _last(run, shared)) if before and shared else None
        )
    return [Evidence(*each) for each in zip(runs, befores, corrected(differences), strict=True)]


def _last(run: Run, seeds: Sequence[int]) -> np.ndarray:
    """The last test accuracies of these seeds."""
    return run.metrics["test_accuracy"][[run.seeds.index(seed) for seed in seeds], -1]
