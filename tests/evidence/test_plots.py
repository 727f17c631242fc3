"""The drawings as SVG text."""

import re

from runs_on_disk import BETTER, CURVES, write_run

from jaxdrill.evidence import plots
from jaxdrill.evidence.analysis import analyze
from jaxdrill.runs.reader import read


def test_drawings_show_what_was_measured(tmp_path):
    """Labels as text; a run without a notebook has no line for it; digits have neither notebook nor target."""
    runs = [read(write_run(tmp_path / step, step, BETTER)) for step in ("5", "5_exponential")]
    digits = analyze([read(write_run(tmp_path / "digits", "5", BETTER, data="digits"))])
    found = analyze(runs)
    drawn = [*plots.curves(found), *plots.curves(digits)]
    assert ["notebook" in svg for svg in drawn] == [True, False, False]
    assert all(">train<" in svg and ">test<" in svg for svg in drawn)
    ladder = plots.ladder(found, 8.0)
    assert ">step_5<" in ladder and ">step_5_exponential<" in ladder and "notebook's best epoch" in ladder
    assert "notebook" not in plots.ladder(digits, 8.0)
    other_way = plots.ladder(analyze(runs[1::-1]), 8.0)  # the first has no notebook
    assert other_way.count("notebook's best epoch") == 1
    assert ">step_5, step_5_exponential<" in plots.schedules(found)
    ids = re.findall(r' id="([^"]+)"', "".join([*drawn, ladder]))
    assert len(set(ids)) == len(ids) > 0  # no two drawings of a page share an id


def test_a_single_runs_ladder_has_few_ticks_that_differ(tmp_path):
    (alone,) = analyze([read(write_run(tmp_path / "run", "5", {1: [0.993]}))])
    for width in (4.2, 8.5):
        shown = re.findall(r">(9\d\.\d+)<", plots.ladder([alone], width))
        assert 2 <= len(shown) <= 6 and len(set(shown)) == len(shown)


def test_learning_curves_have_the_same_axes(tmp_path):
    worse = {seed: [0.90, 0.91, 0.92] for seed in CURVES}
    runs = [read(write_run(tmp_path / step, step, curves)) for step, curves in (("3", worse), ("4", BETTER))]
    low, high = (re.findall(r">([\d.]+)</text>", svg) for svg in plots.curves(analyze(runs)))
    assert low == high and "1" in low and "3" in low and "0" not in low  # epochs count from 1


def test_axes_end_at_100_percent(tmp_path):
    """An axis reached 108 %."""
    found = analyze([read(write_run(tmp_path / "run", "5", {1: [0.1, 1.0], 2: [0.5, 0.2], 3: [0.4, 0.9]}))])
    for svg in (plots.ladder(found, 8.5), *plots.curves(found)):
        shown = [float(text) for text in re.findall(r">(\d+(?:\.\d+)?)</text>", svg)]
        assert 100 in shown and max(shown) == 100


def test_a_schedule_that_reaches_zero(tmp_path):
    """A logarithm could not show it."""
    (found,) = analyze([read(write_run(tmp_path / "run", "5", CURVES))])
    found.run.metrics["learning_rate"][:] = [0.0, 0.2, 0.1]
    assert "0.20" in plots.schedules([found])
