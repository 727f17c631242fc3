"""Standard streams that are closed, full or in another encoding."""

import io
import json
import os
import signal
import sys
from contextlib import suppress

import numpy as np
import pytest
from conftest import idx_bytes, shell
from runs_in_parts import both, without_seconds

from jaxdrill import errors
from jaxdrill.main import COMMANDS, main
from jaxdrill.predict import __main__ as predict
from jaxdrill.runs import progress

CLOSED = ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"]


def closed_pipe() -> io.TextIOWrapper:
    """Return a stream whose reader exited."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=1)


def close(*streams: io.TextIOBase | None) -> None:
    """Close streams, so that the garbage collector does not warn about unwritten text."""
    for stream in filter(None, streams):
        with suppress(OSError):
            stream.close()


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize(
    ("arguments", "code"), [("--step 5 --help", 0), ("--step 5 --dry-run", 0), ("--step 7", 2)]
)
def test_a_command_with_closed_streams(closed, arguments, code, tmp_path):
    ended, out, err = shell(f"@main {arguments} {closed}", tmp_path)
    assert ended == code
    assert "Traceback" not in err and "Exception" not in err
    assert bool(out) == (code == 0 and ">&-" not in closed.replace("2>&-", ""))


@pytest.mark.parametrize(
    "arguments", ["--step 5 --help", "--step 5 --dry-run", "--step all --dry-run"]
)
def test_a_reader_that_exits(arguments, tmp_path):
    code, out, err = shell(f"@main {arguments} | head -1", tmp_path)
    assert (code, out.count("\n"), err) == (0, 1, "")


def test_results_on_a_full_disk(tmp_path):
    assert shell("@main --step 5 --dry-run > /dev/full", tmp_path) == (
        1,
        "",
        "jaxdrill: The output cannot be written: No space left on device.\n",
    )
    assert shell("@main --step 5 --help > /dev/full", tmp_path) == (0, "", "")


def test_files_do_not_get_the_numbers_of_closed_streams(tmp_path):
    """XLA writes its log to number 2, even if it is another file."""
    code = "import os; from jaxdrill.errors import exit_code\n"
    code += "flags = os.O_RDWR | os.O_CREAT\n"
    code += "exit_code(lambda: os.write(os.open('file', flags), b'content') and None)\n"
    code += "os.write(1, b'to 1'), os.write(2, b'to 2')"
    for closed in CLOSED:
        assert shell(f'{sys.executable} -c "{code}" {closed}', tmp_path)[0] == 0
        assert (tmp_path / "file").read_bytes() == b"content"
        (tmp_path / "file").unlink()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_cannot_be_encoded_are_escaped(encoding, monkeypatch):
    stream = io.TextIOWrapper(content := io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    errors.say("99.4 ± 0.1", "†")
    errors.print_error("a → b")
    shown = {
        "ascii": b"99.4 \\xb1 0.1\n\\u2020\njaxdrill: a \\u2192 b\n",
        "latin-1": b"99.4 \xb1 0.1\n\\u2020\njaxdrill: a \\u2192 b\n",
        "utf-8": "99.4 ± 0.1\n†\njaxdrill: a → b\n".encode(),
    }
    assert content.getvalue() == shown[encoding]


@pytest.mark.parametrize("stream", ["closed pipe", "full disk", "closed", "none", "ascii"])
def test_no_stream_stops_a_training(
    stream, few_digits, tiny_recipe, tmp_path, monkeypatch, finished, compiled_once
):
    """All epochs of both seeds are trained, and the ± of the summary is printed."""
    streams = {
        "closed pipe": closed_pipe,
        "full disk": lambda: os.fdopen(os.open("/dev/full", os.O_WRONLY), "w"),
        "none": lambda: None,
        "closed": io.StringIO,
        "ascii": lambda: io.TextIOWrapper(io.BytesIO(), "ascii"),
    }
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, streams[stream]())
        if stream == "closed":
            getattr(sys, name).close()
    flags = ["--step", tiny_recipe, "--workdir", *both(tmp_path / "run")]
    assert main([str(flag) for flag in flags]) == 0
    close(sys.stdout, sys.stderr)
    assert without_seconds(tmp_path / "run") == without_seconds(finished)


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "| head -1", "> /dev/full", ""])
def test_a_training_whose_output_is_lost(closed, tiny_recipe, tmp_path):
    """Also in an ASCII locale, which has no character for the ± of the summary."""
    ascii_only = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    code, out, err = shell(f"@main --step {tiny_recipe} --seeds 2 {closed}", tmp_path, **ascii_only)
    assert (code, err) == (0, "")
    assert closed or "\\xb1" in out
    rows = (tmp_path / "runs" / "tiny_digits" / "metrics.jsonl").read_text().splitlines()
    assert [(row["seed"], row["epoch"]) for row in map(json.loads, rows)] == [
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]


def test_predict_ends_if_its_reader_exits(trained, tmp_path, monkeypatch, capsys):
    (tmp_path / "images").write_bytes(idx_bytes(np.zeros((3 * predict.BATCH, 28, 28), np.uint8)))
    monkeypatch.setattr(sys, "stdout", closed_pipe())
    asked = []
    monkeypatch.setattr(
        predict, "_print", lambda *given, shown=predict._print: (asked.append(given), shown(*given))
    )
    assert predict.main([str(trained), str(tmp_path / "images")]) == 0
    close(sys.stdout)
    assert len(asked) == 1 and capsys.readouterr().err == ""


@pytest.mark.slow
def test_predict_into_head(trained, tmp_path):
    (tmp_path / "images").write_bytes(idx_bytes(np.zeros((20_000, 28, 28), np.uint8)))
    code, out, err = shell(f"@predict {trained} images | head -1", tmp_path)
    assert (code, out.count("\n"), err) == (0, 1, "")
    assert shell(f"@predict {trained} images > /dev/full", tmp_path) == (
        1,
        "",
        "jaxdrill: The output cannot be written: No space left on device.\n",
    )


def test_a_signal_while_stderr_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", closed_pipe())
    with progress.stop_on_signal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM
    close(sys.stderr)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_no_colors(command, monkeypatch, capsys):
    """Python 3.14 colors the help of argparse if FORCE_COLOR is set."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert out and "\x1b" not in out and "\\x1b" not in out
    assert errors.Parser().color is False


def test_standard_output_as_a_file(tmp_path):
    """Text before and after it is kept, in a pipe and in a file. A reader may exit."""
    code = "from pathlib import Path; from jaxdrill.errors import exit_code, say\n"
    code += "from jaxdrill.files import write_text\n"
    code += "text, stdout = 'x' * 99999 + chr(10), Path('/dev/stdout')\n"
    code += "exit_code(lambda: (say('before'), write_text(stdout, text), say('after')))"
    command = f'{sys.executable} -c "{code}"'
    expected = "before\n" + "x" * 99999 + "\nafter\n"
    assert shell(f"{command} | cat", tmp_path) == (0, expected, "")
    assert shell(f"{{ echo first; {command}; echo last; }} > file", tmp_path) == (0, "", "")
    assert (tmp_path / "file").read_text() == f"first\n{expected}last\n"
    assert shell(f"{command} | head -1", tmp_path) == (0, "before\n", "")
