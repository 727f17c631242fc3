"""The README's tables and pictures, which are made from `results/`."""

from xml.etree import ElementTree

from conftest import ROOT

from benchmarks import readme
from jaxdrill.report import summary
from jaxdrill.runs.reader import read_all


def test_the_results_state_their_versions():
    text = (ROOT / "docs" / "results.md").read_text()
    metadata = read_all([ROOT / "results"])[0].metadata
    assert metadata["git_commit"][:7] in text
    assert all(f"{name} {metadata['versions'][name]}" in text for name in ("jax", "flax", "optax"))


def test_readme_py_replaces_tables_and_draws_the_ladder(shared_drill, tmp_path, monkeypatch):
    files = {
        "FOLDER": shared_drill,
        "README": tmp_path / "README.md",
        "RESULTS": tmp_path / "results.md",
        "PICTURE": tmp_path / "ladder.svg",
        "MEASURED": ROOT / "results" / "benchmarks" / "cpu.json",
        "SPEED": tmp_path / "speed.md",
    }
    for name, path in files.items():
        monkeypatch.setattr(readme, name, path)
    results = "| step | data | x |\n| --- |\n| old |"
    comparisons = "| step | baseline | x |\n| old |"
    files["README"].write_text("Before\n\n| step | parameters | x |\n| old |\n\nafter\n")
    files["RESULTS"].write_text(f"Before\n\n{results}\n\nbetween\n\n{comparisons}\n\nafter\n")
    files["SPEED"].write_text("Before\n\n| | jaxdrill (time) | old |\n\nafter\n")
    readme.main()
    written = files["SPEED"].read_text().removeprefix("Before\n\n").removesuffix("\n\nafter\n")
    assert written in (ROOT / "docs" / "speed.md").read_text()  # Nobody edited a figure by hand.
    first, second = summary([shared_drill]).split("\n\n")
    assert files["RESULTS"].read_text() == f"Before\n\n{first}\n\nbetween\n\n{second}\n\nafter\n"
    assert files["README"].read_text().count("| 9,606 |") == 4
    for picture in (files["PICTURE"], ROOT / "docs" / "ladder.svg"):
        text = picture.read_text()
        shown = "".join(ElementTree.fromstring(text).itertext())  # A page needs valid XML.
        words = ("step_2", "step_5", "--ink", "prefers-color-scheme")
        assert all(word in shown for word in words)


def test_results_contain_no_images():
    assert not list((ROOT / "results").glob("*/images.npz"))
