"""The plots of the report as SVG text, in the colours of the page.

Matplotlib is used with its own default settings, so that plots depend neither on the environment
nor on a user's matplotlibrc.
"""

import importlib
import importlib.util
import io
import logging
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import escape

from jaxdrill.report.analysis import Analysis, notebook_accuracies
from jaxdrill.report.statistics import TARGET


def _import_matplotlib() -> None:
    """Import Matplotlib, also with a wrong MPLBACKEND, a wrong matplotlibrc or no home folder."""
    logger = logging.getLogger("matplotlib")
    level, environment = logger.level, dict(os.environ)
    logger.setLevel(
        logging.CRITICAL
    )  # Warnings about settings and caches do not concern the report.
    try:
        importlib.import_module("matplotlib.figure")
    except (ValueError, OSError, RuntimeError):
        for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
            del sys.modules[name]  # Their package was not imported.
        (package,) = importlib.util.find_spec("matplotlib").submodule_search_locations  # type: ignore
        settings = Path(package).absolute() / "mpl-data" / "matplotlibrc"
        # Matplotlib prefers a matplotlibrc in the current folder.
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            os.environ |= {
                "MPLBACKEND": "svg",
                "MATPLOTLIBRC": f"{settings}",
                "MPLCONFIGDIR": folder,
            }
            importlib.import_module("matplotlib.figure")
    finally:
        os.environ.clear()
        os.environ.update(environment)
        logger.setLevel(level)


_import_matplotlib()

import matplotlib  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

