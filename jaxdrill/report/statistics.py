"""Statistics over seeds: means, paired differences, and detectable differences.

Intervals and tests use Student's t, which assumes that accuracies are normally distributed over
seeds. `benchmarks/false_verdicts.py` measures their coverage, false verdicts and power on simulated
drills.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
from scipy import optimize, stats

TARGET = 0.994  # the drill's test accuracy
TARGET_EPOCHS = 3  # number of final epochs that must reach the target in a seed that stays above it
CONFIDENCE, ALPHA, POWER = 0.95, 0.05, 0.8
MIN_SEEDS = 3  # needed for an interval and a test
MAX_SEEDS = 1000  # limit of `seeds_needed`

Verdict = Literal["helped", "hurt", "inconclusive", "single seed"]


@dataclass(frozen=True)
class Summary:
    """The mean of one value per seed.

    Attributes:
        mean: mean over the seeds.
        deviation: sample standard deviation (n - 1); None for a single seed.
        interval: 95 % interval of the mean; None below MIN_SEEDS or if all values are equal.
    """

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


def summary(values: Sequence[float] | np.ndarray, low: float = 0.0, high: float = 1.0) -> Summary:
    """Compute the mean, the standard deviation and Student's t interval of one value per seed.

    Args:
        values: float[S].
        low: smallest possible value; the interval is clipped to it.
        high: largest possible value.
    """
    x = np.asarray(values, np.float64)
    deviation = float(x.std(ddof=1)) if len(x) > 1 else None
    return Summary(float(x.mean()), deviation, _interval(_t_test(x), low, high))


@dataclass(frozen=True)
class Difference:
    """The last accuracies of a run minus those of its baseline, paired by seed.

    Attributes:
        baseline: label of the baseline.
        seeds: number of seeds that both runs have.
        mean: mean of the differences.
        deviation: sample standard deviation of the differences; None without a test.
        interval: 95 % interval of the mean, not corrected for multiple tests; None without a test.
        p_value: of the two-sided paired t-test; None without a test, which needs MIN_SEEDS seeds
            and differences that are not all equal.
        p_holm: `p_value` after Holm's correction over `tests` tests.
        tests: number of tests that are shown together.
    """

    baseline: str
    seeds: int
    mean: float
    deviation: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    p_holm: float | None = None
    tests: int = 1

    @property
    def verdict(self) -> Verdict:
        """Return `helped` or `hurt` if the corrected p-value is below 5 %, else `inconclusive`."""
        if self.seeds == 1:
            return "single seed"
        if self.p_holm is None or self.p_holm >= ALPHA:
            return "inconclusive"
        return "helped" if self.mean > 0 else "hurt"

    @property
    def detectable(self) -> float | None:
        """Return the smallest true difference that these seeds detect with 80 % power.

        The significance level is 5 % divided by the number of tests (Bonferroni). A difference that
        passes Bonferroni's correction also passes Holm's. The result depends on the spread of the
        differences, not on their mean. It is None without a test.
        """
        if self.deviation is None:
            return None
        return detectable_difference(self.seeds, self.deviation, ALPHA / self.tests)

    def seeds_to_detect(self, difference: float) -> int | None:
        """Return the number of seeds that detects a true `difference`, as `seeds_needed` does.

        The result is None without a test, or if more than MAX_SEEDS seeds are needed.
        """
        if self.deviation is None:
            return None
        return seeds_needed(difference, self.deviation, ALPHA / self.tests)


def difference(baseline: str, old: np.ndarray, new: np.ndarray) -> Difference:
    """Compare the accuracies of a run with those of its baseline in a paired t-test.

    Args:
        baseline: label of the baseline.
        old: accuracies of the baseline, float[S].
        new: accuracies of the run, float[S], in the same order of seeds.
    """
    delta = np.asarray(new, np.float64) - np.asarray(old, np.float64)
    compared = Difference(baseline, len(delta), float(delta.mean()))
    if (test := _t_test(delta)) is None:
        return compared
    deviation, p_value = float(delta.std(ddof=1)), float(test.pvalue)
    return replace(compared, deviation=deviation, interval=_interval(test, -1, 1), p_value=p_value)


def correct(differences: Sequence[Difference | None]) -> list[Difference | None]:
    """Correct the p-values of differences that are shown together (Holm, 1979).

    Holm's method is valid for any dependence between the tests, for example a shared baseline.
    """
    p_values = [d.p_value for d in differences if d and d.p_value is not None]
    adjusted = iter(holm(p_values))
    return [
        replace(d, p_holm=next(adjusted), tests=len(p_values)) if d and d.p_value is not None else d
        for d in differences
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Compute Holm's adjusted p-values, in the given order.

    The smallest p-value is multiplied by n, the next by n - 1, and so on. An adjusted p-value is
    at least the previous adjusted p-value and at most 1.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def power(cohens_dz: float, seeds: int, level: float = ALPHA) -> float:
    """Compute the power of a two-sided paired t-test (Cohen, 1988).

    Args:
        cohens_dz: true mean difference, divided by the standard deviation of the differences.
        seeds: number of pairs, at least 2.
        level: significance level.
    """
    critical, shift = stats.t.isf(level / 2, seeds - 1), cohens_dz * np.sqrt(seeds)
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
    return _detectable_dz(seeds, level) * deviation


@cache
def _detectable_dz(seeds: int, level: float) -> float:
    """Find the Cohen's dz at which the power is 80 %."""
    # At 2 t + 10 (t: the critical value) the power is above 80 % for every number of seeds.
    limit = (2 * stats.t.isf(level / 2, seeds - 1) + 10) / np.sqrt(seeds)
    dz: Any = optimize.brentq(lambda dz: power(dz, seeds, level) - POWER, 0, limit)
    return float(dz)


