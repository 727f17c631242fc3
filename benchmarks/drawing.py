"""Measure the delay from a pen event to the predictions, on the page in headless Chromium.

    python -m benchmarks.drawing results/step_5 results/step_6
    python -m benchmarks.drawing results/step_{5,6,6_fast,6_one,6_small} --picture docs/page.png

A digit is drawn point by point. After each point, the page processes the drawing and runs all
networks, with pauses for other events. `--picture` measures nothing.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import browser
from jaxdrill import page
from jaxdrill.errors import Parser, RunError, exit_code
from jaxdrill.files import write_text
from jaxdrill.runs.reader import read_each

POINTS = [
    [80, 70],
    [140, 50],
    [200, 75],
    [190, 125],
    [140, 140],
    [200, 165],
    [200, 210],
    [140, 235],
    [80, 215],
]
TIMED = """
(async () => {
  const points = POINTS.flatMap(([x, y], n, all) => n ? [0, 1, 2, 3].map((k) => {
    const [fromX, fromY] = all[n - 1];
    return [fromX + (x - fromX) * k / 4, fromY + (y - fromY) * k / 4];
  }) : []);
  const times = [];
  for (let round = 0; round < 3; round++) for (const [n, point] of points.entries()) {
    if (n === 0) { drop(Infinity); strokes.push([]); }
    strokes[0].push(point);
    const began = performance.now();
    redraw();
    const looked = performance.now();
    while (element("said").textContent === "") await new Promise((resume) => setTimeout(resume));
    times.push([looked - began, performance.now() - began]);
  }
  return times.slice(points.length);
})()
"""


def main() -> None:
    """Run the command."""
    parser = Parser(
        prog="python -m benchmarks.drawing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="run folder, or a folder of run folders"
    )
    picture = "write a picture of the page, and measure nothing"
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help=picture)
    parser.add_argument("--json", type=Path, metavar="FILE", help="file to write the times to")
    options = parser.parse_args()
    if not browser.program():
        raise RunError("Chromium is not installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "page.html"
        max_seeds = page.MAX_SEEDS if options.picture else 1
        write_text(file, page.build(read_each(options.runs), max_seeds))
        with browser.started(Path(folder) / "profile") as opened:
            if options.picture:
                opened.open(file, 980, 512)
                opened.run(f"strokes = {[POINTS]}; redraw()")
                opened.wait("element('said').textContent !== ''")
                return opened.screenshot(options.picture)
            opened.open(file)
            names = opened.run("networks.map(({ name }) => name)")
            times = np.array(opened.run(TIMED.replace("POINTS", json.dumps(POINTS))))
    rows = {"networks": names, "points": len(times)}
    titles = "the page is busy, ms", "until all have answered, ms"
    for title, column in zip(titles, times.T, strict=True):
        values = np.percentile(column, (50, 95, 100)).round(1).tolist()
        rows[title] = dict(zip(("median", "95 %", "largest"), values, strict=True))
    if file := options.json:
        known = json.loads(file.read_text()) if file.exists() else []
        others = [each for each in known if each["networks"] != names]
        write_text(file, json.dumps([*others, rows], indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    sys.exit(exit_code(main))
