"""Each statistic is compared with a published or known result."""

import numpy as np
import pytest
from scipy import stats

from jaxdrill.report import statistics

# Student's sleep data (1908): additional hours of sleep with two drugs. The manual of R's `t.test`
# prints t = -4.0621, p = 0.002833, difference -1.58, 95 % interval -2.459886 to -0.7001142.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def differences(mean: float, n: int = 10) -> np.ndarray:
    """Return n differences with a mean of `mean` / 1000 and a standard deviation of 1 / 1000."""
    return (stats.zscore(np.arange(float(n)), ddof=1) + mean) / 1000


def test_summary():
    assert statistics.summary([0.5]) == statistics.Summary(0.5, None, None)
    assert statistics.summary([0.5, 0.5, 0.5]) == statistics.Summary(0.5, 0.0, None)
    # With 2 degrees of freedom t is 4.30265 at 97.5 %. The standard error is 0.1 / sqrt(3).
    low, high = statistics.summary([0.4, 0.5, 0.6]).interval
    assert (low, high) == (
        pytest.approx(0.5 - 0.248413, abs=1e-6),
        pytest.approx(0.5 + 0.248413, abs=1e-6),
    )


def test_there_is_no_interval_and_no_test_below_three_seeds():
    """An interval of two seeds would extend from -287.74 to 368.74 %."""
    assert statistics.summary([0.1, 0.7]) == statistics.Summary(
        pytest.approx(0.4), pytest.approx(0.424264, abs=1e-6), None
    )
    two = statistics.difference("x", np.array([0.5, 0.5]), np.array([0.6, 0.7]))
    assert two == statistics.Difference("x", 2, pytest.approx(0.15))
    assert statistics.one_sided_p_value([0.5, 0.6], 0.1) is None


def test_the_interval_is_students_t_for_every_number_of_seeds():
    """A bootstrap interval of 10 seeds covers only 90.3 %."""
    for n in (3, 9, 10, 30):
        x = np.random.default_rng(n).normal(0.99, 0.0005, n)
        test = stats.ttest_1samp(x, 0).confidence_interval()
        assert statistics.summary(x).interval == (pytest.approx(test.low), pytest.approx(test.high))


def test_intervals_are_clipped_to_possible_values():
    assert statistics.summary([0.2, 0.9, 1.0]).interval == (0, 1)
    assert statistics.summary([-0.2, 0.9, 0.1], low=-1).interval[0] == -1
    found = statistics.difference("x", np.array([0.0, 0.9, 0.0]), np.array([1.0, 0.8, 0.1]))
    assert found.interval == (-1, 1)


def test_difference_of_students_sleep_data():
    """The unit is 100 hours, because a difference of accuracies is from -1 to 1."""
    first, second = np.array(FIRST) / 100, np.array(SECOND) / 100
    found = statistics.difference("first", second, first)
    assert found.interval == (
        pytest.approx(-0.02459886, abs=1e-8),
        pytest.approx(-0.007001142, abs=1e-8),
    )
    assert (found.baseline, found.seeds, found.mean) == ("first", 10, pytest.approx(-0.0158))
    assert found.p_value == pytest.approx(0.002833, abs=1e-6)
    assert found.deviation == pytest.approx(0.01229995, abs=1e-8)
    assert statistics.correct([found])[0].verdict == "hurt"
    assert statistics.correct([statistics.difference("x", first, second)])[0].verdict == "helped"


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ([0.5], [0.6], "single seed"),
        ([0.5, 0.5], [0.6, 0.7], "inconclusive"),
        (
            [0.9927, 0.9931, 0.9929, 0.9924, 0.993],
            [0.9930, 0.9934, 0.9932, 0.9927, 0.9933],
            "inconclusive",
        ),
        (
            [0.9880, 0.9901, 0.9887],
            [0.9921, 0.9938, 0.9933],
            "inconclusive",
        ),  # p = 0.004, one of 20 tests
        ([0.9, 0.9, 0.9], [0.9, 0.9, 0.9], "inconclusive"),
    ],
)
def test_a_verdict_is_one_of_four_words(old, new, verdict):
    """Equal differences have no spread, so there is no test and no conclusion."""
    found = statistics.difference("x", np.array(old), np.array(new))
    assert statistics.correct([found] * 20)[0].verdict == verdict