# Placeholder colours. They are replaced by the page's CSS variables for light and dark mode.
INK, LINE, FIRST, SECOND = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
VARIABLES = {INK: "var(--ink)", LINE: "var(--line)", FIRST: "var(--a)", SECOND: "var(--b)"}
SETTINGS: Any = dict(matplotlib.rcParamsDefault.copy()) | {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": LINE,
    "grid.color": LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
del SETTINGS["backend"]  # `rc_context` would not restore it, and a Figure needs none.


@matplotlib.rc_context(SETTINGS)
def ladder(analyses: Sequence[Analysis], width: float) -> str:
    """Plot the accuracies of each run: one dot per seed, the mean and its interval, the notebook.

    `width` is in inches.
    """
    split, dataset = analyses[0].run.split, analyses[0].run.dataset
    axes, rows = _axes(width, 0.34 * len(analyses) + 1.3), range(len(analyses))
    for row, analysis in enumerate(analyses):
        values = 100 * analysis.run.metrics["accuracy"][:, -1]
        heights = np.full(len(values), row - 0.22)
        axes.scatter(values, heights, s=14, color=FIRST, alpha=0.45, linewidths=0)
        if analysis.last.interval:
            ends = 100 * np.array(analysis.last.interval)
            axes.plot(ends, [row, row], color=FIRST, linewidth=2)
    means = [100 * analysis.last.mean for analysis in analyses]
    label = "mean of the last epoch"
    axes.scatter(means, rows, s=42, marker="D", color=FIRST, zorder=3, label=label)
    best = {row: 100 * a.notebook[0] for row, a in enumerate(analyses) if a.notebook}
    if best:
        x, y, label = [*best.values()], [*best], "notebook's best epoch"
        axes.scatter(x, y, s=36, facecolors="none", edgecolors=SECOND, zorder=3, label=label)
    axes.set_yticks(rows, [analysis.label for analysis in analyses])
    axes.set_ylim(len(analyses) - 0.5, -0.5)
    low, high = axes.get_xlim()
    middle, half = (low + high) / 2, max(high - low, 0.1) / 2
    axes.set_xlim(max(middle - half, 0), min(middle + half, 100))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.set_xlabel(f"{split} accuracy, %")
    axes.figure.legend(loc="outside upper center", ncols=2)
    return _svg(axes, f"{split} accuracy of each run on {dataset}, {width} inches wide")


def curves(analyses: Sequence[Analysis]) -> list[str]:
    """Plot training and evaluated accuracy by epoch, one plot per run, all with the same axes.

    A plot shows the mean and the range of the seeds, and the notebook's curve. The first fifth of
    the epochs may be below the axes.
    """
    runs = [analysis.run for analysis in analyses]
    tails = [
        100 * run.metrics[key][:, run.epochs // 5 :]
        for run in runs
        for key in ("train_accuracy", "accuracy")
    ]
    low, high = min(tail.min() for tail in tails), max(tail.max() for tail in tails)
    high = max(high, 100 * TARGET) if analyses[0].has_target else high
    room, epochs = 0.08 * (high - low) or 1, max(run.epochs for run in runs)
    limits = (1 - 0.04 * epochs, epochs * 1.04, max(low - room, 0), min(high + room, 100))
    return [_curve(analysis, limits) for analysis in analyses]


@matplotlib.rc_context(SETTINGS)
def _curve(analysis: Analysis, limits: tuple[float, float, float, float]) -> str:
    run, axes = analysis.run, _axes()
    x, marker = np.arange(1, run.epochs + 1), "o" if run.epochs == 1 else None
    for key, label, color, style in (
        ("train_accuracy", "train", SECOND, "--"),
        ("accuracy", run.split, FIRST, "-"),
    ):
        values = 100 * run.metrics[key]
        axes.plot(x, values.mean(axis=0), style, color=color, label=label, marker=marker)
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    if analysis.has_target:
        axes.axhline(100 * TARGET, color=INK, linewidth=0.6)
        if printed := [100 * p for p in notebook_accuracies(run.name, run.epochs)]:
            axes.plot(x[: len(printed)], printed, ":", color=INK, linewidth=1, label="notebook")
    axes.axis(limits)
    axes.set(title=analysis.label, ylabel="%")
    axes.legend(loc="lower right")
    _epochs(axes)
    return _svg(axes, f"accuracy by epoch of {analysis.label} on {run.dataset}")


@matplotlib.rc_context(SETTINGS)
def schedules(analyses: Sequence[Analysis]) -> str:
    """Plot the learning rate at the start of each epoch, one line for runs with equal schedules."""
    labels: dict[tuple[float, ...], list[str]] = {}
    for analysis in analyses:
        rates = tuple(analysis.run.metrics["learning_rate"][0])
        labels.setdefault(rates, []).append(analysis.label)
    axes = _axes(height=3.4)
    for n, (rates, names) in enumerate(labels.items()):
        color, style = (FIRST, SECOND, INK)[n % 3], ("-", "--", ":")[n // 3 % 3]
        x, label, marker = range(1, len(rates) + 1), ", ".join(names), "o" * (len(rates) == 1)
        axes.step(x, rates, style, where="mid", color=color, label=label, marker=marker)
    axes.set_yscale("log" if all(min(rates) > 0 for rates in labels) else "linear")
    axes.set(title="learning rate")
    axes.figure.legend(loc="outside lower center")
    _epochs(axes)
    return _svg(axes, f"learning rates on {analyses[0].run.dataset}")


def _axes(width: float = 4.6, height: float = 3.0) -> Axes:
    """Return the axes of a new figure; width and height in inches."""
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def _epochs(axes: Axes) -> None:
    """Label the x axis with epochs."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _svg(axes: Axes, name: str) -> str:
    """Return a figure as an `svg` element. Text stays text, and ids are unique within a page.

    `name` is the alternative text. It must be different for each figure of a page.
    """
    matplotlib.rcParams["svg.hashsalt"] = name
    file = io.StringIO()
    metadata: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure: Any = axes.figure
    figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    svg = re.sub('<g id="[^"]+"', "<g", file.getvalue().partition("<svg")[2])
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, variable)
    return f'<svg role="img" aria-label="{escape(name)}"{svg}'
