"""What the numbers say, in sentences."""

from collections.abc import Sequence

from jaxdrill.evidence.analysis import Analysis
from jaxdrill.evidence.tables import percent, points
from jaxdrill.runs.reader import Run


def verdict(analyses: Sequence[Analysis]) -> str:
    """One sentence: which steps helped, and how well the best one does."""
    best = max(analyses, key=lambda a: a.last.mean)
    seeds = "a single seed" if len(best.run.seeds) == 1 else f"{len(best.run.seeds)} seeds"
    level = f"{percent(best.last)} % of the {len(best.run.labels):,} {best.run.split} images right after the last epoch"
    if len(analyses) == 1:
        return f"{best.label} gets {level} ({seeds})."
    verdicts = {a.label: a.change.verdict for a in analyses if a.change}
    parts = []
    for word in ("helped", "hurt"):
        if names := [name for name, found in verdicts.items() if found == word]:
            parts.append(f"{', '.join(names)} {word}")
    if unknown := sum(found not in ("helped", "hurt") for found in verdicts.values()):
        parts.append(f"for {unknown} of {len(verdicts)} changes the seeds show no effect")
    opening = "; ".join(parts) if parts else "No two runs here can be compared"
    return f"{opening[0].upper()}{opening[1:]}. The highest mean is that of {best.label}: {level} ({seeds})."


def describe(analysis: Analysis) -> str:
    """What the numbers of a run say."""
    run, change, gap = analysis.run, analysis.change, 100 * analysis.gap.mean
    single, parts = len(run.seeds) == 1, []
    if change is None:
        baseline = analysis.baseline
        parts.append(f"No seed in common with {baseline.name}." if baseline else "There is no run before it here.")
    else:
        span = f" ({points(change.interval[0])} to {points(change.interval[1])})" if change.interval else ""
        parts.append(f"{points(change.mean)} points{span} against {change.baseline}: {change.verdict}.")
    where = f"{abs(gap):.2f} points {'above' if gap > 0 else 'below'} the {run.split}"
    parts.append(f"Training ends {where}{'' if single else ': it overfits' if gap >= 0.1 else ', no overfitting'}.")
    if analysis.has_target:
        parts.append(_target(analysis))
    if analysis.notebook:
        best, epoch, fraction = analysis.notebook
        ours = "" if single else f"; the best epoch of {100 * fraction:.0f} % of our seeds is below that"
        parts.append(f"The notebook's best is {100 * best:.2f} % (epoch {epoch + 1}){ours}.")
    if single:
        parts.append("Single seed: neither its spread nor a difference can be concluded.")
    return " ".join(parts)


def _target(analysis: Analysis) -> str:
    """How often, and from when on, 99.4 % is reached."""
    count, stay, first = analysis.at_target
    seeds = len(analysis.run.seeds)
    if not count:
        return "99.4 % is reached in no epoch." if seeds == 1 else "No seed reaches 99.4 % in any epoch."
    text = f"99.4 % or more in {count:.3g} of {analysis.run.epochs} epochs"
    held = "" if seeds == 1 else f"; {stay} of {seeds} seeds stay there"
    since = f" (from epoch {first + 1}, the median)" if held and first is not None else ""
    return f"{text}{held}{since}."


def caveats(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before comparing runs of one dataset, a line each, naming the folder."""
    lines, most = [], max(len(run.seeds) for run in runs)
    for run in runs:
        if len(run.seeds) == 1:
            why = "its spread is not known, and no difference can be concluded from it"
            lines.append(f"{run.folder} has a single seed: {why}.")
        elif len(run.seeds) < most:
            lines.append(f"{run.folder} has {len(run.seeds)} seeds, others {most}: compared over those that both have.")
        if run.left_out:
            seeds = ", ".join(map(str, run.left_out))
            lines.append(f"{run.folder} holds seed(s) {seeds} with another number of epochs, which are left out.")
        made_by = ("versions", "devices", "processor", "git_commit")
        if any(each.get(key) != run.metadata[key] for each in run.metadata["earlier_sessions"] for key in made_by):
            lines.append(f"{run.folder} was trained in sessions of different versions or machines (last section).")
    if len({run.epochs for run in runs}) > 1:
        lines.append("The runs have different numbers of epochs: each is taken after its own last one.")
    if bare := ", ".join(f"{run.folder}" for run in runs if not run.images):
        lines.append(f"No images.npz is in {bare}: pictures of digits are left out.")
    if len({str([run.metadata[key] for key in ("versions", "devices", "processor")]) for run in runs}) > 1:
        lines.append("The runs were made by different versions or machines (last section).")
    return lines
