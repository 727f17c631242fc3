"""The notebook runs from top to bottom on digits."""

import json
import re

import pytest
from conftest import ROOT

NOTEBOOK = ROOT / "notebooks" / "drill.ipynb"
# One drawing of each training digit instead of eight.
FEW_DIGITS = """from jaxdrill.data import digits
digits.load_arrays = lambda all=digits.load_arrays(): (all[0][:1437], all[1][:1437], *all[2:])"""


@pytest.fixture(scope="module")
def cells():
    return json.loads(NOTEBOOK.read_text())["cells"]


def test_it_has_no_outputs_and_selects_a_tpu(cells):
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
    metadata = json.loads(NOTEBOOK.read_text())["metadata"]
    assert (
        metadata["accelerator"] == "TPU"
        and metadata["colab"]["gpuType"] == "V5E1"
        and "widgets" not in metadata
    )


def test_it_installs_the_source_first_and_keeps_installed_versions(cells):
    first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert (
        re.search(r'^source = ""  # @param', first, re.M) and '%pip install -q "{source}"' in first
    )
    assert "files.upload()" in first  # asks for a wheel if `source` is empty
    assert "import jax" not in first and "jax[tpu]" not in json.dumps(cells) and " -U" not in first


def test_it_uses_only_the_public_api(cells):
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert "import jaxdrill\n" in code and not re.search(r"from jaxdrill|import jaxdrill\.", code)
    assert {*re.findall(r"jaxdrill\.(\w+)", code)} <= {
        "__version__",
        "train",
        "load",
        "write_report",
    }


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (.[notebook])")
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    given = {"epochs": "1", "seeds": "2", "data": '"digits"'}
    for cell in notebook.cells:
        for name, value in given.items():
            cell.source = re.sub(
                rf"^{name} = .*# @param", f"{name} = {value}  # @param", cell.source, flags=re.M
            )
    devices = next(n for n, cell in enumerate(notebook.cells) if cell.id == "devices")
    notebook.cells.insert(devices + 1, nbformat.v4.new_code_cell(FEW_DIGITS))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": f"{tmp_path}"}}
    ).execute()
    found = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    text = {
        name: "".join(output.get("text", "") for output in outputs)
        for name, outputs in found.items()
    }
    shown = {
        name: json.dumps([output.get("data", {}) for output in outputs])
        for name, outputs in found.items()
    }
    assert "1,437 training and 360 test images" in text["train"]
    assert (
        "cpu" in text["devices"] and "step/s" in text["train"] + text["seeds"]
    )  # The progress bar.
    assert "seed 2 epoch  1 of 1" in text["seeds"] and "seed 1 epoch" not in text["seeds"]
    assert "iframe" in shown["report"] and "step_4" in shown["report"]
    assert "rotation" in (tmp_path / "runs" / "report.html").read_text()
    assert "mine" in shown["own"] and "inconclusive" in shown["own"]
    assert len(re.findall(r"0\.\d+", text["use"])) >= 5
