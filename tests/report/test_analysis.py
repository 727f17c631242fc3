"""The analysis of runs, and the choice of their baselines."""

import numpy as np
import pytest
from conftest import ROOT
from runs_on_disk import write_run

from jaxdrill.report import analysis
from jaxdrill.runs.reader import read, read_all


def analyzed(tmp_path, **curves):
    """Analyse runs with given test accuracies, `step_2={seed: [accuracy, ...]}`."""
    runs = [
        write_run(tmp_path / name, name.removeprefix("step_"), each)
        for name, each in curves.items()
    ]
    return analysis.analyze([read(run) for run in runs])


def test_the_analysis_of_a_run(tmp_path):
    curves = {1: [0.992, 0.995, 0.994], 2: [0.99, 0.991, 0.992], 3: [0.996, 0.9935, 0.996]}
    (found,) = analyzed(tmp_path, step_2=curves)
    assert found.last.mean == pytest.approx((0.994 + 0.992 + 0.996) / 3)
    assert found.best.mean == pytest.approx((0.995 + 0.992 + 0.996) / 3)
    assert (found.baseline, found.change, found.train, found.gap) == (None, None, None, None)
    assert found.at_target == (
        pytest.approx((2 + 0 + 2) / 3),
        0,
        None,
    )  # Staying takes three epochs.
    # The notebook's best accuracy in three epochs is 98.85 % (index 2), and no seed is below it.
    assert found.notebook == (pytest.approx(0.9885), 2, 0.0)


def test_a_seed_stays_above_the_target_for_three_epochs(tmp_path):
    curves = {
        1: [0.993, 0.994, 0.995, 0.994],
        2: [0.994] * 4,
        3: [0.99, 0.993, 0.995, 0.996],
        4: [0.9, 0.9, 0.9, 0.995],
    }
    (found,) = analyzed(tmp_path, step_2=curves)
    assert found.at_target == (
        (3 + 4 + 2 + 1) / 4,
        2,
        0,
    )  # Seeds 1 and 2 stay, from the second and the first epoch.


def test_the_gap_uses_evaluation_mode(tmp_path):
    """The accuracy during training is 0.99 here."""
    curves = {1: [0.9, 0.97], 2: [0.9, 0.95], 3: [0.9, 0.96]}
    (found,) = analysis.analyze(
        [read(write_run(tmp_path / "run", "2", curves, train={1: 98, 2: 97, 3: 99}))]
    )
    assert found.train.mean == pytest.approx(0.98)
    assert (found.gap.mean, found.gap.deviation) == (pytest.approx(0.02), pytest.approx(0.01))
    # With 2 degrees of freedom t is 4.30265. The standard error is 0.01 / sqrt(3).
    assert found.gap.interval == (
        pytest.approx(-0.0048414, abs=1e-7),
        pytest.approx(0.0448414, abs=1e-7),
    )


def test_the_fraction_of_seeds_below_the_notebook(tmp_path):
    below, equal, above = [0.9, 0.9, 0.988], [0.9, 0.9885, 0.9], [0.9, 0.9, 0.989]
    (found,) = analyzed(tmp_path, step_2={1: below, 2: equal, 3: above, 4: above})
    assert found.notebook[2] == pytest.approx(1.5 / 4)
    (none,) = analyzed(tmp_path, step_5_exponential={1: above})
    assert none.notebook is None


