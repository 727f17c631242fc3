"""Run the long tests of faults and hostile files, about half an hour on two cores.

    python tests/soak/run.py [PART...]

The parts are kills, disks, faults and files; the default is all. The results are written to
results/soak.json, and as three lines to the README. The exit code is 1 if anything failed.
"""

import json
import platform
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from soak.trial import small_disk  # noqa: E402

from jaxdrill.files import write_text  # noqa: E402
from jaxdrill.runs.provenance import git_commit  # noqa: E402

RESULTS, README = ROOT / "results" / "soak.json", ROOT / "README.md"
FAULTS = [
    "tests/runs/test_faults.py",
    "tests/runs/test_restart.py",
    "tests/runs/test_resume.py",
    "tests/runs/test_verify.py",
    "tests/runs/test_checkpoints.py",
    "tests/training/test_processes.py",
]


def _json_of(script: str, arguments: list[str], disk: bool = False) -> dict[str, Any]:
    """Return the JSON that a script of this folder writes. `disk`: run it on a small disk."""
    with tempfile.TemporaryDirectory() as folder:
        out, place = Path(folder) / "out.json", Path(folder) / "place"
        place.mkdir()
        where = [f"{place}"] if script == "trial.py" else []
        command = [
            sys.executable,
            "-W",
            "ignore",
            f"{ROOT / 'tests' / 'soak' / script}",
            *where,
            *arguments,
        ]
        command += ["--json", f"{out}"]
        subprocess.run(
            small_disk(place, 4, command) if disk else command, stdout=subprocess.DEVNULL
        )
        return json.loads(out.read_text())


def _faults() -> dict[str, Any]:
    """Run all tests that inject a fault into a run, also the slow ones."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "1",
        "-m",
        "slow or soak or not slow",
        *FAULTS,
    ]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    counts = {
        what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped|error)", said)
    }
    return {
        "tried": counts.get("passed", 0) + counts.get("failed", 0),
        "wrong": re.findall(r"^FAILED (.*)", said, re.M),
    }


PARTS = {
    "kills": lambda: _json_of("trial.py", ["--faults", "kill", "kill_inside", "--random", "100"]),
    "disks": lambda: _json_of("trial.py", ["--faults", "full"], disk=True),
    "faults": _faults,
    "files": lambda: _json_of("fuzz.py", ["--files", "10000"]),
}


def lines(found: dict[str, Any]) -> str:
    """Return the results as three lines of Markdown."""
    kills, lost = sum(found["kills"]["tried"].values()), len(found["kills"]["wrong"])
    full, failed = (
        found["disks"]["tried"]["full"],
        len(found["disks"]["wrong"]) + len(found["faults"]["wrong"]),
    )
    others, wrong = found["faults"]["tried"], len(found["files"]["wrong"])
    same = "every result was bit-identical"
    read = "every file was read correctly or rejected with a one-line error"
    return (
        f"- {kills} kills (SIGKILL, SIGTERM) at each file change, inside each write and at random "
        f"times: {f'{lost} results were not bit-identical' if lost else same}.\n"
        f"- {full} tests with a full disk and {others} tests of other failures, from flipped bytes "
        f"to lost processes: {failed} failed.\n"
        f"- {found['files']['files']:,} damaged and hostile files of all formats: "
        f"{f'{wrong} files were neither read correctly nor rejected' if wrong else read}."
    )


def main() -> int:
    """Run the command. Return the exit code."""
    chosen = sys.argv[1:] or list(PARTS)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in chosen:
        found[part] = PARTS[part]() | {
            "python": platform.python_version(),
            "jax": version("jax"),
            "git_commit": git_commit(ROOT / "jaxdrill"),
        }
        write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    if set(PARTS) <= found.keys():
        text = README.read_text(encoding="utf-8")
        write_text(
            README, re.sub(r"^- .*kills.*\n- .*\n- .*$", lines(found), text, count=1, flags=re.M)
        )
        print(lines(found))
    return 1 if any(found[part]["wrong"] for part in chosen) else 0


if __name__ == "__main__":
    sys.exit(main())
