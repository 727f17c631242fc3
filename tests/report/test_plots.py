"""The drawings as SVG text."""

import os
import re
import subprocess
import sys

import matplotlib
import pytest
from conftest import ROOT
from runs_on_disk import BETTER, CURVES, write_run

from jaxdrill.report import plots
from jaxdrill.report.analysis import analyze
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
    assert (
        ">step_5<" in ladder
        and ">step_5_exponential<" in ladder
        and "notebook's best epoch" in ladder
    )
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
    runs = [
        read(write_run(tmp_path / step, step, curves))
        for step, curves in (("3", worse), ("4", BETTER))
    ]
    low, high = (re.findall(r">([\d.]+)</text>", svg) for svg in plots.curves(analyze(runs)))
    assert low == high and "1" in low and "3" in low and "0" not in low  # epochs count from 1


def test_axes_end_at_100_percent(tmp_path):
    """An axis reached 108 %."""
    found = analyze(
        [read(write_run(tmp_path / "run", "5", {1: [0.1, 1.0], 2: [0.5, 0.2], 3: [0.4, 0.9]}))]
    )
    for svg in (plots.ladder(found, 8.5), *plots.curves(found)):
        shown = [float(text) for text in re.findall(r">(\d+(?:\.\d+)?)</text>", svg)]
        assert 100 in shown and max(shown) == 100


def test_a_schedule_that_reaches_zero(tmp_path):
    """A logarithm could not show it."""
    (found,) = analyze([read(write_run(tmp_path / "run", "5", CURVES))])
    found.run.metrics["learning_rate"][:] = [0.0, 0.2, 0.1]
    assert "0.20" in plots.schedules([found])


DRAW = """
import sys
from pathlib import Path
from jaxdrill.report import plots
from jaxdrill.report.analysis import analyze
from jaxdrill.runs.reader import read
found = analyze([read(Path(sys.argv[1]))])
Path(sys.argv[2]).write_text(plots.ladder(found, 8.0) + "".join(plots.curves(found)), "utf-8")
"""
SETTINGS = (
    "text.usetex: True\nsvg.fonttype: path\nfigure.dpi: 30\nfont.size: 20\nlines.linewidth: 9\n"
)


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({"MPLBACKEND": "nonsense"}, b""),
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, b""),
        ({}, SETTINGS.encode()),
        ({}, b"no settings\nbackend: nonsense\n"),
        ({}, b"text.usetex: \xe9"),
        ({"MATPLOTLIBRC": "elsewhere"}, SETTINGS.encode()),
    ],
    ids=[
        "wrong backend",
        "notebook's backend",
        "settings",
        "wrong settings",
        "not UTF-8",
        "MATPLOTLIBRC",
    ],
)
def test_drawings_do_not_depend_on_the_environment(environment, settings, tmp_path):
    run = write_run(tmp_path / "run", "5", BETTER)
    found = analyze([read(run)])
    folder = tmp_path / environment.get("MATPLOTLIBRC", "")
    folder.mkdir(exist_ok=True)
    (folder / "matplotlibrc").write_bytes(settings)
    out = tmp_path / "out.svg"
    done = subprocess.run(
        [sys.executable, "-c", DRAW, run, out],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}"} | environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert out.read_text("utf-8") == plots.ladder(found, 8.0) + "".join(plots.curves(found))


def test_drawings_neither_use_nor_change_the_settings_of_the_process(tmp_path):
    found = analyze([read(write_run(tmp_path / "run", "5", BETTER))])
    expected = plots.curves(found)
    with matplotlib.rc_context(
        {"text.usetex": True, "lines.linewidth": 9, "backend": "pdf", "figure.dpi": 30}
    ):
        before = dict(matplotlib.rcParams.copy())
        assert plots.curves(found) == expected
        assert dict(matplotlib.rcParams.copy()) == before


def test_the_summary_of_a_training_needs_no_drawings():
    code = "import sys, jaxdrill.report.page; print([name for name in sys.modules if 'matplotlib' in name])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
