"""The limits of CONTRIBUTING.md and the order of imports in docs/extending.md."""

import ast
from collections.abc import Iterator

import pytest
from conftest import ROOT

# A module imports only from its own entry and from later entries.
ORDER = (
    {"__main__", "main", "checks", "__init__"},
    {"report", "predict", "export", "page"},
    {"runs"},
    {"weights"},
    {"training"},
    {"nn"},
    {"data"},
    {"config"},
    {"array_files", "files", "errors"},
)
PACKAGE = ROOT / "jaxdrill"
MODULES = sorted(PACKAGE.rglob("*.py"))


def entry(name: str) -> int:
    return next(n for n, names in enumerate(ORDER) if name in names)


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the modules and packages of jaxdrill that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxdrill":
            yield from (alias.name for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxdrill."):
            yield str(node.module).split(".")[1]


def test_imports_go_in_one_direction():
    wrong, found = [], 0
    for file in MODULES:
        own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imported(ast.parse(file.read_text())):
            found += 1
            if entry(name) < entry(own):
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong and found > 100


@pytest.mark.parametrize("folder", ["jaxdrill", "tests", "benchmarks", "examples"])
def test_files_and_functions_are_short(folder):
    long = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        text = file.read_text()
        if len(text.splitlines()) > 300:
            long.append(str(file.relative_to(ROOT)))
        for node in ast.walk(ast.parse(text)):
            size = (node.end_lineno - node.lineno + 1) if isinstance(node, ast.FunctionDef) else 0
            if size > 50 and folder != "tests":
                long.append(f"{file.relative_to(ROOT)} {node.name}")
    assert not long
