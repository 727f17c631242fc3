"""What the seeds of runs show."""

import numpy as np
import pytest
from conftest import ROOT
from runs_on_disk import write_run

from jaxdrill.evidence import analysis
from jaxdrill.runs.reader import read, read_all


def evidence_of(tmp_path, **curves):
    """Of runs with these test accuracies: step_2={seed: [accuracy, ...]}."""
    runs = [write_run(tmp_path / name, name.removeprefix("step_"), each) for name, each in curves.items()]
    return analysis.analyze([read(run) for run in runs])


def test_evidence_of_a_run(tmp_path):
    curves = {1: [0.992, 0.995, 0.994], 2: [0.99, 0.991, 0.992], 3: [0.996, 0.9935, 0.996]}
    (found,) = evidence_of(tmp_path, step_2=curves)
    assert found.last.mean == pytest.approx((0.994 + 0.992 + 0.996) / 3)
    assert found.best.mean == pytest.approx((0.995 + 0.992 + 0.996) / 3)
    assert found.train.mean == pytest.approx(0.99) and found.gap.mean == pytest.approx(0.99 - 0.994)
    assert found.at_target == (pytest.approx((2 + 0 + 2) / 3), 2, 1)
    assert (found.baseline, found.change) == (None, None)
    # The notebook's best of its first three epochs is 98.85 % (epoch 2), below all of ours.
    assert found.notebook == (pytest.approx(0.9885), 2, 0.0)


def test_where_the_notebook_falls(tmp_path):
    below, equal, above = [0.9, 0.9, 0.988], [0.9, 0.9885, 0.9], [0.9, 0.9, 0.989]
    (found,) = evidence_of(tmp_path, step_2={1: below, 2: equal, 3: above, 4: above})
    assert found.notebook[2] == pytest.approx(1.5 / 4)
    (none,) = evidence_of(tmp_path, step_5_exponential={1: above})
    assert none.notebook is None


def test_the_ensemble_averages_probabilities(tmp_path):
    """Of two seeds that disagree the surer one wins; the average of three images' answers is known."""
    folder = write_run(tmp_path / "run", "2", {1: [2 / 3], 2: [1 / 3], 3: [1 / 3]}, labels=np.array([0, 1, 2]))
    probabilities = np.zeros((3, 3, 10), np.float16)
    probabilities[:, 0, :2] = [[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]  # label 0: mean 0.567, right
    probabilities[:, 1, :2] = [[0.4, 0.6], [0.8, 0.2], [0.7, 0.3]]  # label 1: mean 0.367, wrong
    probabilities[:, 2, 2:4] = [[0.4, 0.6], [0.6, 0.4], [0.9, 0.1]]  # label 2: mean 0.633, right
    for seed, each in enumerate(probabilities, start=1):
        file = folder / "predictions" / f"seed_{seed}.npz"
        kept = dict(np.load(file)) | {"probabilities": each, "predicted": each.argmax(axis=-1).astype(np.uint8)}
        np.savez_compressed(file, **kept)
    (found,) = analysis.analyze([read(folder)])
    assert found.ensemble == pytest.approx(2 / 3)
    assert evidence_of(tmp_path, step_3={1: [0.9]})[0].ensemble is None


def test_disputed_labels_are_counted_apart(tmp_path):
    labels = np.zeros(10_000, np.uint8)
    folder = write_run(tmp_path / "run", "2", {1: [0.9985], 2: [0.9985]}, labels=labels)
    for seed, wrong in ((1, analysis.DISPUTED), (2, [*analysis.DISPUTED[:5], *range(10)])):
        file = folder / "predictions" / f"seed_{seed}.npz"
        predicted = labels.copy()
        predicted[wrong] = 1
        np.savez_compressed(file, **(dict(np.load(file)) | {"predicted": predicted}))
    (found,) = analysis.analyze([read(folder)])
    assert found.disputed == (10.0, pytest.approx((1 + 9975 / 9985) / 2))
    assert len(set(analysis.DISPUTED)) == 15


def test_each_run_is_compared_with_the_one_it_extends(tmp_path):
    curves = {seed: [0.9 + 0.001 * seed] for seed in (1, 2, 3)}
    better = {2: [0.912], 3: [0.914], 4: [0.5]}
    for step, each in (("3", curves), ("4", better), ("4_adam", curves), ("5", better), ("5_exponential", curves)):
        write_run(tmp_path / f"step_{step}", step, each)
    found = analysis.analyze(read_all([tmp_path]))
    assert [each.baseline and each.baseline.name for each in found] == [None, "step_3", "step_4", "step_4", "step_5"]
    assert found[1].change.seeds == 2
    assert found[1].change.mean == pytest.approx((0.010 + 0.011) / 2)
    # Without the one it extends, the one before it.
    alone = analysis.analyze(read_all([tmp_path / "step_3", tmp_path / "step_5"]))
    assert alone[1].baseline.name == "step_3"
    write_run(tmp_path / "other" / "step_2", "2", {7: [0.9]})
    apart = analysis.analyze(read_all([tmp_path / "other" / "step_2", tmp_path / "step_3"]))
    assert (apart[1].baseline.name, apart[1].change) == ("step_2", None)


def test_the_disputed_labels_are_those_that_trained_networks_contradict():
    """Each of the 15, and none of its neighbours, is wrong in many of the measured networks (0.5 % of the others are),
    of whose steps each counts once."""
    runs = read_all([ROOT / "results"])
    wrong = np.mean([(run.predicted != run.labels).mean(axis=0) for run in runs], axis=0)
    disputed = np.array(analysis.DISPUTED)
    assert wrong[disputed].min() > 0.2 > wrong[[*disputed - 1, *disputed + 1]].max()


def test_longer_training_is_compared_with_shorter(tmp_path):
    """At the last epoch of each, with the number of epochs beside the name."""
    short, long = {s: [0.9 + s / 1000] for s in (1, 2, 3)}, {s: [0.5, 0.902 + s / 1000] for s in (1, 2, 3)}
    write_run(tmp_path / "short", "5", short)
    write_run(tmp_path / "long", "5", long)
    write_run(tmp_path / "exponential", "5_exponential", long)
    found = analysis.analyze(read_all([tmp_path]))
    assert [each.label for each in found] == ["step_5 (1 epochs)", "step_5 (2 epochs)", "step_5_exponential"]
    assert found[1].change.baseline == "step_5 (1 epochs)" and found[1].change.mean == pytest.approx(0.002)
    assert found[2].change.baseline == "step_5 (2 epochs)" and found[2].change.mean == 0


def test_the_target_the_notebook_and_disputed_labels_are_of_mnists_test(tmp_path):
    curves, labels = {1: [0.98], 2: [0.99]}, np.zeros(10_000, np.uint8)
    kinds = [{}, {"data": "digits"}, {"split": "validation"}]
    runs = [write_run(tmp_path / f"{n}", "2", curves, labels=labels, **kind) for n, kind in enumerate(kinds)]
    found = [analysis.analyze([read(run)])[0] for run in runs]
    assert [each.has_target for each in found] == [True, False, False]
    assert [each.notebook is None for each in found] == [False, True, True]
    assert [each.disputed is None for each in found] == [False, True, True]
