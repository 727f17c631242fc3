"""Sentences, and tables as text."""

import re

import pytest
from runs_on_disk import BETTER, CURVES, write_run

from jaxdrill.report import summary, tables, text
from jaxdrill.report.analysis import analyze
from jaxdrill.report.tables import ReportTable
from jaxdrill.runs.reader import read, read_all

FITTING = """\
                   MACs
step  parameters    (M)   last test %
----  ----------  -----  ------------
a        194,884  52.16  98.93 ± 0.12
b_c        9,606   1.45         99.40"""
CONTINUED = """\
                   MACs
step  parameters    (M)
----  ----------  -----
a        194,884  52.16
b_c        9,606   1.45

step   last test %
----  ------------
a     98.93 ± 0.12
b_c          99.40"""


@pytest.mark.parametrize(("width", "expected"), [(37, FITTING), (36, CONTINUED)])
def test_text_table_is_aligned_and_continued_below(width, expected):
    """Numbers are aligned to the right, and headers are wrapped. Other columns follow below."""
    rows = [["a", "194,884", "52.16", "98.93 ± 0.12"], ["b_c", "9,606", "1.45", "99.40"]]
    table = ReportTable(["step", "parameters", "MACs (M)", "last test %"], rows)
    assert text.text_table(table, width) == expected


def test_summary_as_text_fits_and_contains_the_cells_of_the_markdown(shared_drill):
    aligned, markdown = summary([shared_drill], 80), summary([shared_drill])
    assert max(map(len, aligned.splitlines())) <= 80 and "|" not in aligned
    lines = [line for line in markdown.splitlines() if line.startswith("| step_")]
    cells = {cell for line in lines for cell in line.split(" | ")[1:-1]}
    assert len(cells) == 20 and all(cell in aligned for cell in cells)


def test_summary(shared_drill):
    assert summary([shared_drill / "step_2"]).splitlines()[2:] == [
        "| step_2 | mnist | 9,606 | 1.45 | 3 | 9.0 | 3 | 99.20 ± 0.20 | 98.70 to 99.70 | "
        "99.20 ± 0.20 | 98.85 (3) |"
    ]
    lines = summary([shared_drill]).splitlines()
    assert "| step_3 | step_2 | 2 | +0.000 | - | - | - | - | inconclusive |" in lines
    expected = "| step_5 | step_4 | 3 | +0.467 | +0.323 to +0.610 | 0.0051 | "
    assert any(line.startswith(expected) for line in lines)


def test_describe(shared_drill):
    described = [text.describe(each) for each in analyze(read_all([shared_drill]))]
    assert described[0] == (
        "This run has no baseline in this report. Training accuracy in evaluation mode was not "
        "measured. On average, 0.333 of 3 epochs reach 99.4 %. At least the last three epochs "
        "reach 99.4 % in 0 of 3 seeds. The notebook's best is 98.85 % (epoch 3); 0 % of the seeds "
        "have a lower best accuracy."
    )
    assert described[3].startswith(
        "Compared with step_4, test accuracy changed by +0.467 percentage points (95 % interval "
        "+0.323 to +0.610): helped. Training accuracy in"
    )
    equal = "Compared with step_2, test accuracy changed by +0.000 percentage points: inconclusive."
    assert described[1].startswith(f"{equal} Training accuracy in")  # two equal seeds
    assert "No epoch reaches 99.4 %." in described[1]


def test_describe_the_detectable_difference_and_the_gap(tmp_path):
    curves = {1: [0.90], 2: [0.91], 3: [0.93]}
    write_run(tmp_path / "step_3", "3", curves, train={1: 90, 2: 91, 3: 92})
    better, train = {1: [0.91], 2: [0.94], 3: [0.93]}, {1: 99, 2: 98, 3: 97}
    write_run(tmp_path / "step_4", "4", better, train=train)
    first, second = analyze(read_all([tmp_path]))
    assert (
        "In evaluation mode, training accuracy minus test accuracy is -0.333 percentage points "
        "(95 % interval -1.768 to +1.101)."
    ) in text.describe(first)
    # The differences .01, .03 and .00 have a standard deviation of 1.5275 percentage points, and
    # three seeds detect 3.264 standard deviations.
    assert text.describe(second).startswith(
        "Compared with step_3, test accuracy changed by +1.333 percentage points (95 % interval "
        "-2.461 to +5.128): inconclusive. The smallest difference that 3 seeds detect is 4.986 "
        "percentage points. In evaluation mode, training accuracy minus test accuracy is +5.333 "
        "percentage points (95 % interval -0.404 to +11.070)."
    )
    table = tables.comparisons([first, second], detect=1.0)
    assert table.header[5:] == [
        "p",
        "corrected p (1 test)",
        "smallest detectable (percentage points)",
        "seeds to detect 1 percentage points",
        "verdict",
    ]
    assert table.rows[0][5:] == ["0.27", "0.27", "4.986", "21", "inconclusive"]
    metrics = {row[0]: row[1:] for row in tables.metric_table([first, second]).rows}
    assert metrics["train %, last epoch, evaluation mode"] == ["91.00 ± 1.00", "98.00 ± 1.00"]
    assert metrics["train minus test, percentage points"] == ["-0.33 ± 0.58", "5.33 ± 2.31"]


