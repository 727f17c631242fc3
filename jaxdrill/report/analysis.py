"""What the seeds of each run show, and whether its step helped. Accuracies are fractions in 0..1."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median_low

import numpy as np
from scipy import stats

from jaxdrill.config import options, recipe_folder, resolve, steps
from jaxdrill.config.config import Config
from jaxdrill.config.layers import layer_table
from jaxdrill.report.statistics import (
    Difference,
    Summary,
    correct,
    difference,
    epochs_at_target,
    summary,
)
from jaxdrill.runs.reader import FinishedRun

# The test labels that most people reject, by index from 0: Northcutt, Athalye and Mueller, "Pervasive label errors in
# test sets destabilize machine learning benchmarks", 2021 (github.com/cleanlab/label-errors, mnist_mturk.json).
DISPUTED = [947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937, 6651, 6783, 8527, 9679, 9729]


def notebook(name: str, epochs: int) -> list[float]:
    """The test accuracies that the original notebook of a step printed, of as many epochs; none if it has none."""
    table = tomllib.loads((recipe_folder() / "notebook_results.toml").read_text("utf-8"))
    return [percent / 100 for percent in table.get(name, [])[:epochs]]


@dataclass(frozen=True)
class Analysis:
    """A run, and what its seeds show. Accuracies without a split are those of the run's evaluated images."""

    run: FinishedRun
    label: str  # the recipe's name, with folder and differing fields if several runs have that name
    baseline: FinishedRun | None  # the run that it is compared with
    change: Difference | None  # from the baseline; None without one, or without a common seed

    @cached_property
    def last(self) -> Summary:
        """Accuracy after the last epoch."""
        return summary(self.run.metrics["accuracy"][:, -1])

    @cached_property
    def best(self) -> Summary:
        """Accuracy of each seed's best epoch. Optimistically biased: the epoch is selected on the evaluated images."""
        return summary(self.run.metrics["accuracy"].max(axis=1))

    @cached_property
    def train(self) -> Summary | None:
        """Accuracy on training images in evaluation mode, after the last epoch; None if it was not measured."""
        return None if self.run.train_evaluation is None else summary(self.run.train_evaluation)

    @cached_property
    def gap(self) -> Summary | None:
        """Training minus evaluated accuracy, both in evaluation mode after the last epoch; None if not measured."""
        if self.run.train_evaluation is None:
            return None
        return summary(self.run.train_evaluation - self.run.metrics["accuracy"][:, -1], low=-1)

    @property
    def has_target(self) -> bool:
        """Whether the drill's target, the notebooks' results and the disputed labels are of the evaluated images."""
        return self.run.dataset == "mnist"

    @cached_property
    def at_target(self) -> tuple[float, int, int | None]:
        """The mean number of epochs at 99.4 % or more, the number of seeds that stay there (`epochs_at_target`), and
        the lower median of the first of these epochs, from 0."""
        counted = [epochs_at_target(curve) for curve in self.run.metrics["accuracy"]]
        stay = [first for _, first in counted if first is not None]
        return (
            float(np.mean([count for count, _ in counted])),
            len(stay),
            median_low(stay) if stay else None,
        )

    @cached_property
    def notebook(self) -> tuple[float, int, float] | None:
        """The notebook's best test accuracy over as many epochs, its epoch from 0, and the fraction of our seeds whose
        own best is lower (equal ones count half)."""
        curve = notebook(self.run.name, self.run.epochs) if self.has_target else []
        if not curve:
            return None
        ours = np.round(self.run.metrics["accuracy"].max(axis=1), 6)
        best = max(curve)
        return (
            best,
            curve.index(best),
            float(stats.percentileofscore(ours, round(best, 6), kind="mean")) / 100,
        )

    @cached_property
    def ensemble(self) -> float | None:
        """Accuracy of the seeds' averaged probabilities; None of a single seed."""
        if len(self.run.seeds) == 1:
            return None
        return float(np.mean(self.probabilities.argmax(axis=-1) == self.run.labels))

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Of each evaluated image and class, the mean over the seeds, float64[N, 10]."""
        return self.run.probabilities.astype(np.float64).mean(axis=0)

    @cached_property
    def disputed(self) -> tuple[float, float] | None:
        """Mean number of the disputed labels that a seed contradicts, and its accuracy on the other images; MNIST's
        test only."""
        if not self.has_target or len(self.run.labels) <= max(DISPUTED):
            return None
        right = self.run.predicted == self.run.labels
        return float((~right[:, DISPUTED]).sum(axis=1).mean()), float(
            np.delete(right, DISPUTED, axis=1).mean()
        )


def analyze(runs: Sequence[FinishedRun]) -> list[Analysis]:
    """Analyse runs that were evaluated on the same images, and compare each with its baseline.

    The baseline of a run is the recipe that it extends; among several runs of that recipe, one of as many epochs if
    there is one, else the first. Further runs of one recipe, with other flags or epochs, are compared with the first
    of them. Other runs are not compared: two unrelated recipes differ in too much to name a cause.
    """
    firsts = {name: _reference(members) for name, members in _by_name(runs).items()}
    labels = _labels(runs)
    baselines: list[FinishedRun | None] = []
    differences: list[Difference | None] = []
    for run in runs:
        baseline = firsts[run.name]
        if run is baseline:
            extended = [
                other
                for other in runs
                if other.name == run.config.extends and other.name != run.name
            ]
            alike = [other for other in extended if other.epochs == run.epochs]
            baseline = next(iter(alike), firsts.get(run.config.extends) if extended else None)
        elif not changed_fields(run, baseline):
            baseline = (
                None  # a repetition of the same recipe: nothing differs that could have helped
            )
        baselines.append(baseline)
        common = sorted(set(run.seeds) & set(baseline.seeds)) if baseline else []
        differences.append(
            difference(labels[id(baseline)], _last(baseline, common), _last(run, common))
            if baseline and common
            else None
        )
    each = zip(runs, baselines, correct(differences), strict=True)
    return [Analysis(run, labels[id(run)], baseline, change) for run, baseline, change in each]


def group_runs(runs: Sequence[FinishedRun]) -> list[list[Analysis]]:
    """Analyse runs in groups that were evaluated on the same images, in the order of the groups' first runs."""
    groups: list[list[FinishedRun]] = []
    for run in runs:
        group = next((group for group in groups if group[0].same_images(run)), None)
        if group is None:
            groups.append(group := [])
        group.append(run)
    return [analyze(group) for group in groups]


