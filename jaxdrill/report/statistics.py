"""Statistics over seeds: means, paired differences, and the difference that a number of seeds can detect.

Intervals and tests are Student's, which assume that accuracies are normally distributed over seeds.
`benchmarks/false_verdicts.py` measures their coverage, false verdicts and power on simulated drills.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
from scipy import optimize, stats

TARGET = 0.994  # the drill's test accuracy
TARGET_EPOCHS = 3  # a seed stays above the target if at least its last three epochs reach it
CONFIDENCE, ALPHA, POWER = 0.95, 0.05, 0.8
MIN_SEEDS = 3  # with fewer there is neither an interval nor a test
MAX_SEEDS = 1000  # the largest number of seeds that planning considers

Verdict = Literal["helped", "hurt", "inconclusive", "single seed"]


@dataclass(frozen=True)
class Summary:
    """The mean of one value per seed."""

    mean: float
    deviation: float | None  # standard deviation with n - 1; None for a single seed
    interval: (
        tuple[float, float] | None
    )  # 95 % interval of the mean; None below MIN_SEEDS or if all values are equal


def summary(values: Sequence[float] | np.ndarray, low: float = 0.0, high: float = 1.0) -> Summary:
    """Compute the mean, the standard deviation and Student's t interval of one value per seed.

    Args:
        values: float[S].
        low: smallest possible value; the interval is clipped to it.
        high: largest possible value.
    """
    x = np.asarray(values, np.float64)
    deviation = float(x.std(ddof=1)) if len(x) > 1 else None
    return Summary(float(x.mean()), deviation, _interval(x, low, high))


@dataclass(frozen=True)
class Difference:
    """The last accuracies of a run minus those of its baseline, paired by seed."""

    baseline: str  # label of the baseline
    seeds: int  # that both runs have
    mean: float
    deviation: float | None = (
        None  # standard deviation of the differences; None below MIN_SEEDS or if all are equal
    )
    interval: tuple[float, float] | None = (
        None  # 95 % interval of the mean, not corrected for several tests
    )
    p_value: float | None = None  # two-sided paired t-test
    p_holm: float | None = None  # the same, corrected over all tests that are shown together
    tests: int = 1  # that are shown together

    @property
    def verdict(self) -> Verdict:
        """Return `helped` or `hurt` if the corrected p-value is below 5 %."""
        if self.seeds == 1:
            return "single seed"
        if self.p_holm is None or self.p_holm >= ALPHA:
            return "inconclusive"
        return "helped" if self.mean > 0 else "hurt"

    @property
    def detectable(self) -> float | None:
        """Return the smallest true difference that these seeds detect with 80 % power, at 5 % over the number of tests.

        The level is Bonferroni's: a difference that passes it passes Holm's correction too. It depends on the spread
        of the differences, not on their mean. None if there is no test.
        """
        return (
            None
            if self.deviation is None
            else detectable_difference(self.seeds, self.deviation, ALPHA / self.tests)
        )

    def seeds_to_detect(self, difference: float) -> int | None:
        """Return the number of seeds that detects a true `difference` with 80 % power at the same level.

        None if there is no test here, or if more than MAX_SEEDS are needed.
        """
        return (
            None
            if self.deviation is None
            else seeds_needed(difference, self.deviation, ALPHA / self.tests)
        )


def difference(baseline: str, old: np.ndarray, new: np.ndarray) -> Difference:
    """Compare accuracies float[S] of a run (`new`) and its baseline (`old`), in the same order of seeds."""
    delta = np.asarray(new, np.float64) - np.asarray(old, np.float64)
    interval = _interval(delta, -1, 1)
    if interval is None:
        return Difference(baseline, len(delta), float(delta.mean()))
    test: Any = stats.ttest_1samp(delta, 0)
    return Difference(
        baseline,
        len(delta),
        float(delta.mean()),
        float(delta.std(ddof=1)),
        interval,
        float(test.pvalue),
    )


def correct(differences: Sequence[Difference | None]) -> list[Difference | None]:
    """Correct the p-values of differences that are shown together (Holm, 1979).

    Holm's method holds for any dependence between the tests, such as a baseline that two of them share.
    """
    p_values = [d.p_value for d in differences if d is not None and d.p_value is not None]
    adjusted = iter(holm(p_values))
    return [
        d
        if d is None or d.p_value is None
        else replace(d, p_holm=next(adjusted), tests=len(p_values))
        for d in differences
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Compute Holm's adjusted p-values, in the order given.

    The smallest p-value is multiplied by n, the next by n - 1, and so on. None is below the one before it or above 1.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def power(effect: float, seeds: int, level: float = ALPHA) -> float:
    """Compute the probability that a two-sided paired t-test finds a true mean difference (Cohen, 1988).

    Args:
        effect: true mean difference in standard deviations of the differences.
        seeds: number of pairs, at least 2.
        level: significance level.
    """
    critical, shift = stats.t.isf(level / 2, seeds - 1), effect * np.sqrt(seeds)
    # SciPy returns NaN in the lower tail where the probability is negligible.
    wrong_sign = np.nan_to_num(stats.nct.cdf(-critical, seeds - 1, shift))
    return float(stats.nct.sf(critical, seeds - 1, shift) + wrong_sign)


def detectable_difference(seeds: int, deviation: float, level: float = ALPHA) -> float:
    """Compute the smallest true difference that a paired t-test detects with 80 % power.

    Args:
        seeds: number of pairs, at least 2.
        deviation: standard deviation of the differences.
        level: significance level; divide it by the number of tests.

    Returns:
        The difference, in the unit of `deviation`.
    """
    return _detectable_effect(seeds, level) * deviation


@cache
def _detectable_effect(seeds: int, level: float) -> float:
    """Find the effect, in standard deviations of the differences, at which the power is 80 %."""
    # With a shift of twice the critical value plus 10 the power is above 80 % for every number of seeds.
    limit = (2 * stats.t.isf(level / 2, seeds - 1) + 10) / np.sqrt(seeds)
    effect: Any = optimize.brentq(lambda effect: power(effect, seeds, level) - POWER, 0, limit)
    return float(effect)


def seeds_needed(difference: float, deviation: float, level: float = ALPHA) -> int | None:
    """Compute the number of seeds that detects a true `difference` with 80 % power, for planning.

    Args:
        difference: above 0, chosen before the runs, not the one that was measured.
        deviation: standard deviation of the differences.
        level: significance level; divide it by the number of tests.

    Returns:
        A number from MIN_SEEDS to MAX_SEEDS, or None if more are needed.
    """
    found = (
        n
        for n in range(MIN_SEEDS, MAX_SEEDS + 1)
        if power(difference / deviation, n, level) >= POWER
    )
    return next(found, None)


def above(values: Sequence[float] | np.ndarray, minimum: float) -> float | None:
    """Compute the p-value of a one-sided t-test that the true mean is above `minimum`.

    None below MIN_SEEDS or if all values are equal: the spread over seeds is then unknown.
    """
    if len(values) < MIN_SEEDS or _all_equal(np.asarray(values)):
        return None
    test: Any = stats.ttest_1samp(values, minimum, alternative="greater")
    return float(test.pvalue)


def epochs_at_target(curve: np.ndarray) -> tuple[int, int | None]:
    """Count the epochs that reach 99.4 %, and find the first epoch from which all do.

    Args:
        curve: test accuracy after each epoch, float64[E], 0..1.

    Returns:
        The number of epochs, and the first epoch, from 0, of at least TARGET_EPOCHS final epochs that all reach the
        target; None if there are fewer.
    """
    reached = curve >= TARGET - 1e-9
    below = np.flatnonzero(~reached)
    first = int(below[-1]) + 1 if len(below) else 0
    return int(reached.sum()), first if len(curve) - first >= TARGET_EPOCHS else None


def _interval(x: np.ndarray, low: float, high: float) -> tuple[float, float] | None:
    """Compute the 95 % t interval of the mean of float64[S], clipped to low..high."""
    if len(x) < MIN_SEEDS or _all_equal(x):
        return None
    margin = _critical(len(x)) * x.std(ddof=1) / np.sqrt(len(x))
    return float(max(x.mean() - margin, low)), float(min(x.mean() + margin, high))


@cache
def _critical(seeds: int) -> float:
    """Return the quantile of Student's t distribution that a two-sided interval needs."""
    return float(stats.t.isf((1 - CONFIDENCE) / 2, seeds - 1))


def _all_equal(x: np.ndarray) -> bool:
    return bool(np.ptp(x) < 1e-9)
