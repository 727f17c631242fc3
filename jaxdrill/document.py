"""A document of texts, tables and pictures: one HTML file that needs nothing else, or Markdown without pictures."""

import base64
import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from PIL import Image

STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --paper: #fff; --soft: #5d6778; --line: #d7dce4; --shade: #f3f5f8;
  --a: #1f6fb2; --b: #c2571a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --paper: #14181f; --soft: #9aa5b5; --line: #343c49;
  --shade: #1d232d; --a: #6cb2ee; --b: #f09a5f; } }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
h2, h3 { break-after: avoid; } p { max-width: 46rem; } a { color: var(--a); }
nav ul { columns: 16rem; padding-left: 1.2rem; }
.wide { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { background: var(--shade); } .n { text-align: right; white-space: nowrap; } tr, figure { break-inside: avoid; }
.t { min-width: 9rem; max-width: 30rem; } .l { min-width: 21rem; max-width: 44rem; }
code { white-space: pre; font-size: .95em; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
.digits { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); gap: .8rem; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .85rem; } svg { width: 100%; height: auto; }
img { image-rendering: pixelated; height: 2.4rem; vertical-align: middle; border: 1px solid var(--line); }
.digits img { width: 100%; height: auto; }
.strip img { height: auto; width: 100%; max-width: 44rem; }
@page { size: A4 landscape; margin: 12mm; }
@media print { :root { color-scheme: light; --ink: #000; --paper: #fff; --soft: #444; --line: #bbb; --shade: #f3f3f3;
  --a: #1f6fb2; --b: #c2571a; }
  body { padding: 0; max-width: none; font-size: 9pt; } nav { display: none; } img { height: 14pt; }
  .wide { overflow: visible; } table { font-size: 8pt; } th, td { padding: 2pt 4pt; }
  .t, .l { min-width: 0; max-width: none; } .grid { grid-template-columns: 1fr 1fr 1fr; }
  .digits { grid-template-columns: repeat(13, 1fr); } }
"""


@dataclass(frozen=True)
class Picture:
    """Grey images side by side, uint8[H, W], with what they show in words."""

    pixels: np.ndarray
    alt: str
    caption: str = ""

    def html(self) -> str:
        """An `img` with its PNG file in it."""
        file = io.BytesIO()
        Image.fromarray(self.pixels).save(file, "PNG", optimize=True)
        data = base64.b64encode(file.getvalue()).decode()
        return f'<img src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}">'


class Block:
    """What stands below a heading."""

    def html(self) -> str:
        """As HTML."""
        raise NotImplementedError

    def markdown(self) -> str:
        """As Markdown; nothing if it is a picture only."""
        return ""


@dataclass(frozen=True)
class Text(Block):
    """A paragraph, in which `backticks` mark code."""

    text: str

    def html(self) -> str:
        """As HTML."""
        return f"<p>{_inline(self.text)}</p>"

    def markdown(self) -> str:
        """As Markdown."""
        return self.text


@dataclass(frozen=True)
class Strip(Block):
    """One picture as wide as the page."""

    picture: Picture

    def html(self) -> str:
        """As HTML."""
        return f'<figure class="strip">{self.picture.html()}</figure>'


@dataclass(frozen=True)
class Gallery(Block):
    """Small pictures with captions."""

    pictures: Sequence[Picture]

    def html(self) -> str:
        """As HTML."""
        shown = (f"<figure>{p.html()}<figcaption>{_inline(p.caption)}</figcaption></figure>" for p in self.pictures)
        return f'<div class="digits">{"".join(shown)}</div>'

    def markdown(self) -> str:
        """The captions."""
        return "\n".join(f"- {picture.caption}" for picture in self.pictures)


@dataclass(frozen=True)
class Drawing(Block):
    """An SVG drawing, in the colours of `STYLE`."""

    svg: str
    caption: str

    def html(self) -> str:
        """As HTML."""
        return f"<figure>{self.svg}<figcaption>{_inline(self.caption)}</figcaption></figure>"


@dataclass(frozen=True)
class Table(Block):
    """Cells are text, in which `backticks` mark code, or pictures. Columns of numbers are set to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Picture]]

    def _columns(self, test: Callable[[str | Picture], bool]) -> list[bool]:
        """Of each column, whether all its cells pass."""
        return [bool(self.rows) and all(test(row[i]) for row in self.rows) for i in range(len(self.header))]

    def _numbers(self) -> list[bool]:
        number = re.compile(r"[-+±·\d]([-+±·\d.,%() ]|to|of|from)*|")
        return self._columns(lambda cell: isinstance(cell, str) and number.fullmatch(cell) is not None)

    def html(self) -> str:
        """As HTML, in a box of its own that scrolls."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.header)
        longest = [max((len(cell) for cell in column if isinstance(cell, str)), default=0) for column in columns]
        widths = ["" if length <= 20 else "t" if length <= 120 else "l" for length in longest]
        kinds = ["n" if number else width for number, width in zip(self._numbers(), widths, strict=True)]

        def row(tag: str, cells: Sequence[str | Picture]) -> str:
            shown = (cell.html() if isinstance(cell, Picture) else _inline(cell) for cell in cells)
            return "".join(f'<{tag} class="{k}">{s}</{tag}>' for k, s in zip(kinds, shown, strict=True))

        body = "\n".join(f"<tr>{row('td', cells)}</tr>" for cells in self.rows)
        head = f"<thead><tr>{row('th', self.header)}</tr></thead>"
        return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'

    def markdown(self) -> str:
        """As Markdown, without the columns that hold pictures."""
        pictures = [any(isinstance(row[i], Picture) for row in self.rows) for i in range(len(self.header))]
        rule = ["--:" if number else "---" for number in self._numbers()]
        lines = []
        for cells in (self.header, rule, *self.rows):
            kept = (f"{cell}".replace("|", "\\|") for cell, picture in zip(cells, pictures, strict=True) if not picture)
            lines.append(f"| {' | '.join(kept)} |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, plain text being a paragraph; level 2, or 3 within the section before."""

    title: str
    blocks: Sequence[Block | str]
    level: int = 2

    def shown(self) -> list[Block]:
        """The blocks, each text as one."""
        return [Text(block) if isinstance(block, str) else block for block in self.blocks]


def to_html(title: str, sections: Sequence[Section]) -> str:
    """The whole document as one HTML file."""
    names = {id(section): f"s{n}" for n, section in enumerate(sections)}
    links = "".join(f'<li><a href="#{names[id(s)]}">{html.escape(s.title)}</a></li>' for s in sections if s.level == 2)
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1><nav><ul>{links}</ul></nav>",
    ]
    for section in sections:
        level = section.level
        parts.append(f'<h{level} id="{names[id(section)]}">{html.escape(section.title)}</h{level}>')
        for is_drawing, blocks in groupby(section.shown(), lambda block: isinstance(block, Drawing)):
            inner = [block.html() for block in blocks]
            parts += ['<div class="grid">', *inner, "</div>"] if is_drawing else inner
    return "\n".join([*parts, "</body></html>\n"])


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """The texts and tables as Markdown; of pictures only what they show."""
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"{'#' * section.level} {section.title}")
        parts += filter(None, (block.markdown() for block in section.shown()))
    return "\n\n".join(parts) + "\n"


def _inline(text: str) -> str:
    """Text as HTML; `backticks` become code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))
