"""Pictures of augmented and of misclassified digits."""

from dataclasses import replace
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
from runs_on_disk import write_run

from jaxdrill.config.config import Augmentation
from jaxdrill.config.schema import _conditions as conditions
from jaxdrill.report import pictures
from jaxdrill.report.analysis import analyze
from jaxdrill.runs.reader import FinishedRun, read, read_all
from jaxdrill.training import augmentation


@pytest.fixture(scope="module")
def step_4(shared_drill) -> FinishedRun:
    return read(shared_drill / "step_4")


def augmented(run: FinishedRun, how: Augmentation) -> list[pictures.Picture]:
    """The pictures of a run with another [augmentation] table."""
    config = run.config.model_copy(update={"augmentation": how})
    return pictures.augmentations([replace(run, config=config)])


def changed(name: str) -> dict:
    """A value of an augmentation field that is not the default, as a table."""
    info = Augmentation.model_fields[name]
    if get_origin(info.annotation) is Literal:
        return {name: next(v for v in get_args(info.annotation) if v != info.default)}
    if info.annotation is bool:
        return {name: not info.default}
    bounds = [
        getattr(rule, key) for rule in info.metadata for key in ("le", "lt") if hasattr(rule, key)
    ]
    return {name: info.annotation(min(bounds, default=2) / 2)}


def test_which_step_fixed_an_image(tmp_path):
    """Images 0 to 3 are wrong in 3, 3, 1 and 0 seeds of step 2, and in 3, 0, 0 and 1 of step 3."""
    runs = [
        read(write_run(tmp_path / f"step_{step}", step, {s: [0.99] for s in (1, 2, 3)}))
        for step in ("2", "3")
    ]
    for run, wrong in zip(runs, ([(0, 3), (1, 3), (2, 1)], [(0, 3), (3, 1)]), strict=True):
        run.predicted[:] = run.labels
        for image, seeds in wrong:
            run.predicted[:seeds, image] = 9
    text, table, shown = pictures.error_table(analyze(runs))
    assert text == (
        "4 of 1,000 test images are misclassified by at least one seed: 1 always, 1 fixed by "
        "step_3, 2 sometimes."
    )
    assert table.header == ["image", "label", "errors", "step_2", "step_3"]
    assert table.rows == [
        ["0", "0", "always", "`999`", "`999`"],
        ["1", "1", "fixed by step_3", "`999`", "`···`"],
        ["2", "2", "sometimes", "`9··`", "`···`"],
        ["3", "3", "sometimes", "`···`", "`9··`"],
    ]
    assert [picture.alt for picture in shown] == [f"test image {n}, label {n}" for n in range(4)]
    np.testing.assert_array_equal(shown[1].pixels, runs[0].images[1])


def test_worst_images_are_sorted_by_the_probability_of_their_label(tmp_path):
    run = read(write_run(tmp_path / "run", "2", {1: [0.995], 2: [0.995]}))
    shown = pictures.worst_images(analyze([run])[0])
    wrong = np.flatnonzero((run.predicted != run.labels).any(axis=0))
    # Images 2 to 5 are misclassified by both seeds, images 1 and 6 by one.
    assert [int(p.caption.split(":")[0]) for p in shown] == [2, 3, 4, 5, 1, 6]
    assert set(wrong) == {1, 2, 3, 4, 5, 6}
    assert shown[0].caption == "2: 2, not 3 (100 %)" and shown[4].caption == "1: 1, not 2 (50 %)"


def test_pictures_show_the_augmentation_of_the_run(shared_drill, step_4):
    (picture,) = pictures.augmentations(read_all([shared_drill]))
    assert picture.caption.startswith("step_4: rotation_degrees = 7.0. The first column")
    assert picture.pixels.shape == (3 * 28, 12 * 28)
    original = step_4.images[2]
    np.testing.assert_array_equal(picture.pixels[:28, :28], original)
    assert not np.array_equal(picture.pixels[:28, 28:56], original)
    # Pixels from outside have the fill value, and a rotation keeps the centre of the image.
    assert picture.pixels[0, 28] in (1, original[0, 0])
    np.testing.assert_array_equal(picture.pixels[12:16, 40:44], original[12:16, 12:16])


def test_captions_list_the_changed_fields(step_4):
    how = Augmentation(scale=0.07, shift_pixels=1.5, interpolation="bilinear")
    (picture,) = augmented(step_4, how)
    fields = "scale = 0.07, shift_pixels = 1.5, interpolation = bilinear"
    assert picture.caption.startswith(f"step_4: {fields}. The first column")
    assert not augmented(step_4, Augmentation())
    assert not augmented(step_4, Augmentation(interpolation="bilinear"))  # without an effect


@pytest.mark.parametrize("name", list(Augmentation.model_fields))
def test_every_augmentation_field_changes_the_pictures(step_4, name):
    """A new field of the [augmentation] table is tested without a change here."""
    needed = conditions(Augmentation.model_fields[name])
    base = {key: value for rule in needed for key, value in changed(rule.names[0]).items()}
    before, after = (
        augmented(step_4, Augmentation(**base)),
        augmented(step_4, Augmentation(**base | changed(name))),
    )
    assert len(before) == bool(base) and len(after) == 1
    assert name in after[0].caption
    copies = after[0].pixels[:28, 28:]
    plain = before[0].pixels[:28, 28:] if before else np.tile(step_4.images[2], 11)
    assert not np.array_equal(copies, plain)


def test_a_new_augmentation_needs_no_change_of_the_report(step_4, monkeypatch):
    class Inverting(Augmentation):
        invert: bool = False

    def augment(how, keys, images):
        return known(how, keys, 255 - images if how.invert else images)

    known = augmentation.augment
    monkeypatch.setattr(augmentation, "augment", augment)
    (picture,) = augmented(step_4, Inverting(invert=True))
    assert picture.caption.startswith("step_4: invert = True.")
    np.testing.assert_array_equal(picture.pixels[:28, 28:56], 255 - step_4.images[2])
