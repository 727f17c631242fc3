"""The plots as SVG text."""

import json
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import pytest
from conftest import ROOT
from runs_on_disk import BETTER, CURVES, write_run

from jaxdrill.report import plots
from jaxdrill.report.analysis import analyze
from jaxdrill.runs.reader import read


@pytest.fixture(scope="module")
def better(tmp_path_factory):
    return read(write_run(tmp_path_factory.mktemp("better") / "run", "5", BETTER))


def test_plots_contain_labels_and_the_notebook(tmp_path):
    """Labels are text. Only recipes with a notebook, on MNIST's test images, show the notebook."""
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
    other_way = plots.ladder(analyze(runs[1::-1]), 8.0)  # The first has no notebook.
    assert other_way.count("notebook's best epoch") == 1
    assert ">step_5, step_5_exponential<" in plots.schedules(found)
    ids = re.findall(r' id="([^"]+)"', "".join([*drawn, ladder]))
    assert len(set(ids)) == len(ids) > 0  # unique in a page


def test_the_ladder_of_a_single_run_has_few_distinct_ticks(tmp_path):
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
    assert (
        low == high and "1" in low and "3" in low and "0" not in low
    )  # Epochs are counted from 1.


def test_axes_end_at_100_percent(tmp_path):
    """A margin above 100 % is cut off."""
    found = analyze(
        [read(write_run(tmp_path / "run", "5", {1: [0.1, 1.0], 2: [0.5, 0.2], 3: [0.4, 0.9]}))]
    )
    for svg in (plots.ladder(found, 8.5), *plots.curves(found)):
        shown = [float(text) for text in re.findall(r">(\d+(?:\.\d+)?)</text>", svg)]
        assert 100 in shown and max(shown) == 100


def test_a_schedule_that_reaches_zero(tmp_path):
    """The axis is linear, because a logarithmic axis cannot show 0."""
    (found,) = analyze([read(write_run(tmp_path / "run", "5", CURVES))])
    found.run.metrics["learning_rate"][:] = [0.0, 0.2, 0.1]
    assert "0.20" in plots.schedules([found])


# Imports everything but Matplotlib once, and draws in a fork for each environment.
DRAW = """
import json, os, sys
from pathlib import Path
from jaxdrill.report.analysis import analyze
from jaxdrill.runs.reader import read
found = analyze([read(Path(sys.argv[1]))])
for case in json.loads(sys.argv[2]):
    if (child := os.fork()) == 0:
        os.chdir(case["folder"])
        os.environ |= case["environment"]
        sys.stderr = open("stderr.txt", "w")
        from jaxdrill.report import plots
        drawn = plots.ladder(found, 8.0) + "".join(plots.curves(found))
        Path("out.svg").write_text(drawn, "utf-8")
        sys.stderr.close()
        os._exit(0)
    os.waitpid(child, 0)
"""
SETTINGS = (
    b"text.usetex: True\nsvg.fonttype: path\nfigure.dpi: 30\nfont.size: 20\nlines.linewidth: 9\n"
)
CASES = {
    "wrong backend": ({"MPLBACKEND": "nonsense"}, b""),
    "backend of a notebook": ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, b""),
    "settings": ({}, SETTINGS),
    "wrong settings": ({}, b"no settings\nbackend: nonsense\n"),
    "not UTF-8": ({}, b"text.usetex: \xe9"),
    "MATPLOTLIBRC": ({"MATPLOTLIBRC": "elsewhere"}, SETTINGS),
}


@pytest.fixture(scope="module")
def drawn_elsewhere(better, tmp_path_factory):
    """Draw the run `better` in each environment of CASES. Return the folder of each."""
    base = tmp_path_factory.mktemp("environments")
    cases = []
    for name, (environment, settings) in CASES.items():
        folder = base / name / environment.get("MATPLOTLIBRC", "")
        folder.mkdir(parents=True)
        (folder / "matplotlibrc").write_bytes(settings)
        cases.append({"folder": f"{base / name}", "environment": environment})
    command = [sys.executable, "-c", DRAW, better.folder, json.dumps(cases)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return base


@pytest.mark.parametrize("name", CASES)
def test_plots_do_not_depend_on_the_environment(name, better, drawn_elsewhere):
    found = analyze([better])
    folder = drawn_elsewhere / name
    assert (folder / "stderr.txt").read_text() == ""
    expected = plots.ladder(found, 8.0) + "".join(plots.curves(found))
    assert (folder / "out.svg").read_text("utf-8") == expected


def test_plots_neither_use_nor_change_the_settings_of_the_process(better):
    found = analyze([better])
    expected = plots.curves(found)
    with matplotlib.rc_context(
        {"text.usetex": True, "lines.linewidth": 9, "backend": "pdf", "figure.dpi": 30}
    ):
        before = dict(matplotlib.rcParams.copy())
        assert plots.curves(found) == expected
        assert dict(matplotlib.rcParams.copy()) == before


def test_labels_are_escaped(tmp_path):
    """A label contains the folder's name if two runs have the same recipe."""
    runs = [read(write_run(tmp_path / name, "5", BETTER)) for name in ("a", '"><b> &')]
    for svg in plots.curves(analyze(runs)):
        ElementTree.fromstring(svg.replace("xlink:", ""))
        assert "<b>" not in svg


def test_the_summary_after_training_does_not_import_matplotlib():
    code = (
        "import sys, jaxdrill.report.text; "
        "print([name for name in sys.modules if 'matplotlib' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
