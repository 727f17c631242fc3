"""The drawings as SVG text."""

import re

from conftest import BETTER, write_run

from jaxdrill import plots, statistics
from jaxdrill.folder import read


def test_drawings_show_what_was_measured(tmp_path):
    """Labels of the drawings as text; a run without a notebook has no line for it; digits have no target."""
    runs = [read(write_run(tmp_path / step, step, BETTER)) for step in ("5", "5_exponential")]
    runs.append(read(write_run(tmp_path / "digits", "5", BETTER, data="digits")))
    drawn = [plots.curves(run) for run in runs]
    assert ["notebook" in svg for svg in drawn] == [True, False, False]
    assert all(">train<" in svg and ">test<" in svg for svg in drawn)
    ladder = plots.ladder(statistics.evidence(runs[:2]))
    assert ">step_5<" in ladder and ">step_5_exponential<" in ladder and "notebook's best epoch" in ladder
    other_way = plots.ladder(statistics.evidence(runs[1::-1]))  # the first has no notebook
    assert other_way.count("notebook's best epoch") == 1
    assert ">5, 5_exponential<" in plots.schedules(runs[:2])
    ids = re.findall(r' id="([^"]+)"', "".join([*drawn[:2], ladder]))
    assert len(set(ids)) == len(ids) > 0  # no two drawings of a page share an id
