"""Tables, sentences and pictures."""

from dataclasses import replace

import numpy as np
from runs_on_disk import BETTER, CURVES, write_run

from jaxdrill.report import pictures, prose, tables
from jaxdrill.report.analysis import analyze
from jaxdrill.runs.reader import read, read_all


def test_description(drill):
    said = [prose.describe(each) for each in analyze(read_all([drill]))]
    assert said[0] == (
        "It is compared with no run here. The accuracy on training images in evaluation mode was not measured. 99.4 % "
        "or more in 0.333 of 3 epochs; 0 of 3 seeds stay there for their last three epochs or more. The notebook's "
        "best is 98.85 % (epoch 3); the best epoch of 0 % of our seeds is below that."
    )
    assert said[3].startswith(
        "+0.467 points (+0.323 to +0.610) against step_4: helped. The accuracy on"
    )
    equal = "+0.000 points against step_2: inconclusive. The accuracy on"  # of two seeds
    assert said[1].startswith(equal)


def test_the_detectable_difference_and_the_gap_are_described(tmp_path):
    curves = {1: [0.90], 2: [0.91], 3: [0.93]}
    write_run(tmp_path / "step_3", "3", curves, train={1: 90, 2: 91, 3: 92})
    write_run(
        tmp_path / "step_4", "4", {1: [0.91], 2: [0.94], 3: [0.93]}, train={1: 99, 2: 98, 3: 97}
    )
    first, second = analyze(read_all([tmp_path]))
    gap = "In evaluation mode, training minus test accuracy is -0.333 points (-1.768 to +1.101)."
    assert gap in prose.describe(first)
    # The differences .01, .03 and .00 have a standard deviation of 1.5275 points, of which three seeds detect 3.264.
    assert prose.describe(second).startswith(
        "+1.333 points (-2.461 to +5.128) against step_3: inconclusive. The smallest difference that 3 seeds detect is "
        "4.986 points. In evaluation mode, training minus test accuracy is +5.333 points (-0.404 to +11.070)."
    )
    table = tables.comparisons([first, second], detect=1.0)
    assert table.header[5:] == [
        "p",
        "corrected p (1 test)",
        "smallest detectable, points",
        "seeds to detect 1 points",
        "verdict",
    ]
    assert table.rows[0][5:] == ["0.27", "0.27", "4.986", "21", "inconclusive"]
    counted = {row[0]: row[1:] for row in tables.counts([first, second]).rows}
    assert counted["train %, last epoch, evaluation mode"] == ["91.00 ± 1.00", "98.00 ± 1.00"]
    assert counted["train minus test, points"] == ["-0.33 ± 0.58", "5.33 ± 2.31"]


def test_a_single_seed_concludes_nothing(tmp_path):
    (alone,) = analyze([read(write_run(tmp_path / "run", "5", {1: [0.995, 0.996]}, train={1: 97}))])
    assert prose.describe(alone) == (
        "It is compared with no run here. In evaluation mode, training minus test accuracy is -2.600 points. 99.4 % or "
        "more in 2 of 2 epochs. The notebook's best is 98.40 % (epoch 2). A single seed shows neither the spread over "
        "seeds nor whether a change helped."
    )
    rows = {row[0]: row[1] for row in tables.counts([alone]).rows}
    assert rows["our seeds whose best is below that, %"] == "-"
    assert prose.verdict([alone]) == (
        "step_5 gets 99.60 % of the 1,000 test images right after the last epoch (a single seed)."
    )


def test_the_verdict_in_a_sentence(drill, tmp_path):
    """Inconclusive comparisons are counted, and called that."""
    assert prose.verdict(analyze(read_all([drill]))) == (
        "Step_5 helped; 2 of 3 comparisons are inconclusive. The highest mean is that of step_5: "
        "99.67 ± 0.21 % of the 1,000 test images right after the last epoch (3 seeds)."
    )
    apart = [
        read(write_run(tmp_path / step, step, {n: [0.9]})) for n, step in enumerate(("2", "3"))
    ]
    assert prose.verdict(analyze(apart)).startswith(
        "No two runs here can be compared. The highest mean"
    )
    single = [read(write_run(tmp_path / f"single_{step}", step, {1: [0.9]})) for step in ("2", "3")]
    assert prose.verdict(analyze(single)).startswith(
        "1 of 1 comparisons has a single seed. The highest mean"
    )


