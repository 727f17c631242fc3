"""The report in a real browser."""

import html
import json
import re
import shutil
import subprocess

import pytest

import jaxdrill

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (1200, 500, 375)  # pixels; Chromium's window is at least 500 wide, so each page is a frame
CHECK = """<script>
const images = [...document.images];
Promise.all(images.map(i => i.decode().catch(() => 0))).then(() => {
  const top = e => e.getBoundingClientRect().top, screens = 3 * 667;
  const scrolls = e => top(e) < screens && e.scrollWidth > e.clientWidth + 1
    && getComputedStyle(e).display != "inline" && !e.closest("svg");
  const heights = [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect().height);
  parent.seen[window.innerWidth] = {
    images: images.length, missing: images.filter(i => !i.naturalWidth).length,
    plots: heights.filter(height => height > 50).length,
    page: document.documentElement.scrollWidth,
    sideways: [...document.body.querySelectorAll("*")].filter(scrolls)
      .map(e => e.tagName + "." + e.className),
    first: ["h1", ".verdict", "svg", ".first"]
      .map(s => [...document.querySelectorAll(s)].map(top).find(t => t > 0)),
  };
  parent.document.title = JSON.stringify(parent.seen);
});
</script></body>"""


@pytest.fixture(scope="module")
def seen(shared_drill, tmp_path_factory):
    """Render the report at all widths. Return the number of its images, and the measurements."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("Chromium or Chrome is not installed")
    folder = tmp_path_factory.mktemp("page")
    page = jaxdrill.write_report(shared_drill, folder).read_text()
    source = html.escape(page.replace("</body>", CHECK))
    frames = [
        f'<iframe style="width:{width}px;height:667px;border:0" srcdoc="{source}"></iframe>'
        for width in WIDTHS
    ]
    text = f"<title>-</title><script>var seen = {{}};</script>{''.join(frames)}"
    (folder / "frames.html").write_text(text)
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1300,1000",
        "--virtual-time-budget=10000",
        "--dump-dom",
        (folder / "frames.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title and title[1] != "-", done.stderr
    return page.count("<img"), json.loads(html.unescape(title[1]))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_the_window(seen, width):
    """The verdict comes first, all pictures are shown, and the page does not scroll sideways."""
    images, found = seen[0], seen[1][f"{width}"]
    assert (found["images"], found["missing"]) == (images, 0)
    assert found["plots"] == 6  # one of the two ladders is hidden
    assert found["page"] <= width
    assert found["first"] == sorted(found["first"]) and None not in found["first"]


def test_on_a_phone_no_element_on_the_first_three_screens_scrolls_sideways(seen):
    found = seen[1]["375"]
    assert found["sideways"] == []
    assert found["first"][3] < 667  # The table starts on the first screen.