def changed_fields(run: FinishedRun, baseline: FinishedRun) -> dict[str, tuple[str, str]]:
    """Return the recipe's fields that differ, by dotted name: the value in `baseline`, and in `run`.

    What a recipe is for, its seeds, and how it is executed do not count.
    """
    old, new = _fields(baseline.config), _fields(run.config)
    return {name: (old[name], new[name]) for name in new if old[name] != new[name]}


def _fields(config: Config) -> dict[str, str]:
    """Return every field of a recipe that can change its results, as text."""
    network = ", ".join(f"{row.layer} to {row.channels}" for row in layer_table(config.network))
    return {"network": network} | {
        name: f"{value}"
        for name, _, value in options(config)
        if name not in ("goal", "seed", "seeds", "data", "evaluate_on")
        and not name.startswith("execution.")
    }


def _by_name(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    names = dict.fromkeys(run.name for run in runs)
    return {name: [run for run in runs if run.name == name] for name in names}


def _reference(runs: Sequence[FinishedRun]) -> FinishedRun:
    """Return the run of a recipe that the others are compared with.

    It is the one with the fewest fields that differ from the built-in recipe of that name, if there is one.
    """
    if len(runs) == 1 or runs[0].name not in steps():
        return runs[0]
    plain = _fields(resolve(runs[0].name))
    return min(
        runs,
        key=lambda run: sum(plain[name] != value for name, value in _fields(run.config).items()),
    )


def _labels(runs: Sequence[FinishedRun]) -> dict[int, str]:
    """Return a label of each run by its id: the recipe's name, and what tells runs of one recipe apart.

    That is their folder, unless it is named after the recipe, and the fields that differ among them.
    """
    labels = {}
    for name, members in _by_name(runs).items():
        if len(members) == 1:
            labels[id(members[0])] = name
            continue
        texts = [_fields(run.config) for run in members]
        differing = [field for field in texts[0] if len({text[field] for text in texts}) > 1]
        for run, text in zip(members, texts, strict=True):
            folder = (
                [run.folder.name]
                if run.folder.name not in (name, f"{name}_{run.config.data}")
                else []
            )
            if len(members) > len({other.folder.name for other in members}):
                folder = [f"{run.folder}"]  # folders of one name in different places
            values = [
                f"{run.metadata['parameters']:,} parameters"
                if field == "network"
                else f"{field} {text[field]}"
                for field in differing
            ]
            told = [", ".join(part) for part in (folder, values) if part]
            labels[id(run)] = f"{name} ({': '.join(told)})" if told else name
    return labels


def _last(run: FinishedRun, seeds: Sequence[int]) -> np.ndarray:
    """Return the last accuracies of these seeds, float64[S]."""
    return run.metrics["accuracy"][[run.seeds.index(seed) for seed in seeds], -1]
