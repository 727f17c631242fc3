"""The documents: their commands run, their numbers are current, their links exist."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT
from soak import run

OWN_STEP = (ROOT / "docs" / "own_step.md").read_text()


@pytest.mark.slow
def test_the_commands_of_own_step_run(tmp_path):
    """Run docs/own_step.md from top to bottom in an empty folder."""
    (tmp_path / "smooth.toml").write_text(re.search(r"```toml\n(.*?)```", OWN_STEP, re.S)[1])
    printed = {}
    for line in "".join(re.findall(r"```sh\n(.*?)```", OWN_STEP, re.S)).splitlines():
        command = [sys.executable, *shlex.split(line)[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr)
        printed[line] = done.stdout
    assert len(printed) == 9
    assert "--loss.label-smoothing 0.1" in next(iter(printed.values()))
    rows = [
        json.loads(line)
        for line in (tmp_path / "tried" / "step_5" / "metrics.jsonl").read_text().splitlines()
    ]
    assert all(row["validation_accuracy"] > 0.7 for row in rows), rows
    tried, verdict = ((tmp_path / folder / "report.md").read_text() for folder in ("tried", "runs"))
    assert "| smooth | step_5 | 2 |" in tried and "validation" in tried
    assert "1 of 1 comparisons is inconclusive" in verdict and "validation" not in verdict
    assert {"smooth_seed_1_pytorch.safetensors", "page.html"} <= {
        path.name for path in tmp_path.iterdir()
    }


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
        f"it is {low:.2f} ({slowest}) to {high:.2f} times ({fastest}) as fast as "
        "[PyTorch's best configuration]"
    )
    assert quoted in (ROOT / "README.md").read_text().replace("\n", " ")


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize(
    "file",
    ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))],
)
def test_links_and_paths_exist(file):
    """Check links to files, and paths in backticks that start with a folder of the repository."""
    text = (ROOT / file).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert all(((ROOT / file).parent / link).exists() for link in links), links
    folders = "jaxdrill|configs|tests|benchmarks|results|notebooks|docs"
    paths = re.findall(rf"`((?:{folders})/[\w/.-]*)", text)
    assert [
        path for path in paths if not (ROOT / path).exists() and not list(ROOT.glob(f"{path}*"))
    ] == []
