"""Each statistic against a case whose answer is known."""

import numpy as np
import pytest
from scipy import stats

from jaxdrill.evidence import statistics

# Student's sleep data (1908), hours gained with each of two drugs: t = -4.0621, p = 0.002833, difference -1.58 with
# 95 % from -2.459886 to -0.7001142, as R's manual of `t.test` prints.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_summary():
    assert statistics.summary([0.5]) == statistics.Summary(0.5, None, None)
    assert statistics.summary([0.5, 0.5, 0.5]) == statistics.Summary(0.5, 0.0, None)
    # Two values: t of 1 degree of freedom at 97.5 % is 12.7062 (any table), the standard error 1/2.
    low, high = statistics.summary([1, 2]).interval
    assert (low, high) == (pytest.approx(1.5 - 6.3531, abs=1e-4), pytest.approx(1.5 + 6.3531, abs=1e-4))


def test_the_interval_of_few_seeds_is_students_and_of_many_the_bootstraps():
    differences = np.array(SECOND) - np.array(FIRST)
    low, high = statistics.summary(differences[:9]).interval
    test = stats.ttest_1samp(differences[:9], 0).confidence_interval()
    assert (low, high) == (pytest.approx(test.low), pytest.approx(test.high))
    low, high = statistics.summary(differences).interval  # R's manual has 0.7001 to 2.4599, which is 1.7598 wide
    assert 0.7001 < low < 1.58 < high and high - low < 1.74


def test_the_bootstrap_is_near_the_normal_interval_for_many_seeds():
    values = stats.norm.ppf((np.arange(500) + 0.5) / 500)
    low, high = statistics.summary(values).interval
    assert (low, high) == (pytest.approx(-1.96 / 500**0.5, abs=0.004), pytest.approx(1.96 / 500**0.5, abs=0.004))
    assert statistics.summary(values) == statistics.summary(values)


def test_difference_of_students_sleep_data():
    found = statistics.difference("first", np.array(SECOND), np.array(FIRST))
    assert found.interval == (pytest.approx(-2.459886, abs=1e-6), pytest.approx(-0.7001142, abs=1e-6))
    assert (found.baseline, found.seeds, found.mean) == ("first", 10, pytest.approx(-1.58))
    assert found.p_value == pytest.approx(0.002833, abs=1e-6)
    assert statistics.corrected([found])[0].verdict == "hurt"
    assert statistics.corrected([statistics.difference("x", np.array(FIRST), np.array(SECOND))])[0].verdict == "helped"


def test_differences_that_cannot_be_tested():
    one = statistics.difference("x", np.array([0.5]), np.array([0.6]))
    assert (one.p_value, one.verdict) == (None, "single seed: inconclusive")
    equal = statistics.difference("x", np.array([0.9927, 0.9931]), np.array([0.9930, 0.9934]))
    assert (equal.p_value, equal.verdict) == (None, "no evidence at 2 seeds: every seed differs by as much")


def test_p_values_are_corrected_over_the_drill():
    """The worked example of Wikipedia's "Holm-Bonferroni method": of 0.01, 0.04, 0.03 and 0.005 at 5 % the first and
    the last are rejected; adjusted they are 3 x 0.01, 2 x 0.03 twice (0.04 is raised to it), and 4 x 0.005."""
    differences = [None, *(statistics.Difference("x", 5, 0.1, p_value=p) for p in (0.01, 0.04, 0.03, 0.005)), None]
    differences.insert(2, statistics.Difference("x", 1, 0.1))
    found = statistics.corrected(differences)
    expected = [None, 0.03, None, 0.06, 0.06, 0.02, None]
    assert [d and d.corrected for d in found] == [e and pytest.approx(e) for e in expected]
    assert [d.verdict.split(" at")[0] for d in found if d and d.corrected] == [
        "helped", "no evidence", "no evidence", "helped",
    ]  # fmt: skip
    assert statistics.holm([0.4, 0.6]) == [0.8, 0.8] and statistics.holm([0.9, 0.6]) == [1, 1]
    assert statistics.holm([]) == []


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (0.001, None), (50, 2)])
def test_seeds_needed(effect, n):
    """G*Power's figures for a paired t-test, two-sided, 5 %, power 80 %; what 1,000 seeds do not show; and what two do:
    a t of 71, where 12.7 is asked for."""
    assert statistics.seeds_needed(effect) == n


@pytest.mark.parametrize(("effect", "level", "n"), [(0.7, 0.05, 19), (0.7, 0.005, 32), (3.8, 0.005, 5)])
def test_that_many_seeds_see_the_difference_four_times_in_five(effect, level, n):
    """And one less does not."""
    assert statistics.seeds_needed(effect, level) == n
    drawn = np.random.default_rng(0).normal(effect, 1, (20000, n))
    seen, short = (np.mean(stats.ttest_1samp(x, 0, axis=1).pvalue < level) for x in (drawn, drawn[:, 1:]))
    assert short < 0.8 < seen


def test_the_verdict_asks_for_as_many_seeds_as_all_comparisons_take():
    """A difference of 0.3 standard deviations. By hand, (z_level/2 + z_power)² / 0.3² + z_level/2² / 2 (Guenther 1981):
    89.1 seeds alone, 151.9 among ten comparisons."""
    one = stats.zscore(np.arange(10.0), ddof=1) + 0.3
    found = statistics.difference("x", np.zeros(10), one)
    assert statistics.corrected([found])[0].verdict == "no evidence at 10 seeds; about 90 seeds for 80 % power"
    assert "about 152 seeds" in statistics.corrected([found, None] * 10)[0].verdict


def test_above():
    one_sided = statistics.above(np.array(SECOND) - np.array(FIRST), 0)
    assert one_sided == pytest.approx(0.002833 / 2, abs=1e-6)
    assert statistics.above(np.array(FIRST) - np.array(SECOND), 0) == pytest.approx(1 - 0.002833 / 2, abs=1e-6)
    assert statistics.above([0.995], 0.994) is None and statistics.above([0.995, 0.995], 0.994) is None


@pytest.mark.parametrize(
    ("curve", "expected"),
    [([0.993, 0.994, 0.9939, 0.9941, 0.994], (3, 3)), ([0.994, 0.9939], (1, None)), ([0.994, 0.995], (2, 0)),
     ([0.9], (0, None)), ([0.9, 1.0], (1, 1))],
)  # fmt: skip
def test_epochs_at_target(curve, expected):
    assert statistics.epochs_at_target(np.array(curve)) == expected
