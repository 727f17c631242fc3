"""The report's tables."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdrill.config import options
from jaxdrill.evidence.analysis import Analysis
from jaxdrill.evidence.statistics import Summary
from jaxdrill.nn.architecture import layer_table, trace
from jaxdrill.runs.reader import Run

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
            "t" if not column else "p" if any(not isinstance(cell, str) for cell in column)
            else "n" if all(NUMBER.fullmatch(cell) for cell in column) else "t"
            for column in columns
        ]  # fmt: skip


def percent(values: Summary) -> str:
    """Mean and standard deviation in percent."""
    deviation = f" ± {100 * values.deviation:.2f}" if values.deviation is not None else ""
    return f"{100 * values.mean:.2f}{deviation}"


def points(fraction: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return f"{100 * fraction:+.3f}"


def interval(values: Summary) -> str:
    """The interval of the mean in percent."""
    return f"{100 * values.interval[0]:.2f} to {100 * values.interval[1]:.2f}" if values.interval else "-"


def _notebook(analysis: Analysis) -> str:
    return f"{100 * analysis.notebook[0]:.2f} ({analysis.notebook[1] + 1})" if analysis.notebook else "-"


def overview(analyses: Sequence[Analysis]) -> Table:
    """What the report opens with: five columns."""
    rows = []
    for a in analyses:
        change = points(a.change.mean) if a.change else "-"
        verdict = a.change.verdict.split(";")[0].split(" at ")[0] if a.change else "-"
        rows.append([a.label, f"{len(a.run.seeds)}", percent(a.last), change, verdict.removeprefix("single seed: ")])
    return Table(["step", "seeds", f"{analyses[0].run.split} %", "change", "verdict"], rows)


def results(analyses: Sequence[Analysis]) -> Table:
    """One line a run: what the README shows. The time is that of the fastest epoch, for one seed of those trained
    together: the others may have shared the machine with something else."""
    split = analyses[0].run.split
    rows = [
        [a.label, a.run.dataset, f"{a.run.metadata['parameters']:,}", f"{_operations(a.run) / 1e6:.2f}",
         f"{a.run.epochs}", f"{a.run.metrics['seconds'].min():.1f}", f"{len(a.run.seeds)}",
         percent(a.last), interval(a.last), percent(a.best), *([_notebook(a)] if a.has_target else [])]
        for a in analyses
    ]  # fmt: skip
    header = ["step", "data", "parameters", "million operations", "epochs", "s an epoch", "seeds", f"last {split} %",
              "95 % interval", f"best {split} %"]  # fmt: skip
    return Table([*header, "notebook's best % (epoch)"] if analyses[0].has_target else header, rows)


def _operations(run: Run) -> int:
    """Multiply-adds of one image."""
    return trace(run.config.network)[-1].operations


def comparisons(analyses: Sequence[Analysis]) -> Table:
    """Each run against its baseline."""
    rows = []
    for a in analyses:
        if change := a.change:
            span = f"{points(change.interval[0])} to {points(change.interval[1])}" if change.interval else "-"
            ps = [f"{p:.2g}" if p is not None else "-" for p in (change.p_value, change.corrected)]
            rows.append([a.label, change.baseline, f"{change.seeds}", points(change.mean), span, *ps, change.verdict])
    header = ["step", "against", "seeds", "difference, points", "95 % interval", "p", "corrected p", "verdict"]
    return Table(header, rows)


def counts(analyses: Sequence[Analysis]) -> Table:
    """Everything that is counted of each run, a column each."""

    def row(name: str, text: Callable[[Analysis], str]) -> list[str]:
        return [name, *map(text, analyses)]

    def stays(a: Analysis) -> str:
        _, stay, first = a.at_target
        return f"{stay} of {len(a.run.seeds)}" + (f", from {first + 1}" if first is not None else "")

    def below(a: Analysis) -> str:
        return f"{100 * a.notebook[2]:.0f}" if a.notebook and len(a.run.seeds) > 1 else "-"

    split = analyses[0].run.split
    rows = [
        row("seeds", lambda a: f"{len(a.run.seeds)}"),
        row(f"{split} %, last epoch", lambda a: percent(a.last)),
        row("95 % interval of its mean", lambda a: interval(a.last)),
        row(f"{split} %, best epoch (chosen by the {split})", lambda a: percent(a.best)),
        row("95 % interval of its mean", lambda a: interval(a.best)),
        row("train %, last epoch", lambda a: percent(a.train)),
        row(f"train minus {split}, points", lambda a: percent(a.gap)),
        row(
            f"ensemble of the seeds, {split} %", lambda a: f"{100 * a.ensemble:.2f}" if a.ensemble is not None else "-"
        ),
    ]
    if analyses[0].has_target:
        rows += [
            row("notebook's best test % (epoch)", _notebook),
            row("our seeds whose best is below that, %", below),
            row("epochs at 99.4 % or more", lambda a: f"{a.at_target[0]:.3g}"),
            row("seeds that stay there, from epoch (median)", stays),
            row("wrong of the 15 disputed labels", lambda a: f"{a.disputed[0]:.3g}" if a.disputed else "-"),
            row("test % without them", lambda a: f"{100 * a.disputed[1]:.2f}" if a.disputed else "-"),
        ]
    return Table(["", *(a.label for a in analyses)], rows)


def changes(analysis: Analysis) -> Table | None:
    """The fields of the recipe that differ from the baseline; None without one."""
    if analysis.baseline is None:
        return None
    old, new = _fields(analysis.baseline), _fields(analysis.run)
    rows = [[f"`{name}`", old[name], new[name]] for name in new if old[name] != new[name]]
    return Table(["field", analysis.baseline.name, analysis.run.name], rows)


def _fields(run: Run) -> dict[str, str]:
    """Every field of a recipe as text, but those that say what it is for and how often it is run."""
    network = ", ".join(f"{row.layer} to {row.channels}" for row in layer_table(run.config.network))
    fields = {name: f"{value}" for name, _, value in options(run.config) if name not in ("goal", "seed", "seeds")}
    return {"network": network} | fields


def layers(run: Run) -> Table:
    """The network layer by layer, and the totals."""
    network = layer_table(run.config.network)
    rows = [
        [row.name, row.layer, f"{row.side}x{row.side}x{row.channels}", f"{row.receptive_field}x{row.receptive_field}",
         f"{row.parameters:,}", f"{row.operations:,}"]
        for row in network
    ]  # fmt: skip
    totals = [f"{sum(row.parameters for row in network):,}", f"{_operations(run):,}"]
    header = ["name", "layer", "output", "receptive field", "parameters", "multiply-adds an image"]
    return Table(header, [*rows, ["total", "", "", "", *totals]])


def confusion(run: Run) -> Table:
    """How many evaluated images of each label (rows) get each answer (columns), after the last epoch: the mean over the
    seeds."""
    totals = np.zeros((10, 10))
    for predicted in run.predicted:
        np.add.at(totals, (run.labels, predicted), 1)
    mean = totals / len(run.seeds)
    rows = [[f"{label}", *(f"{n:.1f}".removesuffix(".0") if n else "·" for n in row)] for label, row in enumerate(mean)]
    return Table(["label", *map(str, range(10))], rows)


def times(run: Run) -> Table:
    """The seconds of each phase, of all seeds and sessions."""
    seconds = run.metadata["seconds"]
    total = sum(seconds.values())
    rows = [[phase, f"{s:,.1f}", f"{100 * s / total:.1f}"] for phase, s in seconds.items()]
    return Table(["phase", "seconds", "%"], rows)


def sessions(runs: Sequence[Run]) -> Table:
    """By what each run was made."""
    rows = []
    for run in runs:
        for session in (*run.metadata["earlier_sessions"], run.metadata):
            versions = ", ".join(f"{name} {number}" for name, number in session["versions"].items())
            machine = f"{session['processor']}; {len(session['devices'])} x {session['devices'][0].split(' ', 1)[-1]}"
            command, commit = shlex.join(session.get("command", ["-"])), f"{session['git_commit'] or '-'}"
            rows.append([run.name, command, versions, machine, commit.replace("-dirty", "")[:10] + commit[40:]])
    return Table(["step", "command", "versions", "machine", "commit"], rows)