def test_what_the_report_opens_with(drill):
    table = tables.overview(analyze(read_all([drill])))
    assert table.header == ["step", "seeds", "test %", "change", "verdict"]
    assert [row[4] for row in table.rows] == ["-", "inconclusive", "inconclusive", "helped"]
    assert table.kinds == ["t", "n", "n", "n", "t"]


def test_the_family_of_tests_is_what_the_table_shows(drill, tmp_path):
    """Step 3 has two seeds in common with its neighbours, so one of the three comparisons has a test."""
    assert tables.comparisons(analyze(read_all([drill]))).header[6] == "corrected p (1 test)"
    for step in ("2", "3", "4"):
        write_run(tmp_path / "all" / step, step, CURVES if step != "3" else BETTER)
    table = tables.comparisons(analyze(read_all([tmp_path / "all"])))
    assert table.header[6] == "corrected p (2 tests)" and [row[7] for row in table.rows] == [
        "0.267",
        "0.267",
    ]
    alone = analyze([read(drill / "step_2")])
    assert tables.comparisons(alone) is None


def test_the_time_of_an_epoch_is_the_median(tmp_path):
    """Not that of the fastest epoch, which hardly any took."""
    run = read(write_run(tmp_path / "run", "2", CURVES))
    run.metrics["seconds"][:] = [[2, 9, 9.5], [8, 9, 70], [9, 10, 11]]
    (found,) = analyze([run])
    assert (
        dict(zip(tables.results([found]).header, tables.results([found]).rows[0], strict=True))[
            "s/epoch"
        ]
        == "9.0"
    )


def test_tables_of_a_run(tmp_path):
    write_run(tmp_path / "step_3", "3", {1: [0.998], 2: [0.996]})
    write_run(tmp_path / "step_4", "4", {1: [0.998], 2: [0.996]})
    baseline, found = analyze(read_all([tmp_path]))
    assert tables.changes(found).rows == [
        ["`augmentation.rotation_degrees`", "0.0", "7.0"],
        ["`optimizer.momentum`", "0.9", "0.95"],
    ]
    assert tables.changes(baseline) is None
    layers = tables.layers(found.run).rows
    expected = [
        "conv1",
        "3x3 conv relu batch_norm dropout 0.05",
        "26x26x10",
        "3x3",
        "110",
        f"{26 * 26 * 9 * 10:,}",
    ]
    assert layers[0] == expected
    assert layers[-1][0] == "total" and layers[-1][4] == "9,606"
    # Wrong are images 1 and 2 of the first seed and 2 to 5 of the second, each taken for the next digit.
    confusion = tables.confusion(found.run).rows
    assert confusion[1][1:4] == ["·", "99.5", "0.5"] and confusion[2][3:5] == ["99", "1"]
    assert tables.times(found.run).rows[2] == ["train", "90.0", "90.0"]


def test_commands_are_quoted_for_the_shell(tmp_path):
    path = write_run(
        tmp_path / "run", "3", CURVES, command=["python", "-m", "jaxdrill.main", "--workdir", "a b"]
    )
    assert tables.sessions([read(path)]).rows[0][1] == "python -m jaxdrill.main --workdir 'a b'"


def test_each_session_has_its_own_command(tmp_path):
    """An older run does not say it of its earlier sessions."""
    session = {
        "versions": {"jax": "0.9"},
        "devices": ["cpu:0 cpu"],
        "processor": "Abacus",
        "git_commit": None,
    }
    more = {"earlier_sessions": [session, session | {"command": ["python", "a b"]}]}
    commands = [
        row[1]
        for row in tables.sessions([read(write_run(tmp_path / "run", "3", CURVES, **more))]).rows
    ]
    assert commands == ["-", "python 'a b'", "python -m jaxdrill.main --step 3"]


