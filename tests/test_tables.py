"""Tables and sentences."""

from conftest import write_run

from jaxdrill import statistics, tables
from jaxdrill.folder import read_all


def test_analysis(drill):
    found = statistics.evidence(read_all([drill]))
    said = [tables.analysis(each) for each in found]
    assert said[0] == (
        "There is no step before it here. Training ends 0.20 points below the test, no overfitting. 99.4 % or more in "
        "0.333 of 3 epochs; 1 of 3 seed(s) stay there (from epoch 2, the median). The notebook's best is 98.85 % "
        "(epoch 2); the best epoch of 0 % of our seeds is below that."
    )
    assert said[3].startswith("+0.467 points (+0.323 to +0.610) against step_4: helped.")
    assert "3 of 3 seed(s) stay there (from epoch 2, the median)" in said[3]


def test_tables_of_a_run(tmp_path):
    write_run(tmp_path / "step_2", "2", {1: [0.998], 2: [0.996]})
    write_run(tmp_path / "step_3", "3", {1: [0.998], 2: [0.996]})
    before, found = statistics.evidence(read_all([tmp_path]))
    assert tables.changes_table(found).rows == [
        ["`dropout.rate`", "0.0", "0.05"], ["`dropout.after`", "()", "(1, 2, 4, 5, 6)"]
    ]  # fmt: skip
    assert tables.changes_table(before) == "It is the first here."
    layers = tables.layers_table(found.run).rows
    assert layers[0] == ["3x3 conv relu batch_norm dropout 0.05", "26x26x10", "3x3", "110", f"{26 * 26 * 9 * 10:,}"]
    assert layers[-1][0] == "total" and layers[-1][3] == "9,606"
    # Wrong are images 1 and 2 of the first seed and 2 to 5 of the second, each taken for the next digit.
    confusion = tables.confusion_table(found.run).rows
    assert confusion[1][1:4] == ["·", "99.5", "0.5"] and confusion[2][3:5] == ["99", "1"]
    assert tables.time_table(found.run).rows[2] == ["train", "90.0", "90.0"]
