"""The command `jaxdrill check`."""

import numpy as np
import pytest
from runs_on_disk import CURVES, write_run

from jaxdrill.main import main


@pytest.mark.parametrize(
    ("minimum", "more", "code", "message"),
    [
        ("0.01", [], 0, "at least 1 %"),
        ("0.992", [], 0, "at least 99.2 %"),  # the mean itself
        ("0.99201", [], 3, ", below 99.201 %"),
        ("0.98", ["--confident"], 0, "; the mean is above 98 % (p = 0.0046, alpha = 0.05)"),
        ("0.98", ["--alpha", "0.01"], 0, "; the mean is above 98 % (p = 0.0046, alpha = 0.01)"),
        (
            "0.98",
            ["--alpha", "0.001"],
            3,
            "; the mean is not shown to be above 98 % (p = 0.0046, alpha = 0.001)",
        ),
        (
            "0.98",
            ["--confident", "--alpha", "0"],
            3,
            "; the mean is not shown to be above 98 % (p = 0.0046, alpha = 0)",
        ),
        (
            "0.991",
            ["--confident"],
            3,
            "; the mean is not shown to be above 99.1 % (p = 0.24, alpha = 0.05)",
        ),
        ("0.994", ["--confident", "--alpha", "1"], 3, ", below 99.4 %"),
    ],
)
def test_check(tmp_path, capsys, minimum, more, code, message):
    """The mean of 99.0, 99.2 and 99.4 %; `--alpha` implies `--confident`."""
    folder = write_run(tmp_path / "run", "2", CURVES)
    assert main(["check", str(folder), "--min-accuracy", minimum, *more]) == code
    said, line = capsys.readouterr(), f"{folder}: test 99.2 % over 3 seeds"
    line = line + message if message[0] in ",;" else f"{line}, {message}"
    assert (said.out, said.err) == ((f"{line}\n", "") if code == 0 else ("", f"jaxdrill: {line}\n"))


@pytest.mark.parametrize(
    ("accuracies", "why"),
    [([0.919] * n, "a test needs at least 3 seeds") for n in (1, 2)]
    + [([0.919] * 3, "all seeds are equal")],
)
def test_check_of_seeds_without_a_spread(tmp_path, capsys, accuracies, why):
    """They pass by their mean; whether they would again is not known."""
    curves = {seed: [accuracy] for seed, accuracy in enumerate(accuracies, start=1)}
    folder = write_run(tmp_path / "run", "2", curves)
    seeds = f"{len(curves)} seed{'s' if len(curves) > 1 else ''}"
    measured = f"{folder}: test {100 * accuracies[0]:g} % over {seeds}"
    assert main(["check", str(folder), "--min-accuracy", "0.01"]) == 0
    assert capsys.readouterr().out == f"{measured}, at least 1 %\n"
    assert main(["check", str(folder), "--min-accuracy", "0.01", "--confident"]) == 3
    what = f"; whether the mean is above 1 % is inconclusive: {why}. Train more --seeds"
    assert capsys.readouterr().err == f"jaxdrill: {measured}{what}\n"


def test_check_says_by_how_little_a_run_fails(tmp_path, capsys):
    """99.3967 % is not shown as 99.40 %."""
    folder = write_run(
        tmp_path / "run", "2", {1: [0.994], 2: [0.994], 3: [0.9939]}, labels=np.arange(10_000) % 10
    )
    assert main(["check", str(folder), "--min-accuracy", "0.994"]) == 3
    assert (
        capsys.readouterr().err
        == f"jaxdrill: {folder}: test 99.3967 % over 3 seeds, below 99.4 %\n"
    )


@pytest.mark.parametrize(
    ("flag", "value", "meant"),
    [
        ("--min-accuracy", "99.4", "; did you mean 0.994?"),
        ("--min-accuracy", "100", "; did you mean 1?"),
        ("--min-accuracy", "101", ""),
        ("--min-accuracy", "x", ""),
        ("--min-accuracy", "nan", ""),
        ("--alpha", "5", "; did you mean 0.05?"),
        ("--alpha", "-1", ""),
    ],
)
def test_check_of_what_is_not_a_fraction(capsys, flag, value, meant):
    assert main(["check", "run", "--min-accuracy", "0.5", flag, value]) == 2
    expected = f"jaxdrill: argument {flag}: {value} is not a number from 0 to 1{meant}\n"
    assert capsys.readouterr().err == expected


def test_check_needs_a_run_and_a_minimum(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none"), "--min-accuracy", "0.9"]) == 1
    assert main(["check", str(tmp_path)]) == 2
    assert "--min-accuracy" in capsys.readouterr().err


def test_check_takes_a_folder_of_runs(drill, capsys):
    """All must pass."""
    runs = [
        f"{drill / step}: test {mean} % over {seeds} seeds"
        for step, mean, seeds in (
            ("step_2", "99.2", 3),
            ("step_3", "99.1", 2),
            ("step_4", "99.2", 3),
            ("step_5", "99.6667", 3),
        )
    ]
    assert main(["check", str(drill), "--min-accuracy", "0.991"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{run}, at least 99.1 %" for run in runs]
    assert main(["check", str(drill), "--min-accuracy", "0.993"]) == 3
    said = capsys.readouterr()
    assert said.out == f"{runs[3]}, at least 99.3 %\n"
    assert said.err == f"jaxdrill: {'; '.join(f'{run}, below 99.3 %' for run in runs[:3])}\n"
