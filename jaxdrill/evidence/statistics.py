"""Statistics of one value a seed: means, paired differences, and how many seeds a difference takes.

A test is a t-test, which holds for few seeds if their accuracies scatter normally. So does the interval of a mean of
fewer than ten seeds; of more it is a bootstrap's, which with few would be too narrow: it cannot leave the range of what
was seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

TARGET = 0.994  # the drill's, of the test images
CONFIDENCE, ALPHA, POWER = 0.95, 0.05, 0.8
BOOTSTRAP_SEEDS = 10  # from this many on
MOST_SEEDS = 1000  # beyond this nobody will train


@dataclass(frozen=True)
class Summary:
    """The mean over seeds; with one seed, or seeds that are all equal, there is no interval."""

    mean: float
    deviation: float | None  # standard deviation, n - 1
    interval: tuple[float, float] | None  # of the mean, 95 %


def summary(values: Sequence[float] | np.ndarray) -> Summary:
    """Mean, standard deviation and interval of one value a seed: the t distribution's below ten seeds, else the
    bootstrap's (BCa, Efron 1987; 9,999 resamples of a fixed generator)."""
    x = np.asarray(values, np.float64)
    if len(x) == 1:
        return Summary(float(x[0]), None, None)
    interval = None
    if len(x) < BOOTSTRAP_SEEDS and not _all_equal(x):
        low, high = map(float, stats.t.interval(CONFIDENCE, len(x) - 1, x.mean(), stats.sem(x)))
        interval = (low, high)
    elif not _all_equal(x):
        drawn = stats.bootstrap((x,), np.mean, confidence_level=CONFIDENCE, rng=np.random.default_rng(0))
        low, high = map(float, drawn.confidence_interval)
        interval = (low, high) if np.isfinite([low, high]).all() else None
    return Summary(float(x.mean()), float(x.std(ddof=1)), interval)


@dataclass(frozen=True)
class Difference:
    """A run's last accuracies minus those of its baseline, seed by seed."""

    baseline: str  # the run's name
    seeds: int  # that both have
    mean: float
    interval: tuple[float, float] | None = None  # of the mean, 95 %, not corrected
    p_value: float | None = None  # two-sided paired t-test
    corrected: float | None = None  # over all steps of the drill
    effect: float | None = None  # the mean in standard deviations of the differences
    comparisons: int = 1  # that the drill makes

    @property
    def verdict(self) -> str:
        """helped, hurt, or what is missing to tell, in words."""
        if self.seeds == 1:
            return "single seed: inconclusive"
        if self.corrected is not None and self.corrected < ALPHA:
            return "helped" if self.mean > 0 else "hurt"
        text = f"no evidence at {self.seeds} seeds"
        if self.p_value is None:
            return f"{text}: every seed differs by as much"
        needed = seeds_needed(abs(self.effect or 0), ALPHA / self.comparisons)
        needed = f"about {needed:,}" if needed else f"more than {MOST_SEEDS:,}"
        return f"{text}; {needed} seeds for {100 * POWER:.0f} % power"


def difference(baseline: str, old: np.ndarray, new: np.ndarray) -> Difference:
    """The paired difference of accuracies, one a seed, in the same order of seeds."""
    delta = np.asarray(new, np.float64) - np.asarray(old, np.float64)
    if len(delta) == 1 or _all_equal(delta):
        return Difference(baseline, len(delta), float(delta.mean()))
    test: Any = stats.ttest_rel(new, old)
    low, high = test.confidence_interval(CONFIDENCE)
    mean, effect = float(delta.mean()), float(delta.mean() / delta.std(ddof=1))
    return Difference(baseline, len(delta), mean, (float(low), float(high)), float(test.pvalue), effect=effect)


def corrected(differences: Sequence[Difference | None]) -> list[Difference | None]:
    """The same with p-values corrected for their number (Holm, 1979), which holds for any dependence; neighbours in the
    drill share a step."""
    p_values = [d.p_value for d in differences if d is not None and d.p_value is not None]
    adjusted = iter(holm(p_values))
    return [
        d if d is None or d.p_value is None else replace(d, corrected=next(adjusted), comparisons=len(p_values))
        for d in differences
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the smallest of n times n, the next times n - 1, and so on, none
    smaller than the one before, none above 1."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def seeds_needed(effect: float, level: float = ALPHA) -> int | None:
    """How many pairs a two-sided paired t-test needs to see a true mean difference of `effect` standard deviations four
    times in five; None above 1,000. Its power is that of the noncentral t distribution (Cohen 1988). Among several
    comparisons the level is 5 % over their number (Bonferroni's): what passes it passes Holm's correction too."""
    for n in range(2, MOST_SEEDS + 1):
        critical, shift = stats.t.isf(level / 2, n - 1), effect * np.sqrt(n)
        wrong_sign = np.nan_to_num(stats.nct.cdf(-critical, n - 1, shift))  # SciPy's is NaN where it is next to nothing
        if stats.nct.sf(critical, n - 1, shift) + wrong_sign >= POWER:
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
