"""The line with the elapsed seconds, on a pseudo-terminal, and the TensorBoard event files."""

import os
import pty
import re
import struct
import sys
import termios
import threading

import pytest
from tensorboardX.proto.event_pb2 import Event

from jaxdrill.runs.progress import open_events, show_elapsed

ROW = {"seed": 4, "step": 469, "learning_rate": 0.125}
TRAIN = {"train_loss": 0.5, "train_accuracy": 0.75}
TEST = {"test_loss": 0.25, "test_accuracy": 0.875}


@pytest.fixture
def terminal():
    """A terminal of 100 columns: the end that the user sees, and the other end as a stream."""
    controller, device = pty.openpty()
    termios.tcsetwinsize(device, (40, 100))
    with os.fdopen(device, "w") as stream:
        yield controller, stream
    os.close(controller)


def read_until(controller: int, pattern: bytes) -> bytes:
    """Return what the terminal shows, up to the match of a pattern."""
    shown = b""
    while not re.search(pattern, shown):
        shown += os.read(controller, 4096)
    return shown


def test_the_seconds_are_counted_and_the_line_is_removed(terminal, monkeypatch):
    controller, stream = terminal
    monkeypatch.setattr(sys, "stderr", stream)
    with show_elapsed("compiling for 1 seed(s)"):
        shown = read_until(controller, rb": [1-9] s")
    line = rb"\rcompiling for 1 seed\(s\): "
    assert re.fullmatch(line + b"0 s" + line + b"[1-9] s", shown)
    print("next", end="", file=stream, flush=True)
    spaces = b" " * len("compiling for 1 seed(s): 1 s")
    assert read_until(controller, b"next") == b"\r" + spaces + b"\rnext"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_thread_ends_with_the_body(terminal, monkeypatch, error):
    monkeypatch.setattr(sys, "stderr", terminal[1])
    before = threading.active_count()
    with pytest.raises(error), show_elapsed("compiling"):
        assert threading.active_count() == before + 1
        raise error
    assert threading.active_count() == before


@pytest.mark.parametrize("stderr", ["pipe", "closed"])
def test_nothing_is_shown_without_a_terminal(monkeypatch, capsys, stderr):
    if stderr == "closed":
        monkeypatch.setattr(sys, "stderr", None)
    before = threading.active_count()
    with show_elapsed("compiling"):
        assert threading.active_count() == before
    assert capsys.readouterr() == ("", "")


def test_a_notebook_shows_the_line(monkeypatch, capsys):
    """The stderr of a notebook is not a terminal."""
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with show_elapsed("compiling"):
        while "0 s" not in (shown := capsys.readouterr().err):
            pass
    assert shown == "\rcompiling: 0 s"


def read(folder):
    """Return the events of all files in a folder. A record is length, checksum, event, checksum."""
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


def test_a_run_writes_one_sub_run_per_seed(finished):
    folder = finished / "tensorboard"
    assert sorted(path.name for path in folder.iterdir()) == ["seed_3", "seed_4"]
    tags = {"train/loss", "train/accuracy", "test/loss", "test/accuracy", "learning_rate"}
    tags.add("time/images_per_second")
    for seed in ("seed_3", "seed_4"):
        found = scalars(read(folder / seed))
        assert {(tag, step) for tag, step, _ in found} == {
            (t, step) for t in tags for step in (3, 6)
        }
        assert all(value > 0 for _, _, value in found)


def test_an_epoch_is_written_with_these_tags_and_values(tmp_path):
    with open_events(tmp_path, [4], 0) as write_epoch:
        write_epoch([ROW | TRAIN | TEST], 2048.0)
    written = read(tmp_path / "seed_4")
    assert scalars(written) == [
        ("train/loss", 469, 0.5),
        ("train/accuracy", 469, 0.75),
        ("test/loss", 469, 0.25),
        ("test/accuracy", 469, 0.875),
        ("learning_rate", 469, 0.125),
        ("time/images_per_second", 469, 2048.0),
    ]
    # TensorBoard hides points of earlier sessions from this step on.
    assert [event.step for event in written if event.session_log.status] == [1]


def test_validation_has_separate_tags(tmp_path):
    row = ROW | {"validation_loss": 0.25, "validation_accuracy": 0.875}
    with open_events(tmp_path, [4], 0) as write_epoch:
        write_epoch([row], 1.0)
    tags = [tag for tag, _, _ in scalars(read(tmp_path / "seed_4"))]
    validation = ["validation/loss", "validation/accuracy"]
    assert tags == [*validation, "learning_rate", "time/images_per_second"]
