"""HTML and Markdown."""

from jaxdrill import document


def test_text_is_escaped():
    section = document.Section("a < b", ["`x<y` & z", document.Table(["<h>"], [["<i>|"]])])
    page = document.to_html("<title>", [section])
    assert '<h2 id="s0">a &lt; b</h2>' in page and "<code>x&lt;y</code> &amp; z" in page
    assert "&lt;i&gt;|" in page and "<h>" not in page and "<h1>&lt;title&gt;</h1>" in page
    assert document.to_markdown("t", [section]).endswith("| <h> |\n| --- |\n| <i>\\| |\n")
