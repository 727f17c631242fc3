"""The report's tables."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdrill.config.layers import infer_shapes, layer_table
from jaxdrill.report.analysis import Analysis, changed_fields
from jaxdrill.report.statistics import MAX_SEEDS, Difference, Summary
from jaxdrill.runs.reader import FinishedRun

NUMBER = re.compile(r"[-+±·\d]([-+±·\d.,%() ]|to|of|from)*|")


@dataclass(frozen=True)
class Table:
    """Cells are text, in which `backticks` mark code, or pictures."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @property
    def kinds(self) -> list[str]:
        """Of each column: `n` numbers, `p` pictures, `t` other text."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.header))]
        return [
            "t"
            if not column
            else "p"
            if any(not isinstance(cell, str) for cell in column)
            else "n"
            if all(NUMBER.fullmatch(cell) for cell in column)
            else "t"
            for column in columns
        ]


def percent(values: Summary) -> str:
    """Mean and standard deviation in percent."""
    deviation = f" ± {100 * values.deviation:.2f}" if values.deviation is not None else ""
    return f"{100 * values.mean:.2f}{deviation}"


def points(fraction: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return f"{100 * fraction:+.3f}"


def interval(values: Summary) -> str:
    """The interval of the mean in percent."""
    return (
        f"{100 * values.interval[0]:.2f} to {100 * values.interval[1]:.2f}"
        if values.interval
        else "-"
    )


def _notebook(analysis: Analysis) -> str:
    return (
        f"{100 * analysis.notebook[0]:.2f} ({analysis.notebook[1] + 1})"
        if analysis.notebook
        else "-"
    )


def overview(analyses: Sequence[Analysis]) -> Table:
    """Summarise each run in five columns, which the report opens with."""
    rows = []
    for a in analyses:
        change, verdict = (points(a.change.mean), a.change.verdict) if a.change else ("-", "-")
        rows.append([a.label, f"{len(a.run.seeds)}", percent(a.last), change, verdict])
    return Table(["step", "seeds", f"{analyses[0].run.split} %", "change", "verdict"], rows)


def results(analyses: Sequence[Analysis]) -> Table:
    """List the results of each run, as the README shows them.

    The time is the median over seeds and epochs of the wall time per seed and epoch, training and evaluation, without
    the pauses between sessions.
    """
    split = analyses[0].run.split
    rows = [
        [
            a.label,
            a.run.dataset,
            f"{a.run.metadata['parameters']:,}",
            f"{_operations(a.run) / 1e6:.2f}",
            f"{a.run.epochs}",
            f"{np.median(a.run.metrics['seconds']):.1f}",
            f"{len(a.run.seeds)}",
            percent(a.last),
            interval(a.last),
            percent(a.best),
            *([_notebook(a)] if a.has_target else []),
        ]
        for a in analyses
    ]
    header = [
        "step",
        "data",
        "parameters",
        "MACs (M)",
        "epochs",
        "s/epoch",
        "seeds",
        f"last {split} %",
        "95 % interval",
        f"best {split} %",
    ]
    return Table([*header, "notebook's best % (epoch)"] if analyses[0].has_target else header, rows)


def _operations(run: FinishedRun) -> int:
    """Return the multiply-adds per image."""
    return infer_shapes(run.config.network)[-1].macs


def comparisons(analyses: Sequence[Analysis], detect: float | None = None) -> Table | None:
    """Compare each run with its baseline; None if no run has one here.

    `detect` is a difference in percentage points; it adds a column with the number of seeds that detects it.
    """
    changes = [(a.label, a.change) for a in analyses if a.change]
    if not changes:
        return None
    rows = []
    for label, c in changes:
        span = f"{points(c.interval[0])} to {points(c.interval[1])}" if c.interval else "-"
        ps = [f"{p:.2g}" if p is not None else "-" for p in (c.p_value, c.p_holm)]
        detectable = "-" if c.detectable is None else f"{100 * c.detectable:.3f}"
        needed = [] if detect is None else [_seeds_to_detect(c, detect / 100)]
        rows.append(
            [
                label,
                c.baseline,
                f"{c.seeds}",
                points(c.mean),
                span,
                *ps,
                detectable,
                *needed,
                c.verdict,
            ]
        )
    tests = max(c.tests for _, c in changes)
    corrected = f"corrected p ({tests} test{'s' * (tests > 1)})"
    needed = [] if detect is None else [f"seeds to detect {detect:g} points"]
    header = [
        "step",
        "against",
        "seeds",
        "difference, points",
        "95 % interval",
        "p",
        corrected,
        "smallest detectable, points",
        *needed,
        "verdict",
    ]
    return Table(header, rows)


def _seeds_to_detect(change: Difference, difference: float) -> str:
    if change.deviation is None:
        return "-"
    return (
        f"{needed:,}"
        if (needed := change.seeds_to_detect(difference))
        else f"more than {MAX_SEEDS:,}"
    )


def counts(analyses: Sequence[Analysis]) -> Table:
    """List every metric of each run, one column per run."""

    def row(name: str, text: Callable[[Analysis], str]) -> list[str]:
        return [name, *map(text, analyses)]

    def stays(a: Analysis) -> str:
        _, stay, first = a.at_target
        return f"{stay} of {len(a.run.seeds)}" + (
            f", from {first + 1}" if first is not None else ""
        )

    def below(a: Analysis) -> str:
        return f"{100 * a.notebook[2]:.0f}" if a.notebook and len(a.run.seeds) > 1 else "-"

    split = analyses[0].run.split
    rows = [
        row("seeds", lambda a: f"{len(a.run.seeds)}"),
        row(f"{split} %, last epoch", lambda a: percent(a.last)),
        row("95 % interval of its mean", lambda a: interval(a.last)),
        row(f"{split} %, best epoch (selected on the {split} images)", lambda a: percent(a.best)),
        row("95 % interval of its mean", lambda a: interval(a.best)),
        row("train %, last epoch, evaluation mode", lambda a: percent(a.train) if a.train else "-"),
        row(f"train minus {split}, points", lambda a: percent(a.gap) if a.gap else "-"),
        row("95 % interval of its mean", lambda a: interval(a.gap) if a.gap else "-"),
        row(
            f"ensemble of the seeds, {split} %",
            lambda a: f"{100 * a.ensemble:.2f}" if a.ensemble is not None else "-",
        ),
    ]
    if analyses[0].has_target:
        rows += [
            row("notebook's best test % (epoch)", _notebook),
            row("our seeds whose best is below that, %", below),
            row("epochs at 99.4 % or more", lambda a: f"{a.at_target[0]:.3g}"),
            row(
                "seeds that stay there for their last three epochs or more, from epoch (median)",
                stays,
            ),
            row(
                "wrong of the 15 disputed labels",
                lambda a: f"{a.disputed[0]:.3g}" if a.disputed else "-",
            ),
            row(
                "test % without them", lambda a: f"{100 * a.disputed[1]:.2f}" if a.disputed else "-"
            ),
        ]
    return Table(["", *(a.label for a in analyses)], rows)


def changes(analysis: Analysis) -> Table | None:
    """List the fields of the recipe that differ from the baseline; None without a baseline."""
    if analysis.baseline is None:
        return None
    changed = changed_fields(analysis.run, analysis.baseline)
    return Table(
        ["field", "baseline", "this run"],
        [[f"`{name}`", *values] for name, values in changed.items()],
    )


def layers(run: FinishedRun) -> Table:
    """The network layer by layer, and the totals."""
    network = layer_table(run.config.network)
    rows = [
        [
            row.name,
            row.layer,
            f"{row.side}x{row.side}x{row.channels}",
            f"{row.receptive_field}x{row.receptive_field}",
            f"{row.parameters:,}",
            f"{row.macs:,}",
        ]
        for row in network
    ]
    totals = [f"{sum(row.parameters for row in network):,}", f"{_operations(run):,}"]
    header = ["name", "layer", "output", "receptive field", "parameters", "multiply-adds an image"]
    return Table(header, [*rows, ["total", "", "", "", *totals]])


def confusion(run: FinishedRun) -> Table:
    """How many evaluated images of each label (rows) get each answer (columns), after the last epoch: the mean over the
    seeds."""
    totals = np.zeros((10, 10))
    for predicted in run.predicted:
        np.add.at(totals, (run.labels, predicted), 1)
    mean = totals / len(run.seeds)
    rows = [
        [f"{label}", *(f"{n:.1f}".removesuffix(".0") if n else "·" for n in row)]
        for label, row in enumerate(mean)
    ]
    return Table(["label", *map(str, range(10))], rows)


def times(run: FinishedRun) -> Table:
    """The seconds of each phase, of all seeds and sessions."""
    seconds = run.metadata["seconds"]
    total = sum(seconds.values()) or 1.0
    rows = [[phase, f"{s:,.1f}", f"{100 * s / total:.1f}"] for phase, s in seconds.items()]
    return Table(["phase", "seconds", "%"], rows)


def sessions(runs: Sequence[FinishedRun]) -> Table:
    """By what each run was made."""
    rows = []
    for run in runs:
        for session in (*run.metadata["earlier_sessions"], run.metadata):
            versions = ", ".join(f"{name} {number}" for name, number in session["versions"].items())
            machine = f"{session['processor']}; {len(session['devices'])} x {session['devices'][0].split(' ', 1)[-1]}"
            command, commit = (
                shlex.join(session.get("command", ["-"])),
                f"{session['git_commit'] or '-'}",
            )
            rows.append(
                [
                    run.name,
                    command,
                    versions,
                    machine,
                    commit.replace("-dirty", "")[:10] + commit[40:],
                ]
            )
    return Table(["step", "command", "versions", "machine", "commit"], rows)