def test_describe_a_single_seed(tmp_path):
    (alone,) = analyze([read(write_run(tmp_path / "run", "5", {1: [0.995, 0.996]}, train={1: 97}))])
    assert text.describe(alone) == (
        "This run has no baseline in this report. In evaluation mode, training accuracy minus test "
        "accuracy is -2.600 percentage points. 2 of 2 epochs reach 99.4 %. The notebook's best is "
        "98.40 % (epoch 2). A single seed shows neither the spread over seeds nor whether a change "
        "helped."
    )
    rows = {row[0]: row[1] for row in tables.metric_table([alone]).rows}
    assert rows["seeds whose best is below the notebook's best, %"] == "-"
    assert text.verdict([alone]) == (
        "step_5 classifies 99.60 % of 1,000 test images after the last epoch (1 seed) correctly."
    )


def test_verdict(shared_drill, tmp_path):
    assert text.verdict(analyze(read_all([shared_drill]))) == (
        "step_5 helped. 2 of 3 comparisons are inconclusive. step_5 has the highest mean accuracy: "
        "99.67 ± 0.21 % of 1,000 test images after the last epoch (3 seeds)."
    )
    for folder, seeds, opening in (
        ("apart", (0, 1), "No two runs in this report can be compared."),
        ("single", (1, 1), "1 of 1 comparisons has a single seed."),
    ):
        for step, seed in zip("23", seeds, strict=True):
            write_run(tmp_path / folder / f"step_{step}", step, {seed: [0.9]})
        said = text.verdict(analyze(read_all([tmp_path / folder])))
        assert said.startswith(f"{opening} step_2 has the highest mean accuracy: 90.00 % of")


def test_caveats_name_the_folder(drill):
    (drill / "step_4" / "images.npz").unlink()
    session = {
        "versions": {"jax": "0.9"},
        "devices": ["cpu:0 cpu"],
        "processor": "Abacus",
        "git_commit": None,
    }
    more = {"earlier_sessions": [session], "processor": "Other"}
    short = {seed: curve[:2] for seed, curve in BETTER.items()}
    other = write_run(drill / "step_5_exponential", "5_exponential", short, **more)
    one = write_run(drill / "step_4_adam", "4_adam", {1: CURVES[1], 2: CURVES[2]})
    rows = (one / "metrics.jsonl").read_text().splitlines(keepends=True)
    (one / "metrics.jsonl").write_text("".join(rows[:-1]))
    config = (one / "config.json").read_text().replace('"seeds":2', '"seeds":1')
    (one / "config.json").write_text(config)
    runs = read_all([drill])
    assert text.caveats(runs) == [
        f"{drill / 'step_3'} has 2 seeds, other runs have up to 3. Runs are compared on the seeds "
        "they have in common.",
        f"{one} has a single seed: the spread over seeds is unknown, so no change can be tested.",
        f"{one} leaves out seed(s) 2: their number of epochs is different.",
        f"{other} was trained in sessions with different versions or machines (see the last "
        "section).",
        "The runs have different numbers of epochs. Each run is evaluated after its last epoch.",
        f"images.npz is missing in {drill / 'step_4'}: the report cannot show those images.",
        "The runs were made with different versions or machines (see the last section). On "
        "different devices, the accuracies of a seed are equal in distribution, but not "
        "identical.",
    ]
    assert "jax 0.9" in tables.sessions(runs).rows[5][2]


def test_cells_are_escaped_for_html_and_markdown():
    hostile = "<b>`a_b` | [x](y)\n"
    assert text.html_text(hostile) == "&lt;b&gt;<code>a_<wbr>b</code> | [x](y)\\n"
    assert text.markdown_text(hostile) == "&lt;b&gt;`a_b` \\| [x]\\(y)"
    assert not re.search(r"(?<!\\)\|", text.markdown_text(hostile))
