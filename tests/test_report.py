"""Tables from run folders."""

import json

import pytest
from conftest import ROOT

from jaxdrill import report
from jaxdrill.config import steps


def write_run(folder, name, data, curves):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"name": name}))
    (folder / "run.json").write_text(json.dumps({"dataset": data, "parameters": 9606}))
    rows = [
        {"seed": seed, "epoch": epoch, "test_accuracy": accuracy}
        for seed, curve in curves.items()
        for epoch, accuracy in enumerate(curve)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_table(tmp_path):
    one = write_run(tmp_path / "a", "step_2", "mnist", {1: [0.97, 0.99, 0.98]})
    two = write_run(tmp_path / "b", "mine", "mnist", {1: [0.97, 0.99], 2: [0.97, 0.98]})
    other = write_run(tmp_path / "c", "step_2", "digits", {5: [0.5]})
    assert report.drill_table([one, two, other]).splitlines()[2:] == [
        "| step_2 | mnist | 9,606 | 3 | 1 | 98.00 | 99.00 (1) | 98.85 (2) |",
        "| mine | mnist | 9,606 | 2 | 2 | 98.50 ± 0.71 | 98.50 ± 0.71 | - |",
        "| step_2 | digits | 9,606 | 1 | 1 | 50.00 | 50.00 (0) | - |",
    ]


@pytest.mark.parametrize(
    ("step", "best"),
    [("step_1", "99.04 (19)"), ("step_2", "99.33 (17)"), ("step_3", "99.45 (13)"), ("step_4", "99.44 (8)"),
     ("step_4_adam", "99.38 (17)"), ("step_5", "99.45 (17)"), ("step_5_exponential", "-")],
)  # fmt: skip
def test_the_notebooks_best(step, best):
    assert report.notebook_best(step, 20) == best


def test_the_readmes_table_is_what_the_results_say():
    folders = [ROOT / "results" / f"step_{step}" for step in steps()]
    assert report.drill_table(folders) in (ROOT / "README.md").read_text()
