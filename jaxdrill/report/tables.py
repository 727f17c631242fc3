"""The tables of the report."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxdrill.config.layers import layer_table
from jaxdrill.report.analysis import Analysis, changed_fields
from jaxdrill.report.statistics import MAX_SEEDS, Difference, Summary
from jaxdrill.runs.reader import FinishedRun

NUMBER = re.compile(r"[-+±·\d]([-+±·\d.,%() ]|to|of|from)*|")


@dataclass(frozen=True)
class ReportTable:
    """A table of text cells. `Backticks` in a cell mark code."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def numeric(self) -> list[bool]:
        """Return, for each column, whether the column contains only numbers."""
        columns = [*zip(*self.rows, strict=True)] or [("text",)] * len(self.header)
        return [all(map(NUMBER.fullmatch, column)) for column in columns]


def percent(values: Summary | None) -> str:
    """Format a mean and its standard deviation in percent."""
    if values is None:
        return "-"
    deviation = "" if values.deviation is None else f" ± {100 * values.deviation:.2f}"
    return f"{100 * values.mean:.2f}{deviation}"


def points(fraction: float) -> str:
    """Format a difference of fractions in percentage points, with its sign."""
    return f"{100 * fraction:+.3f}"


def _interval(values: Summary | None) -> str:
    """Format the 95 % interval of a mean in percent."""
    if values is None or values.interval is None:
        return "-"
    return f"{100 * values.interval[0]:.2f} to {100 * values.interval[1]:.2f}"


def _number(value: float | None, style: str, factor: int = 1) -> str:
    """Format a number that may be missing."""
    return "-" if value is None else f"{factor * value:{style}}"


def _notebook(analysis: Analysis) -> str:
    """Format the notebook's best accuracy and its epoch."""
    if analysis.notebook is None:
        return "-"
    return f"{100 * analysis.notebook[0]:.2f} ({analysis.notebook[1] + 1})"


def _table(records: Sequence[Mapping[str, str]]) -> ReportTable:
    """Return a table with one row per record."""
    return ReportTable([*records[0]], [[*record.values()] for record in records])


def summary_table(analyses: Sequence[Analysis]) -> ReportTable:
    """Return the first table of the report: five columns, one row per run."""
    return _table(
        [
            {
                "step": a.label,
                "seeds": f"{len(a.run.seeds)}",
                f"{a.run.split} %": percent(a.last),
                "change": points(a.change.mean) if a.change else "-",
                "verdict": a.change.verdict if a.change else "-",
            }
            for a in analyses
        ]
    )


def results(analyses: Sequence[Analysis]) -> ReportTable:
    """Return the results of each run, one row per run, as the README shows them.

    `s/epoch` is the median over seeds and epochs of the wall time per seed and epoch. It includes
    training and evaluation, but not the time between sessions.
    """
    return _table(
        [
            {
                "step": a.label,
                "data": a.run.dataset,
                "parameters": f"{a.run.metadata['parameters']:,}",
                "MACs (M)": f"{_macs(a.run) / 1e6:.2f}",
                "epochs": f"{a.run.epochs}",
                "s/epoch": f"{np.median(a.run.metrics['seconds']):.1f}",
                "seeds": f"{len(a.run.seeds)}",
                f"{a.run.split} % (last epoch)": percent(a.last),
                "95 % interval": _interval(a.last),
                f"{a.run.split} % (best epoch)": percent(a.best),
            }
            | ({"notebook's best % (epoch)": _notebook(a)} if a.has_target else {})
            for a in analyses
        ]
    )


def _macs(run: FinishedRun) -> int:
    """Return the multiply-accumulate operations per image."""
    return sum(row.macs for row in layer_table(run.config.network))


def comparisons(analyses: Sequence[Analysis], detect: float | None = None) -> ReportTable | None:
    """Return the comparison of each run with its baseline, one row per run that has a baseline.

    Args:
        analyses: the runs.
        detect: difference in percentage points. The table then has a column with the number of
            seeds that detects it.

    Returns:
        The table, or None if no run has a baseline.
    """
    compared = [(a.label, a.change) for a in analyses if a.change]
    tests = max((change.tests for _, change in compared), default=0)
    records = [
        {
            "step": label,
            "baseline": change.baseline,
            "seeds": f"{change.seeds}",
            "difference (percentage points)": points(change.mean),
            "95 % interval": " to ".join(map(points, change.interval or ())) or "-",
            "p": _number(change.p_value, ".2g"),
            f"corrected p ({tests} test{'s' * (tests > 1)})": _number(change.p_holm, ".2g"),
            "smallest detectable (percentage points)": _number(change.detectable, ".3f", 100),
        }
        | (
            {f"seeds to detect {detect:g} percentage points": _seeds(change, detect)}
            if detect
            else {}
        )
        | {"verdict": change.verdict}
        for label, change in compared
    ]
    return _table(records) if records else None