def seeds_needed(difference: float, deviation: float, level: float = ALPHA) -> int | None:
    """Compute the number of seeds that detects a true `difference` with 80 % power, for planning.

    Args:
        difference: above 0, chosen before the runs. Do not pass the measured difference.
        deviation: standard deviation of the differences.
        level: significance level; divide it by the number of tests.

    Returns:
        A number from MIN_SEEDS to MAX_SEEDS, or None if more seeds are needed.
    """
    candidates = range(MIN_SEEDS, MAX_SEEDS + 1)
    return next((n for n in candidates if power(difference / deviation, n, level) >= POWER), None)


def one_sided_p_value(values: Sequence[float] | np.ndarray, minimum: float) -> float | None:
    """Compute the p-value of a one-sided t-test that the true mean is above `minimum`.

    The result is None below MIN_SEEDS or if all values are equal, because the spread over seeds is
    then unknown.
    """
    test = _t_test(np.asarray(values), minimum, "greater")
    return test and float(test.pvalue)


def epochs_at_target(curve: np.ndarray) -> tuple[int, int | None]:
    """Count the epochs that reach 99.4 %, and find the first epoch after which all epochs do.

    Args:
        curve: test accuracy after each epoch, float64[E], 0..1.

    Returns:
        The number of epochs that reach the target, and the index of the first of the final epochs
        that all reach the target. The index is None if there are fewer than TARGET_EPOCHS of them.
    """
    reached = curve >= TARGET - 1e-9
    below = np.flatnonzero(~reached)
    first = int(below[-1]) + 1 if len(below) else 0
    return int(reached.sum()), first if len(curve) - first >= TARGET_EPOCHS else None


def _t_test(x: np.ndarray, mean: float = 0.0, alternative: str = "two-sided") -> Any:
    """Test if the true mean of float[S] is `mean`. Return None if the spread is unknown."""
    if len(x) < MIN_SEEDS or np.ptp(x) < 1e-9:
        return None
    return stats.ttest_1samp(x, mean, alternative=alternative)


def _interval(test: Any, low: float, high: float) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of a t-test, clipped to low..high."""
    if test is None:
        return None
    found = test.confidence_interval(CONFIDENCE)
    return float(max(found.low, low)), float(min(found.high, high))
