"""The tables of the report."""

from runs_on_disk import BETTER, CURVES, write_run

from jaxdrill.report import tables
from jaxdrill.report.analysis import analyze
from jaxdrill.runs.reader import read, read_all


def test_summary_table(shared_drill):
    table = tables.summary_table(analyze(read_all([shared_drill])))
    assert table.header == ["step", "seeds", "test %", "change", "verdict"]
    assert [row[4] for row in table.rows] == ["-", "inconclusive", "inconclusive", "helped"]
    assert table.numeric == [False, True, True, True, False]


def test_p_values_are_corrected_over_the_tests_in_the_table(shared_drill, tmp_path):
    """In `drill`, step 3 has two seeds, so only one of three comparisons has a test."""
    (header, *_) = [tables.comparisons(analyze(read_all([shared_drill]))).header]
    assert header[6] == "corrected p (1 test)"
    for step in ("2", "3", "4"):
        write_run(tmp_path / step, step, CURVES if step != "3" else BETTER)
    table = tables.comparisons(analyze(read_all([tmp_path])))
    assert table.header[6] == "corrected p (2 tests)"
    assert [row[7] for row in table.rows] == ["0.267", "0.267"]
    assert tables.comparisons(analyze([read(shared_drill / "step_2")])) is None


def test_the_time_per_epoch_is_the_median(tmp_path):
    run = read(write_run(tmp_path / "run", "2", CURVES))
    run.metrics["seconds"][:] = [[2, 9, 9.5], [8, 9, 70], [9, 10, 11]]
    table = tables.results(analyze([run]))
    assert dict(zip(table.header, table.rows[0], strict=True))["s/epoch"] == "9.0"


def test_tables_of_a_run(tmp_path):
    write_run(tmp_path / "step_3", "3", {1: [0.998], 2: [0.996]})
    write_run(tmp_path / "step_4", "4", {1: [0.998], 2: [0.996]})
    baseline, found = analyze(read_all([tmp_path]))
    assert tables.config_diff(found).rows == [
        ["`augmentation.rotation_degrees`", "0.0", "7.0"],
        ["`optimizer.momentum`", "0.9", "0.95"],
    ]
    assert tables.config_diff(baseline) is None
    layers = tables.layers(found.run).rows
    convolution = "3x3 conv relu batch_norm dropout 0.05"
    macs = f"{26 * 26 * 9 * 10:,}"
    assert layers[0] == ["conv1", convolution, "26x26x10", "3x3", "110", macs]
    assert layers[-1][0] == "total" and layers[-1][4] == "9,606"
    # Seed 1 misclassifies images 1 and 2, seed 2 images 2 to 5, always as the next digit.
    confusion = tables.confusion(found.run).rows
    assert confusion[1][1:4] == ["·", "99.5", "0.5"] and confusion[2][3:5] == ["99", "1"]
    assert tables.times(found.run).rows[2] == ["train", "90.0", "90.0"]


def test_commands_are_quoted_for_the_shell(tmp_path):
    command = ["python", "-m", "jaxdrill.main", "--workdir", "a b"]
    path = write_run(tmp_path / "run", "3", CURVES, command=command)
    assert tables.sessions([read(path)]).rows[0][1] == "python -m jaxdrill.main --workdir 'a b'"


def test_each_session_has_its_own_command(tmp_path):
    """Runs of earlier versions do not contain the commands of their earlier sessions."""
    session = {
        "versions": {"jax": "0.9"},
        "devices": ["cpu:0 cpu"],
        "processor": "Abacus",
        "git_commit": None,
    }
    more = {"earlier_sessions": [session, session | {"command": ["python", "a b"]}]}
    rows = tables.sessions([read(write_run(tmp_path / "run", "3", CURVES, **more))]).rows
    assert [row[1] for row in rows] == ["-", "python 'a b'", "jaxdrill train --step 3"]
