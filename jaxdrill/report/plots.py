"""The report's drawings, as SVG text in the colours of the page."""

import io
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxdrill.report.analysis import Analysis, notebook
from jaxdrill.report.drawing import Axes, Figure, MaxNLocator, default_settings
from jaxdrill.report.statistics import TARGET

# Stand-ins that become the page's CSS variables, so that a drawing follows light and dark mode.
INK, LINE, FIRST, SECOND = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
VARIABLES = {INK: "var(--ink)", LINE: "var(--line)", FIRST: "var(--a)", SECOND: "var(--b)"}
SETTINGS: Any = {
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


def ladder(analyses: Sequence[Analysis], width: float) -> str:
    """Each run's last accuracies, one dot a seed, their mean and its interval, and the notebook's best; `width` is in
    inches."""

    def draw(axes: Axes) -> None:
        for row, analysis in enumerate(analyses):
            values = 100 * analysis.run.metrics["accuracy"][:, -1]
            axes.scatter(
                values,
                np.full(len(values), row - 0.22),
                s=14,
                color=FIRST,
                alpha=0.45,
                linewidths=0,
            )
            if analysis.last.interval:
                axes.plot(
                    [100 * end for end in analysis.last.interval],
                    [row, row],
                    color=FIRST,
                    linewidth=2,
                )
            axes.scatter(
                100 * analysis.last.mean,
                row,
                s=42,
                marker="D",
                color=FIRST,
                zorder=3,
                label="mean of the last epoch",
            )
            if analysis.notebook:
                axes.scatter(
                    100 * analysis.notebook[0],
                    row,
                    s=36,
                    facecolors="none",
                    edgecolors=SECOND,
                    zorder=3,
                    label="notebook's best epoch",
                )
        axes.set_yticks(range(len(analyses)), [analysis.label for analysis in analyses])
        axes.set_ylim(len(analyses) - 0.5, -0.5)
        low, high = axes.get_xlim()
        middle, half = (low + high) / 2, max(high - low, 0.1) / 2
        axes.set_xlim(max(middle - half, 0), min(middle + half, 100))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.set_xlabel(f"{analyses[0].run.split} accuracy, %")
        once = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.figure.legend(once.values(), once.keys(), loc="outside upper center", ncols=2)

    return _svg(
        draw, f"ladder {analyses[0].run.dataset} {width}", width, height=0.34 * len(analyses) + 1.3
    )


def curves(analyses: Sequence[Analysis]) -> list[str]:
    """Of each run, training and evaluated accuracy by epoch: the mean over seeds, the range of the seeds, and the
    notebook's curve. All have the same axes; the first fifth of the epochs may lie below."""
    keys = ("train_accuracy", "accuracy")
    tails = [100 * a.run.metrics[key][:, a.run.epochs // 5 :] for a in analyses for key in keys]
    low, high = min(tail.min() for tail in tails), max(tail.max() for tail in tails)
    high = max(high, 100 * TARGET) if analyses[0].has_target else high
    room, epochs = 0.08 * (high - low) or 1, max(a.run.epochs for a in analyses)

    def draw(axes: Axes, analysis: Analysis) -> None:
        run = analysis.run
        x, marker = np.arange(1, run.epochs + 1), "o" if run.epochs == 1 else None
        for key, label, color, style in zip(
            keys, ("train", run.split), (SECOND, FIRST), ("--", "-"), strict=True
        ):
            values = 100 * run.metrics[key]
            axes.plot(x, values.mean(axis=0), style, color=color, label=label, marker=marker)
            axes.fill_between(
                x, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, linewidth=0
            )
        if analysis.has_target:
            if printed := notebook(run.name, run.epochs):
                axes.plot(
                    x[: len(printed)],
                    [100 * p for p in printed],
                    ":",
                    color=INK,
                    linewidth=1,
                    label="notebook",
                )
            axes.axhline(100 * TARGET, color=INK, linewidth=0.6)
        axes.set_xlim(1 - 0.04 * epochs, epochs * 1.04)
        axes.set_ylim(max(low - room, 0), min(high + room, 100))
        axes.set_title(analysis.label)
        axes.set_xlabel("epoch")
        axes.set_ylabel("%")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower right")

    return [_svg(partial(draw, analysis=a), f"curves {a.label} {a.run.dataset}") for a in analyses]


def schedules(analyses: Sequence[Analysis]) -> str:
    """The learning rate at the start of each epoch; runs that have the same schedule are one line."""

    def draw(axes: Axes) -> None:
        labels: dict[tuple[float, ...], list[str]] = {}
        for analysis in analyses:
            labels.setdefault(tuple(analysis.run.metrics["learning_rate"][0]), []).append(
                analysis.label
            )
        for n, (rates, names) in enumerate(labels.items()):
            color, style = (FIRST, SECOND, INK)[n % 3], ("-", "--", ":")[n // 3 % 3]
            axes.step(
                range(1, len(rates) + 1),
                rates,
                style,
                where="mid",
                color=color,
                label=", ".join(names),
                marker="o" if len(rates) == 1 else None,
            )
        axes.set_yscale("log" if all(min(rates) > 0 for rates in labels) else "linear")
        axes.set_xlabel("epoch")
        axes.set_title("learning rate")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.figure.legend(loc="outside lower center")

    return _svg(draw, f"schedules {analyses[0].run.dataset}", height=3.4)


def _svg(draw: Callable[[Axes], object], name: str, width: float = 4.6, height: float = 3.0) -> str:
    """The drawing as an `svg` element: text stays text, no date, and no ids but those that it uses itself."""
    with default_settings(SETTINGS | {"svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
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