def _seeds(change: Difference, detect: float) -> str:
    """Format the number of seeds that detects a difference of `detect` percentage points."""
    if change.deviation is None:
        return "-"
    needed = change.seeds_to_detect(detect / 100)
    return f"{needed:,}" if needed else f"more than {MAX_SEEDS:,}"


def metric_table(analyses: Sequence[Analysis]) -> ReportTable:
    """Return every metric of each run, one column per run."""
    columns = [_metrics(analysis) for analysis in analyses]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return ReportTable(["", *(analysis.label for analysis in analyses)], rows)


def _metrics(a: Analysis) -> dict[str, str]:
    """Return every metric of a run by its description."""
    split, seeds = a.run.split, len(a.run.seeds)
    metrics = {
        "seeds": f"{seeds}",
        f"{split} %, last epoch": percent(a.last),
        "last epoch: 95 % interval of the mean": _interval(a.last),
        f"{split} %, best epoch (selected on the {split} images)": percent(a.best),
        "best epoch: 95 % interval of the mean": _interval(a.best),
        "train %, last epoch, evaluation mode": percent(a.train),
        f"train minus {split}, percentage points": percent(a.gap),
        f"train minus {split}: 95 % interval of the mean": _interval(a.gap),
        f"ensemble of the seeds, {split} %": _number(a.ensemble, ".2f", 100),
    }
    if not a.has_target:
        return metrics
    count, stay, first = a.at_target
    wrong, others = a.disputed or (None, None)
    below = a.notebook[2] if a.notebook and seeds > 1 else None
    since = "" if first is None else f", from {first + 1}"
    return metrics | {
        "notebook's best test % (epoch)": _notebook(a),
        "seeds whose best is below the notebook's best, %": _number(below, ".0f", 100),
        "epochs at 99.4 % or more": f"{count:.3g}",
        "seeds whose last three epochs or more are at 99.4 %, from epoch (median)": (
            f"{stay} of {seeds}{since}"
        ),
        "errors on the 15 disputed labels": _number(wrong, ".3g"),
        "test % without the disputed labels": _number(others, ".2f", 100),
    }


def config_diff(analysis: Analysis) -> ReportTable | None:
    """Return the recipe fields that differ from the baseline; None without a baseline."""
    if analysis.baseline is None:
        return None
    changed = changed_fields(analysis.baseline.config, analysis.run.config)
    rows = [[f"`{name}`", *values] for name, values in changed.items()]
    return ReportTable(["field", "baseline", "this run"], rows)


def layers(run: FinishedRun) -> ReportTable:
    """Return the layers of the network and their totals."""
    network = layer_table(run.config.network)
    records = [
        {
            "name": row.name,
            "layer": row.layer,
            "output": f"{row.side}x{row.side}x{row.channels}",
            "receptive field": f"{row.receptive_field}x{row.receptive_field}",
            "parameters": f"{row.parameters:,}",
            "MACs per image": f"{row.macs:,}",
        }
        for row in network
    ]
    total = dict.fromkeys(records[0], "") | {
        "name": "total",
        "parameters": f"{sum(row.parameters for row in network):,}",
        "MACs per image": f"{_macs(run):,}",
    }
    return _table([*records, total])


def confusion(run: FinishedRun) -> ReportTable:
    """Return the confusion matrix after the last epoch, averaged over the seeds.

    Rows are labels, columns are predictions.
    """
    counts = np.zeros((10, 10))
    np.add.at(counts, (run.labels, run.predicted), 1)
    rows = [
        [f"{label}", *(f"{n:.1f}".removesuffix(".0") if n else "·" for n in row)]
        for label, row in enumerate(counts / len(run.seeds))
    ]
    return ReportTable(["label", *map(str, range(10))], rows)


def times(run: FinishedRun) -> ReportTable:
    """Return the seconds of each phase, summed over all seeds and sessions."""
    seconds = run.metadata["seconds"]
    total = sum(seconds.values()) or 1.0
    rows = [[phase, f"{s:,.1f}", f"{100 * s / total:.1f}"] for phase, s in seconds.items()]
    return ReportTable(["phase", "seconds", "%"], rows)


def sessions(runs: Sequence[FinishedRun]) -> ReportTable:
    """Return the command, versions, machine and commit of each session of the runs."""
    records = []
    for run in runs:
        for session in (*run.metadata["earlier_sessions"], run.metadata):
            devices, commit = session["devices"], session["git_commit"] or "-"
            device = devices[0].split(" ", 1)[-1]
            records.append(
                {
                    "step": run.name,
                    "command": shlex.join(session.get("command", ["-"])),
                    "versions": ", ".join(f"{k} {v}" for k, v in session["versions"].items()),
                    "machine": f"{session['processor']}; {len(devices)} x {device}",
                    "commit": commit.replace("-dirty", "")[:10] + commit[40:],
                }
            )
    return _table(records)