def test_caveats_name_the_folder(drill):
    (drill / "step_4" / "images.npz").unlink()
    session = {
        "versions": {"jax": "0.9"},
        "devices": ["cpu:0 cpu"],
        "processor": "Abacus",
        "git_commit": None,
    }
    more = {"earlier_sessions": [session], "processor": "Other"}
    other = write_run(
        drill / "step_5_exponential", "5_exponential", {s: c[:2] for s, c in BETTER.items()}, **more
    )
    one = write_run(drill / "step_4_adam", "4_adam", {1: CURVES[1], 2: CURVES[2]})
    rows = (one / "metrics.jsonl").read_text().splitlines(keepends=True)
    (one / "metrics.jsonl").write_text("".join(rows[:-1]))
    (one / "config.json").write_text(
        (one / "config.json").read_text().replace('"seeds":2', '"seeds":1')
    )
    runs = read_all([drill])
    assert prose.caveats(runs) == [
        f"{drill / 'step_3'} has 2 seeds, others 3: common seeds are compared.",
        f"{one} has a single seed: the spread over seeds is unknown, so no change is certain.",
        f"{one} holds seed(s) 2 with another number of epochs, which are left out.",
        f"{other} was trained in sessions of different versions or machines (last section).",
        "The runs have different numbers of epochs. Each is evaluated after its own last epoch.",
        f"No images.npz is in {drill / 'step_4'}: pictures of images are left out.",
        "The runs were made by different versions or machines (last section). Accuracies of the same seed on other "
        "devices are statistically equivalent, not identical.",
    ]
    assert "jax 0.9" in tables.sessions(runs).rows[5][2]


def test_which_step_fixed_an_image(tmp_path):
    """Of 3 seeds wrong in step 2: image 0 by all in both steps, 1 by all and then none, 2 by one and then none, 3 by
    none and then one."""
    runs = [
        read(write_run(tmp_path / f"step_{step}", step, {s: [0.99] for s in (1, 2, 3)}))
        for step in ("2", "3")
    ]
    for run, wrong in zip(runs, ([(0, 3), (1, 3), (2, 1)], [(0, 3), (3, 1)]), strict=True):
        run.predicted[:] = run.labels
        for image, seeds in wrong:
            run.predicted[:seeds, image] = 9
    text, table = pictures.explorer(analyze(runs))
    assert (
        text
        == "4 of 1,000 test images are wrong in some seed, 1 always, 1 fixed by step_3, 2 sometimes."
    )
    assert [row[1:] for row in table.rows] == [
        ["0", "0", "always", "`999`", "`999`"],
        ["1", "1", "fixed by step_3", "`999`", "`···`"],
        ["2", "2", "sometimes", "`9··`", "`···`"],
        ["3", "3", "sometimes", "`···`", "`9··`"],
    ]


def test_worst_images_come_by_the_probability_of_their_label(tmp_path):
    run = read(write_run(tmp_path / "run", "2", {1: [0.995], 2: [0.995]}))
    (found,) = analyze([run])
    shown = pictures.worst(found)
    wrong = np.flatnonzero((run.predicted != run.labels).any(axis=0))
    assert [int(p.caption.split(":")[0]) for p in shown] == [
        2,
        3,
        4,
        5,
        1,
        6,
    ]  # by both seeds, then by one
    assert set(wrong) == {1, 2, 3, 4, 5, 6}
    assert shown[0].caption == "2: 2, not 3 (100 %)" and shown[4].caption == "1: 1, not 2 (50 %)"


def test_the_augmentation_is_the_runs_own(drill):
    (picture,) = pictures.augmentations(read_all([drill]))
    assert picture.caption.startswith("step_4: rotated by up to 7 degrees. Left")
    assert picture.pixels.shape == (3 * 28, 12 * 28)
    run = read(drill / "step_4")
    np.testing.assert_array_equal(picture.pixels[:28, :28], run.images[2])
    assert not np.array_equal(picture.pixels[:28, 28:56], run.images[2])
    # What comes from outside has the recipe's value; the middle of a rotated image is its own.
    assert picture.pixels[0, 28] in (1, run.images[2][0, 0])
    np.testing.assert_array_equal(picture.pixels[12:16, 40:44], run.images[2][12:16, 12:16])


def test_every_part_of_an_augmentation_is_named(drill):
    run = read(drill / "step_4")
    how = {"rotation_degrees": 0.0, "scale": 0.07, "shift_pixels": 1.5, "interpolation": "bilinear"}
    changed = run.config.model_copy(
        update={"augmentation": run.config.augmentation.model_copy(update=how)}
    )
    (picture,) = pictures.augmentations([replace(run, config=changed)])
    assert picture.caption.startswith(
        "step_4: scaled by up to 7 %, moved by up to 1.5 pixels. Left"
    )
    none = {"rotation_degrees": 0.0}
    still = run.config.model_copy(
        update={"augmentation": run.config.augmentation.model_copy(update=none)}
    )
    assert not pictures.augmentations([replace(run, config=still)])