def test_the_ensemble_averages_probabilities(tmp_path):
    """The mean of the probabilities is known for three images. A confident seed outweighs two."""
    folder = write_run(
        tmp_path / "run", "2", {1: [2 / 3], 2: [1 / 3], 3: [1 / 3]}, labels=np.array([0, 1, 2])
    )
    probabilities = np.zeros((3, 3, 10), np.float16)
    probabilities[:, 0, :2] = [[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]  # label 0: mean 0.567, right
    probabilities[:, 1, :2] = [[0.4, 0.6], [0.8, 0.2], [0.7, 0.3]]  # label 1: mean 0.367, wrong
    probabilities[:, 2, 2:4] = [[0.4, 0.6], [0.6, 0.4], [0.9, 0.1]]  # label 2: mean 0.633, right
    for seed, each in enumerate(probabilities, start=1):
        file = folder / "predictions" / f"seed_{seed}.npz"
        kept = dict(np.load(file)) | {
            "probabilities": each,
            "predicted": each.argmax(axis=-1).astype(np.uint8),
        }
        np.savez_compressed(file, **kept)
    (found,) = analysis.analyze([read(folder)])
    assert found.ensemble == pytest.approx(2 / 3)
    assert analyzed(tmp_path, step_3={1: [0.9]})[0].ensemble is None


def test_disputed_labels_are_counted_separately(tmp_path):
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


def test_a_run_is_compared_with_the_recipe_that_it_extends(tmp_path):
    curves = {seed: [0.9 + 0.001 * seed] for seed in (1, 2, 3)}
    better = {2: [0.912], 3: [0.914], 4: [0.5]}
    for step, each in (
        ("3", curves),
        ("4", better),
        ("4_adam", curves),
        ("5", better),
        ("5_exponential", curves),
    ):
        write_run(tmp_path / f"step_{step}", step, each)
    found = analysis.analyze(read_all([tmp_path]))
    assert [each.baseline and each.baseline.name for each in found] == [
        None,
        "step_3",
        "step_4",
        "step_4",
        "step_5",
    ]
    assert found[1].change.seeds == 2
    assert found[1].change.mean == pytest.approx((0.010 + 0.011) / 2)
    write_run(tmp_path / "other" / "step_2", "2", {7: [0.9]})
    apart = analysis.analyze(read_all([tmp_path / "other" / "step_2", tmp_path / "step_3"]))
    assert (apart[1].baseline.name, apart[1].change) == ("step_2", None)  # no seed in common


def test_unrelated_recipes_are_not_compared(tmp_path):
    """Step 5 extends step 4, which is missing. Its difference from step 2 has several causes."""
    curves = {seed: [0.9 + 0.001 * seed] for seed in (1, 2, 3)}
    found = analyzed(tmp_path, step_2=curves, step_5=curves)
    assert [(each.baseline, each.change) for each in found] == [(None, None)] * 2
    alone = analyzed(tmp_path, step_3=curves, step_5_exponential=curves)
    assert [(each.baseline, each.change) for each in alone] == [(None, None)] * 2


def flat(mean: float) -> dict[int, list[float]]:
    return {1: [mean], 2: [mean + 0.001], 3: [mean + 0.003]}


def test_runs_that_differ_by_flags(tmp_path):
    """Labels show the folder and the changed fields. The baseline is the unchanged recipe."""
    rates = {
        "step_5": {},
        "a_fast": {"optimizer.learning_rate": "0.02"},
        "b_slow": {"optimizer.learning_rate": "0.005", "batch_size": "64"},
        "c_again": {},
    }
    for mean, (name, flags) in enumerate(rates.items()):
        write_run(tmp_path / name, "5", flat(0.90 + mean / 100), flags=flags)
    write_run(tmp_path / "step_4", "4", flat(0.8))
    found = {each.run.folder.name: each for each in analysis.analyze(read_all([tmp_path]))}
    assert {name: each.label for name, each in found.items()} == {
        "step_4": "step_4",
        "a_fast": "step_5 (a_fast: batch_size 128, optimizer.learning_rate 0.02)",
        "b_slow": "step_5 (b_slow: batch_size 64, optimizer.learning_rate 0.005)",
        "c_again": "step_5 (c_again: batch_size 128, optimizer.learning_rate 0.01)",
        "step_5": "step_5 (batch_size 128, optimizer.learning_rate 0.01)",
    }
    plain = found["c_again"]  # the first of two runs of the unchanged recipe
    assert {name: each.baseline and each.baseline.folder.name for name, each in found.items()} == {
        "step_4": None,
        "a_fast": "c_again",
        "b_slow": "c_again",
        "c_again": "step_4",
        "step_5": None,
    }
    assert found["a_fast"].change.baseline == plain.label and found[
        "a_fast"
    ].change.mean == pytest.approx(-0.02)
    assert found["step_5"].change is None  # a repetition: no field differs


def test_folders_with_the_same_name(tmp_path):
    runs = [write_run(tmp_path / place / "step_5", "5", flat(0.9)) for place in ("a", "b")]
    assert [each.label for each in analysis.analyze(read_all(runs))] == [
        f"step_5 ({run})" for run in runs
    ]


def test_only_runs_on_the_same_images_are_compared(tmp_path):
    """Other images are other folds, other hold-out sizes, and equal labels of other images."""
    cases = {
        "test": {},
        "held_out": {"split": "validation", "flags": {"hold_out": "2000"}},
        "fold_1": {"split": "validation", "flags": {"hold_out": "1000", "fold": "1"}},
        "fold_2": {"split": "validation", "flags": {"hold_out": "1000", "fold": "2"}},
    }
    for name, how in cases.items():
        labels = np.arange(2000 if name == "held_out" else 1000) % 10
        for step in ("4", "5"):
            write_run(tmp_path / f"{name}_{step}", step, flat(0.9), labels=labels, **how)
    groups = analysis.group_runs(read_all([tmp_path]))
    assert sorted([each.run.folder.name for each in group] for group in groups) == [
        [f"{name}_4", f"{name}_5"] for name in sorted(cases)
    ]
    assert [group[0].run.dataset for group in groups] == [
        "mnist",
        "mnist (validation, 1,000 images, fold 1)",
        "mnist (validation, 1,000 images, fold 2)",
        "mnist (validation, 2,000 images)",
    ]
    assert all(group[1].baseline is group[0].run for group in groups)


def test_the_checksum_of_the_evaluated_images_decides(tmp_path):
    """Training images may differ. Runs of earlier versions have only the dataset's checksum."""
    kinds = {"a": ("x", "1"), "b": ("x", "2"), "c": ("y", "1"), "old": (None, "2")}
    runs = {
        name: read(
            write_run(
                tmp_path / name, "5", flat(0.9), evaluated_sha256=evaluated, dataset_sha256=dataset
            )
        )
        for name, (evaluated, dataset) in kinds.items()
    }
    same = {
        pair: runs[pair[0]].same_images(runs[pair[1:]])
        for pair in ("ab", "ac", "aold", "bold", "cold")
    }
    assert same == {"ab": True, "ac": False, "aold": False, "bold": True, "cold": False}


def test_trained_networks_contradict_the_disputed_labels():
    """More than 20 % of the networks contradict each of the 15 labels, and fewer the neighbours.

    Each step counts equally.
    """
    runs = read_all([ROOT / "results"])
    wrong = np.mean([(run.predicted != run.labels).mean(axis=0) for run in runs], axis=0)
    disputed = np.array(analysis.DISPUTED)
    assert wrong[disputed].min() > 0.2 > wrong[[*disputed - 1, *disputed + 1]].max()


def test_longer_training_is_compared_with_shorter(tmp_path):
    """Each run is evaluated after its last epoch. Labels show the number of epochs."""
    short, long = (
        {s: [0.9 + s / 1000] for s in (1, 2, 3)},
        {s: [0.5, 0.902 + s / 1000] for s in (1, 2, 3)},
    )
    write_run(tmp_path / "short", "5", short)
    write_run(tmp_path / "long", "5", long)
    write_run(tmp_path / "exponential", "5_exponential", long)
    found = analysis.analyze(read_all([tmp_path]))
    labels = ["step_5 (short: epochs 1)", "step_5 (long: epochs 2)", "step_5_exponential"]
    assert [each.label for each in found] == labels
    assert found[1].change.baseline == labels[0] and found[1].change.mean == pytest.approx(0.002)
    assert found[2].change.baseline == labels[1] and found[2].change.mean == 0


def test_only_mnists_test_images_have_a_target_a_notebook_and_disputed_labels(tmp_path):
    curves, labels = {1: [0.98], 2: [0.99]}, np.zeros(10_000, np.uint8)
    kinds = [{}, {"data": "digits"}, {"split": "validation"}]
    runs = [
        write_run(tmp_path / f"{n}", "2", curves, labels=labels, **kind)
        for n, kind in enumerate(kinds)
    ]
    found = [analysis.analyze([read(run)])[0] for run in runs]
    assert [each.has_target for each in found] == [True, False, False]
    assert [each.notebook is None for each in found] == [False, True, True]
    assert [each.disputed is None for each in found] == [False, True, True]
