"""The documents: their commands run, their numbers are current, their links exist."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT
from soak import run

from benchmarks import readme
from benchmarks.reference import reference
from jaxdrill.report import summary
from jaxdrill.report.analysis import group_runs
from jaxdrill.runs.reader import read_all

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run(tmp_path):
    """Run docs/tutorial.md from top to bottom in an empty folder."""
    (tmp_path / "smooth.toml").write_text(re.search(r"```toml\n(.*?)```", TUTORIAL, re.S)[1])
    printed = {}
    for line in "".join(re.findall(r"```sh\n(.*?)```", TUTORIAL, re.S)).splitlines():
        program, *arguments = shlex.split(line)
        command = [sys.executable, "-m", program, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr)
        printed[line] = done.stdout
    assert len(printed) == 10
    dry_run = next(text for line, text in printed.items() if line.endswith("--dry-run"))
    assert "* --loss.label-smoothing 0.1" in dry_run
    metrics = (tmp_path / "tried" / "step_5" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in metrics]
    assert all(row["validation_accuracy"] > 0.7 for row in rows), rows
    tried, verdict = ((tmp_path / folder / "report.md").read_text() for folder in ("tried", "runs"))
    assert "| smooth | step_5 | 2 |" in tried and "validation" in tried
    assert "1 of 1 comparisons is inconclusive" in verdict and "validation" not in verdict
    written = {path.name for path in tmp_path.iterdir()}
    assert {"smooth_seed_1_pytorch.safetensors", "page.html"} <= written


def test_the_reference_is_current():
    """`python -m benchmarks.reference` writes it."""
    assert (ROOT / "docs" / "reference.md").read_text() == reference()


def test_the_tables_are_current():
    """`python -m benchmarks.readme` writes them."""
    analyses = group_runs(read_all([ROOT / "results"]))[0]
    assert readme.short_table(analyses) in (ROOT / "README.md").read_text()
    text = (ROOT / "docs" / "results.md").read_text()
    assert readme.replace_tables(text, summary([ROOT / "results"]).split("\n\n")) == text


def test_extending_names_existing_files():
    """At most three files per row; a new layer or augmentation needs no other file."""
    table = (ROOT / "docs" / "extending.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ") and "`jaxdrill/" in line]
    assert [row.split(" | ")[0][2:] for row in rows] == [
        "layer",
        "augmentation",
        "optimizer or schedule",
        "loss",
        "export format",
        "data source",
    ]
    for row in rows:
        files = re.findall(r"`(jaxdrill/[\w/]*\.?\w*)`", row)
        assert 2 <= len(files) <= 3 and all((ROOT / file).exists() for file in files), row


def test_readme_states_the_results_of_the_soak_tests():
    assert run.lines(json.loads(run.RESULTS.read_text())) in (ROOT / "README.md").read_text()


def test_readme_quotes_the_measured_speed():
    steps = json.loads((ROOT / "results" / "benchmarks" / "cpu.json").read_text())["training_steps"]
    ratios = sorted(
        (each[each["best_pytorch"]]["ratio"], step.replace("_", " "))
        for step, each in steps.items()
    )
    (low, slowest), (high, fastest) = ratios[0], ratios[-1]
    quoted = (
        f"a training step is {low:.2f} times ({slowest}) to {high:.2f} times ({fastest}) as fast "
        "as in [PyTorch's fastest configuration]"
    )
    assert quoted in (ROOT / "README.md").read_text().replace("\n", " ")


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


@pytest.mark.parametrize(
    "file",
    ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))],
)
def test_links_and_paths_exist(file):
    """Check links to files, and paths in backticks that start with a folder of the repository."""
    text = (ROOT / file).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert all(((ROOT / file).parent / link).exists() for link in links), links
    folders = "jaxdrill|configs|examples|tests|benchmarks|results|notebooks|docs"
    paths = re.findall(rf"`((?:{folders})/[\w/.-]*)", text)
    assert [
        path for path in paths if not (ROOT / path).exists() and not list(ROOT.glob(f"{path}*"))
    ] == []
