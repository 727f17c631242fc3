"""The report's tables and sentences, from the evidence of the runs."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxdrill import models
from jaxdrill.config import Dropout, options
from jaxdrill.document import Table
from jaxdrill.folder import Run
from jaxdrill.statistics import Evidence, Summary


def drill(found: Sequence[Evidence]) -> Table:
    """Target, result and analysis of each step, as the original has them."""
    rows = []
    for each in found:
        result = (
            f"{each.run.about['parameters']:,} parameters. Train {_percent(each.train)} %. Test {_percent(each.last)} %"
        )
        rows.append(
            [each.run.name, each.run.config.goal, f"{result}; best epoch {_percent(each.best)} %.", analysis(each)]
        )
    return Table(["step", "target", "result", "analysis"], rows)


def analysis(each: Evidence) -> str:
    """What the numbers of a run say, in words."""
    change, gap, epochs = each.change, 100 * each.gap.mean, each.run.epochs
    parts = []
    if change is None:
        parts.append(
            f"No seed in common with {each.before.name}." if each.before else "There is no step before it here."
        )
    else:
        interval = f" ({_points(change.interval[0])} to {_points(change.interval[1])})" if change.interval else ""
        parts.append(f"{_points(change.mean)} points{interval} against {change.before}: {change.verdict}.")
    where = f"{abs(gap):.2f} points {'above' if gap > 0 else 'below'} the test"
    parts.append(f"Training ends {where}{': it overfits' if gap >= 0.1 else ', no overfitting'}.")
    count, stay, first = each.at_target
    if each.run.config.data != "mnist":
        pass
    elif count:
        held = f"{stay} of {len(each.run.seeds)} seed(s) stay there"
        held += f" (from epoch {first}, the median)" if stay else ""
        parts.append(f"99.4 % or more in {count:.3g} of {epochs} epochs; {held}.")
    else:
        parts.append("No seed reaches 99.4 % in any epoch.")
    if each.notebook:
        best, epoch, share = each.notebook
        ours = f"the best epoch of {100 * share:.0f} % of our seeds is below that"
        parts.append(f"The notebook's best is {100 * best:.2f} % (epoch {epoch}); {ours}.")
    if len(each.run.seeds) == 1:
        parts.append("One seed: neither its spread nor a difference can be concluded.")
    return " ".join(parts)


def drill_table(found: Sequence[Evidence]) -> Table:
    """One line a run: what the README shows."""
    rows = []
    for each in found:
        rows.append([
            each.run.name, each.run.config.data, f"{each.run.about['parameters']:,}", f"{each.run.epochs}",
            f"{len(each.run.seeds)}", _percent(each.last), _interval(each.last), _percent(each.best), _notebook(each),
        ])  # fmt: skip
    header = ["step", "data", "parameters", "epochs", "seeds", "last test %", "95 % interval", "best test %",
              "notebook's best % (epoch)"]  # fmt: skip
    return Table(header, rows)


def steps_table(found: Sequence[Evidence]) -> Table:
    """Everything that is counted of each run, a column each."""

    def row(name: str, text: Callable[[Evidence], str]) -> list[str]:
        return [name, *map(text, found)]

    def stays(each: Evidence) -> str:
        _, stay, first = each.at_target
        return f"{stay} of {len(each.run.seeds)}" + (f", from {first}" if stay else "")

    def share_below(each: Evidence) -> str:
        return f"{100 * each.notebook[2]:.0f}" if each.notebook else "-"

    rows = [
        row("seeds", lambda each: f"{len(each.run.seeds)}"),
        row("test %, last epoch", lambda each: _percent(each.last)),
        row("95 % interval of its mean", lambda each: _interval(each.last)),
        row("test %, best epoch (chosen by the test)", lambda each: _percent(each.best)),
        row("95 % interval of its mean", lambda each: _interval(each.best)),
        row("train %, last epoch", lambda each: _percent(each.train)),
        row("train minus test, points", lambda each: _percent(each.gap)),
        row("notebook's best test % (epoch)", _notebook),
        row("our seeds whose best is below that, %", share_below),
        row(
            "ensemble of the seeds, test %", lambda each: "-" if each.ensemble is None else f"{100 * each.ensemble:.2f}"
        ),
    ]
    if found[0].run.config.data == "mnist":
        rows += [
            row("epochs at 99.4 % or more", lambda each: f"{each.at_target[0]:.3g}"),
            row("seeds that stay there, from epoch (median)", stays),
            row("wrong of the 15 disputed labels", lambda each: f"{each.disputed[0]:.3g}" if each.disputed else "-"),
            row("test % without them", lambda each: f"{100 * each.disputed[1]:.2f}" if each.disputed else "-"),
        ]
    return Table(["", *(each.run.name for each in found)], rows)


def comparison_table(found: Sequence[Evidence]) -> Table:
    """Each run against the one before it."""
    rows = []
    for each in found:
        if change := each.change:
            interval = f"{_points(change.interval[0])} to {_points(change.interval[1])}" if change.interval else "-"
            ps = [f"{p:.2g}" if p is not None else "-" for p in (change.p_value, change.corrected)]
            rows.append(
                [each.run.name, change.before, f"{change.seeds}", _points(change.mean), interval, *ps, change.verdict]
            )
    header = ["step", "against", "seeds", "difference, points", "95 % interval", "p", "corrected p", "verdict"]
    return Table(header, rows)


def _percent(values: Summary) -> str:
    deviation = f" ± {100 * values.deviation:.2f}" if values.deviation is not None else ""
    return f"{100 * values.mean:.2f}{deviation}"


def _interval(values: Summary) -> str:
    return f"{100 * values.interval[0]:.2f} to {100 * values.interval[1]:.2f}" if values.interval else "-"


def _notebook(each: Evidence) -> str:
    return f"{100 * each.notebook[0]:.2f} ({each.notebook[1]})" if each.notebook else "-"


def _points(share: float) -> str:
    return f"{100 * share:+.3f}"


def changes_table(each: Evidence) -> Table | str:
    """The fields of the recipe that differ from the run before."""
    if each.before is None:
        return "It is the first here."
    old, new = _fields(each.before), _fields(each.run)
    rows = [[f"`{name}`", old[name], new[name]] for name in new if old[name] != new[name]]
    return Table(["field", each.before.name, each.run.name], rows)


def _fields(run: Run) -> dict[str, str]:
    """Every field of a recipe as text, but those that say what it is for and how often it is run."""
    layers = models.layer_table(dataclasses.replace(run.config, dropout=Dropout()))
    network = ", ".join(f"{layer.layer} to {layer.channels}" for layer in layers)
    fields = {name: f"{value}" for name, _, value in options(run.config) if name not in ("goal", "seed", "seeds")}
    return {"network": network} | fields


def layers_table(run: Run) -> Table:
    """The network layer by layer, and the totals."""
    layers = models.layer_table(run.config)
    rows = [
        [layer.layer, f"{layer.side}x{layer.side}x{layer.channels}", f"{layer.receptive_field}x{layer.receptive_field}",
         f"{layer.parameters:,}", f"{layer.operations:,}"]
        for layer in layers
    ]  # fmt: skip
    totals = [f"{sum(layer.parameters for layer in layers):,}", f"{sum(layer.operations for layer in layers):,}"]
    header = ["layer", "output", "receptive field", "parameters", "multiply-adds an image"]
    return Table(header, [*rows, ["total", "", "", *totals]])


def confusion_table(run: Run) -> Table:
    """How many test images of each label (rows) get each answer (columns), after the last epoch, a seed's mean."""
    counts = np.zeros((10, 10))
    for predicted in run.predicted:
        np.add.at(counts, (run.labels, predicted), 1)
    mean = counts / len(run.seeds)
    rows = [[f"{label}", *(f"{n:.1f}".removesuffix(".0") if n else "·" for n in row)] for label, row in enumerate(mean)]
    return Table(["label", *map(str, range(10))], rows)


def time_table(run: Run) -> Table:
    """The seconds of each phase, of all seeds and sessions."""
    seconds = run.about["seconds"]
    total = sum(seconds.values())
    return Table(
        ["phase", "seconds", "%"], [[phase, f"{s:,.1f}", f"{100 * s / total:.1f}"] for phase, s in seconds.items()]
    )


def sessions_table(runs: Sequence[Run]) -> Table:
    """By what each run was made."""
    rows = []
    for run in runs:
        for session in (*run.about["earlier_sessions"], run.about):
            versions = ", ".join(f"{name} {number}" for name, number in session["versions"].items())
            machine = f"{session['processor']}; {len(session['devices'])} x {session['devices'][0].split(' ', 1)[-1]}"
            command, commit = " ".join(run.about["command"]), f"{session['git_commit'] or '-'}"
            rows.append([run.name, command, versions, machine, commit.replace("-dirty", "")[:10] + commit[40:]])
    return Table(["step", "command", "versions", "machine", "commit"], rows)