def test_p_values_are_corrected_over_all_tests():
    """Source: the example in Wikipedia's article "Holm-Bonferroni method".

    The p-values 0.01, 0.04, 0.03, 0.005 become 3 x 0.01, 2 x 0.03, 2 x 0.03 and 4 x 0.005.
    """
    compared = [
        None,
        *(statistics.Difference("x", 5, 0.1, p_value=p) for p in (0.01, 0.04, 0.03, 0.005)),
        None,
    ]
    compared.insert(2, statistics.Difference("x", 1, 0.1))
    found = statistics.correct(compared)
    expected = [None, 0.03, None, 0.06, 0.06, 0.02, None]
    assert [d and d.p_holm for d in found] == [e and pytest.approx(e) for e in expected]
    assert [d.verdict for d in found if d and d.p_holm] == [
        "helped",
        "inconclusive",
        "inconclusive",
        "helped",
    ]
    assert [d.tests for d in found if d and d.p_holm] == [4, 4, 4, 4]
    assert statistics.holm([0.4, 0.6]) == [0.8, 0.8] and statistics.holm([0.9, 0.6]) == [1, 1]
    assert statistics.holm([]) == []


@pytest.mark.parametrize(("dz", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (0.001, None), (50, 3)])
def test_seeds_needed(dz, n):
    """Source: G*Power, paired t-test, two-sided, 5 %, power 80 %. The limits are 3 and 1000."""
    assert statistics.seeds_needed(dz * 0.002, 0.002) == n


@pytest.mark.parametrize(("dz", "level", "n"), [(0.7, 0.05, 19), (0.7, 0.005, 32), (3.8, 0.005, 5)])
def test_seeds_needed_in_a_simulation(dz, level, n):
    """n seeds detect the difference in 80 % of the samples; n - 1 seeds do not."""
    assert statistics.seeds_needed(dz, 1, level) == n
    drawn = np.random.default_rng(0).normal(dz, 1, (20000, n))
    seen, short = (
        np.mean(stats.ttest_1samp(x, 0, axis=1).pvalue < level) for x in (drawn, drawn[:, 1:])
    )
    assert short < 0.8 < seen


@pytest.mark.parametrize(("n", "dz"), [(34, 0.5), (15, 0.8), (199, 0.2)])
def test_detectable_difference(n, dz):
    """n seeds detect the effect of the G*Power table above; n - 1 seeds do not."""
    found = [statistics.detectable_difference(seeds, 0.002) for seeds in (n, n - 1)]
    assert found[0] < dz * 0.002 < found[1]


@pytest.mark.parametrize(("n", "level"), [(3, 0.005), (10, 0.005), (30, 0.05)])
def test_the_detectable_difference_in_a_simulation(n, level):
    dz = statistics.detectable_difference(n, 1, level)
    drawn = np.random.default_rng(0).normal(dz, 1, (20000, n))
    assert np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < level) == pytest.approx(
        0.8, abs=0.01
    )


@pytest.mark.parametrize("mean", [0.0, 0.3, 5.0])
def test_the_detectable_difference_does_not_depend_on_the_measured_one(mean):
    (alone,) = statistics.correct([statistics.difference("x", np.zeros(10), differences(mean))])
    assert (
        alone.detectable == pytest.approx(0.9960e-3, abs=1e-7)
        and alone.seeds_to_detect(0.5e-3) == 34
    )
    among = statistics.correct(
        [statistics.difference("x", np.zeros(10), differences(mean)), None] * 10
    )[0]
    assert (
        among.detectable == pytest.approx(1.4841e-3, abs=1e-7)
        and among.seeds_to_detect(0.7e-3) == 32
    )
    assert statistics.difference("x", np.zeros(2), differences(mean, 2)).detectable is None


def test_one_sided_p_value():
    p_value = statistics.one_sided_p_value(np.array(SECOND) - np.array(FIRST), 0)
    assert p_value == pytest.approx(0.002833 / 2, abs=1e-6)
    assert statistics.one_sided_p_value(np.array(FIRST) - np.array(SECOND), 0) == pytest.approx(
        1 - 0.002833 / 2, abs=1e-6
    )
    assert (
        statistics.one_sided_p_value([0.995], 0.994) is None
        and statistics.one_sided_p_value([0.995] * 3, 0.994) is None
    )


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.993, 0.994, 0.9941, 0.994], (3, 1)),
        ([0.993, 0.994, 0.9939, 0.9941, 0.994], (3, None)),
        ([0.994, 0.994, 0.9939], (2, None)),
        ([0.994, 0.995, 0.996], (3, 0)),
        ([0.9], (0, None)),
        ([0.9, 1.0], (1, None)),
        ([0.995], (1, None)),
    ],
)
def test_epochs_at_target(curve, expected):
    """A seed stays at the target if at least its last three epochs reach it."""
    assert statistics.epochs_at_target(np.array(curve)) == expected
