"""TensorBoard's files, read back record by record."""

import struct

from tensorboardX.proto.event_pb2 import Event

from jaxdrill.main import main
from jaxdrill.runs import events

TAGS = {
    "train/loss",
    "train/accuracy",
    "test/loss",
    "test/accuracy",
    "learning_rate",
    "time/images_per_second",
}


def read(folder):
    """The events of all files in a folder, in the order of their writing; a record is length, sum, event, sum."""
    found = []
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def scalars(found):
    return [(v.tag, event.step, v.simple_value) for event in found for v in event.summary.value]


def test_a_run_writes_one_sub_run_a_seed(tiny_recipe, tmp_path, few_digits):
    command = ["--step", str(tiny_recipe), "--workdir", str(tmp_path), "--seeds", "2"]
    assert main(command) == 0
    assert sorted(path.name for path in (tmp_path / "tensorboard").iterdir()) == [
        "seed_1",
        "seed_2",
    ]
    for seed in ("seed_1", "seed_2"):
        found = scalars(read(tmp_path / "tensorboard" / seed))
        assert {(tag, step) for tag, step, _ in found} == {
            (tag, step) for tag in TAGS for step in (3, 6)
        }
        assert all(value > 0 for _, _, value in found)


def test_values_and_what_a_later_session_takes_back(tmp_path):
    row = {
        "seed": 4,
        "step": 469,
        "train_loss": 0.5,
        "train_accuracy": 0.75,
        "test_loss": 0.25,
        "test_accuracy": 0.875,
        "learning_rate": 0.125,
    }
    with events.opened(tmp_path, [4], 0) as writers:
        writers.write([row], 2048.0)
    written = read(tmp_path / "seed_4")
    assert scalars(written) == [
        ("train/loss", 469, 0.5),
        ("train/accuracy", 469, 0.75),
        ("test/loss", 469, 0.25),
        ("test/accuracy", 469, 0.875),
        ("learning_rate", 469, 0.125),
        ("time/images_per_second", 469, 2048.0),
    ]
    # The session's start says from which step on earlier points do not count.
    assert [event.step for event in written if event.session_log.status] == [1]


def test_validation_has_tags_of_its_own(tmp_path):
    row = {
        "seed": 4,
        "step": 3,
        "validation_loss": 0.25,
        "validation_accuracy": 0.875,
        "learning_rate": 0.125,
    }
    with events.opened(tmp_path, [4], 0) as writers:
        writers.write([row], 1.0)
    tags = [tag for tag, _, _ in scalars(read(tmp_path / "seed_4"))]
    assert tags == [
        "validation/loss",
        "validation/accuracy",
        "learning_rate",
        "time/images_per_second",
    ]
