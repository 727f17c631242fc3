"""The report's drawings, as SVG text in the colours of the page."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxdrill.folder import Run
from jaxdrill.statistics import TARGET, Evidence, notebook

# Stand-ins that become the page's CSS variables, so that a drawing follows light and dark mode.
INK, LINE, FIRST, SECOND = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
VARIABLES = {INK: "var(--ink)", LINE: "var(--line)", FIRST: "var(--a)", SECOND: "var(--b)"}
SETTINGS: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 10,
    "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": LINE,
    "grid.color": LINE, "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 8,
}  # fmt: skip


def ladder(found: Sequence[Evidence]) -> str:
    """Each step's last test accuracies, one dot a seed, their mean and its interval, and the notebook's best."""

    def draw(axes: Axes) -> None:
        for row, each in enumerate(found):
            values = 100 * each.run.metrics["test_accuracy"][:, -1]
            axes.scatter(values, np.full(len(values), row - 0.22), s=14, color=FIRST, alpha=0.45, linewidths=0)
            if each.last.interval:
                axes.plot([100 * end for end in each.last.interval], [row, row], color=FIRST, linewidth=2)
            axes.scatter(100 * each.last.mean, row, s=42, marker="D", color=FIRST, zorder=3,
                         label="mean of the last epoch")  # fmt: skip
            if each.notebook:
                axes.scatter(100 * each.notebook[0], row, s=36, facecolors="none", edgecolors=SECOND, zorder=3,
                             label="notebook's best epoch")  # fmt: skip
        axes.set_yticks(range(len(found)), [each.run.name for each in found])
        axes.invert_yaxis()
        axes.margins(y=0.5 / max(1, len(found) - 1))
        axes.set_xlabel("test accuracy, %")
        once = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.figure.legend(once.values(), once.keys(), loc="outside upper center", ncols=2)

    return _svg(draw, "ladder", height=0.34 * len(found) + 1.3)


def curves(run: Run) -> str:
    """Test and training accuracy by epoch: the mean over seeds, the range of the seeds, and the notebook's curve."""

    def draw(axes: Axes) -> None:
        epochs = np.arange(run.epochs)
        marker = "o" if run.epochs == 1 else None
        for key, color, style in (("train_accuracy", SECOND, "--"), ("test_accuracy", FIRST, "-")):
            values = 100 * run.metrics[key]
            axes.plot(epochs, values.mean(axis=0), style, color=color, label=key.split("_")[0], marker=marker)
            axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, linewidth=0)
        if run.config.data == "mnist":
            printed = notebook(run.name, run.epochs)
            label = "notebook" if printed else None
            axes.plot(range(len(printed)), [100 * each for each in printed], ":", color=INK, linewidth=1, label=label)
            axes.axhline(100 * TARGET, color=INK, linewidth=0.6)
        shown = 100 * np.concatenate(
            [run.metrics[key][:, run.epochs // 5 :] for key in ("train_accuracy", "test_accuracy")]
        )
        low, high = shown.min(), max(shown.max(), 100 * TARGET if run.config.data == "mnist" else 0)
        room = 0.08 * (high - low) or 1
        axes.set_ylim(low - room, high + room)
        axes.set_title(run.name)
        axes.set_xlabel("epoch")
        axes.set_ylabel("%")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower right")

    return _svg(draw, f"curves {run.name}")


def schedules(runs: Sequence[Run]) -> str:
    """The learning rate of each epoch; steps that share a schedule share a line."""

    def draw(axes: Axes) -> None:
        shared: dict[tuple[float, ...], list[str]] = {}
        for run in runs:
            shared.setdefault(tuple(run.metrics["learning_rate"][0]), []).append(run.name.removeprefix("step_"))
        for n, (rates, names) in enumerate(shared.items()):
            color, style = (FIRST, SECOND, INK)[n % 3], ("-", "--", ":")[n // 3 % 3]
            axes.step(range(len(rates)), rates, style, where="mid", color=color, label=", ".join(names),
                      marker="o" if len(rates) == 1 else None)  # fmt: skip
        axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_title("learning rate")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="best")

    return _svg(draw, "schedules")


def _svg(draw: Callable[[Axes], object], name: str, height: float = 3.0) -> str:
    """The drawing as an `svg` element: text stays text, no date, and no ids but those that it uses itself."""
    with matplotlib.rc_context(SETTINGS | {"svg.hashsalt": name}):
        figure = Figure(figsize=(4.6, height), layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg
