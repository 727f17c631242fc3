"""The search for recipes on digits."""

import json
import re

import numpy as np
import pytest
from conftest import ROOT

from benchmarks import cross_validation, search
from jaxdrill.data import splits
from jaxdrill.runs import reader

SPACE = """
recipe = "{recipe}"
data = "digits"
hold_out = 200
parameters_below = 10_000
rungs = [{{ epochs = 1, seeds = 1 }}, {{ epochs = 2, seeds = 1 }}, {{ epochs = 2, seeds = 2 }}]

[choices]
"optimizer.learning_rate" = [0.02, 0.00001]
batch_size = {{ small = 400 }}
"""


@pytest.fixture
def space(tmp_path, tiny_recipe):
    path = tmp_path / "rates.toml"
    path.write_text(SPACE.format(recipe=tiny_recipe))
    return path


@pytest.mark.slow
def test_the_better_half_is_trained_longer_and_no_seed_twice(space, tmp_path, monkeypatch, capsys):
    arguments = [space, "--out", tmp_path / "runs", "--results", tmp_path / "results"]
    arguments += ["--frontier", tmp_path / "FRONTIER.md"]
    monkeypatch.setattr("sys.argv", ["search", *map(str, arguments)])
    search.main()
    rows = json.loads((tmp_path / "results" / "rates.json").read_text())["rows"]
    rungs = [(1, 1, [1])] * 2 + [(2, 2, [1]), (3, 2, [1, 2])]
    assert [(row["rung"], row["epochs"], row["seeds"]) for row in rows] == rungs
    assert [row["name"] for row in rows] == [
        "0.02_small",
        "1e-05_small",
        "0.02_small",
        "0.02_small",
    ]
    assert (
        rows[1]["accuracy"]
        < 0.2
        < rows[0]["accuracy"]
        < rows[2]["accuracy"]
        == rows[2]["accuracies"][0]
    )
    assert rows[3]["accuracies"][0] == rows[2]["accuracy"] and len(rows[3]["accuracies"]) == 2
    assert capsys.readouterr().out.count(" seed 2 epoch  1 of 2") == 1
    for folder in (tmp_path / "runs" / "rates").iterdir():  # the test images were not looked at
        line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
        assert line["validation_examples"] == 200 and not [
            key for key in line if key.startswith("test")
        ]
    document = (tmp_path / "FRONTIER.md").read_text()
    assert document.split("|--:|\n")[1].startswith("| 0.02_small | 1,548 | 59,040 | 2 | 2 | ")
    assert (
        "## rates" in document and "tiny.toml, by optimizer.learning_rate, batch_size." in document
    )
    capsys.readouterr()
    search.main()
    assert "epoch" not in capsys.readouterr().out.replace("epochs", "")
    assert json.loads((tmp_path / "results" / "rates.json").read_text())["rows"] == rows


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rungs", "rung", "rung is unknown; did you mean rungs"),
        ("[choices]", "[loss]", "loss is unknown"),
        ("0.02,", '"x",', "optimizer.learning_rate is 'x'; allowed"),
        ("batch_size", "batchsize", "batchsize is unknown"),
        ("[choices]", "[choices", "cannot be read as TOML"),
    ],
)
def test_a_wrong_space_gives_a_one_line_error(space, old, new, message, monkeypatch, capsys):
    space.write_text(space.read_text().replace(old, new))
    monkeypatch.setattr("sys.argv", ["search", str(space)])
    assert search.exit_code(search.main) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "rates.toml" in error


def test_proposals_respect_the_limits_of_the_space(space):
    table = search.tomllib.loads(space.read_text())
    table["choices"]["epochs"] = [1, 2, 3]
    assert len(list(search.proposals(table, ""))) == 6
    drawn = [config.name for config in search.proposals(table | {"draw": 2}, "")]
    again = [config.name for config in search.proposals(table | {"draw": 2}, "")]
    assert len(drawn) == 2 and drawn == again
    assert not list(search.proposals(table | {"parameters_below": 100}, ""))


def test_the_frontier_is_generated_from_the_results(tmp_path, monkeypatch):
    """CONTRIBUTING.md states the command."""
    frontier = tmp_path / "FRONTIER.md"
    arguments = ["search", "--results", ROOT / "results" / "search", "--frontier", frontier]
    monkeypatch.setattr("sys.argv", [*map(str, arguments)])
    search.main()
    assert frontier.read_text() == (ROOT / "benchmarks" / "FRONTIER.md").read_text()


def test_a_search_without_arguments_writes_nothing(tmp_path, monkeypatch, capsys):
    """It must not write tables to the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["search"])
    assert search.exit_code(search.main) == 2
    message = "there is nothing to do. Name a SPACE.toml, or a file for the tables with --frontier."
    assert capsys.readouterr().err == f"jaxdrill: {message}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_search_does_not_change_tracked_files(space, few_digits, tmp_path, monkeypatch):
    """By default only `runs/`, which git ignores, is written in the current folder."""
    text = space.read_text()
    one_rung = "rungs = [{ epochs = 1, seeds = 1 }]"
    space.write_text(
        re.sub(r"^rungs = .*$", one_rung, text, flags=re.M).replace("0.02, 0.00001", "0.02")
    )
    tracked = {
        tmp_path / "clone" / name: name
        for name in ("results/search/rates.json", "benchmarks/FRONTIER.md")
    }
    for path, content in tracked.items():
        path.parent.mkdir(parents=True)
        path.write_text(content)
    monkeypatch.chdir(tmp_path / "clone")
    monkeypatch.setattr("sys.argv", ["search", str(space)])
    search.main()
    assert {path: path.read_text() for path in tracked} == tracked
    assert sorted(path.name for path in (tmp_path / "clone").iterdir()) == [
        "benchmarks",
        "results",
        "runs",
    ]
    assert {path.name for path in (tmp_path / "clone" / "runs" / "search").iterdir()} == {
        "rates",
        "rates.json",
    }


@pytest.mark.slow
def test_cross_validation_evaluates_each_image_once(
    tmp_path, tiny_recipe, all_digits, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", "digits", "--folds", "2", "--seeds", "2", "--epochs", "1"]
    longer = tmp_path / "quick.toml"
    longer.write_text(f'extends = "{tiny_recipe}"\n[optimizer]\nlearning_rate = 0.05\n')
    monkeypatch.setattr("sys.argv", ["cross_validation", str(tiny_recipe), str(longer), *arguments])
    cross_validation.main()
    first, second = json.loads(
        (tmp_path / "runs" / "cross_validation" / "figures.json").read_text()
    )
    assert (
        np.shape(first["folds"]) == np.shape(second["folds"]) == (2, 2) and first["step"] == "tiny"
    )
    assert second["difference"] == pytest.approx(np.mean(second["folds"]) - np.mean(first["folds"]))
    for fold in (1, 2):
        held = splits.hold_out(all_digits, 5748, "auto", fold).test_labels  # Half of 11,496.
        assert np.array_equal(
            reader.read(tmp_path / "runs" / "cross_validation" / f"quick_fold_{fold}").labels, held
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quick.toml", "runs"]
    assert "quick: " in capsys.readouterr().out
