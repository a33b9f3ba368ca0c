"""Web pages that need nothing else: no script, no other file, pictures inside; for screens from 320 pixels on."""

import base64
import html
from collections.abc import Mapping, Sequence

from cifar_helpers._arguments import require
from cifar_helpers.course._ownership import GENERATOR
from cifar_helpers.course.captions import as_sentence

__all__ = ["figure_block", "make_page", "make_sections", "make_table"]

# Texts have a contrast of 4.5 or more on their ground; tables, code and formulas that are too wide scroll themselves.
_STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; color: #222;
  background: #fff; overflow-wrap: break-word }
h1, h2, h3 { line-height: 1.2 }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; padding-bottom: .3rem }
p, li, details { max-width: 46rem }
a { color: #0b57a4 }
nav { padding: .5rem 0; border-bottom: 1px solid #ddd } nav a { margin-right: 1rem; white-space: nowrap }
.facts { color: #595959; font-size: .85rem }
.synthetic { background: #fff3cd; padding: .6rem 1rem; border-left: 4px solid #b38600 }
.wide, pre { overflow-x: auto }
pre { background: #f6f6f6; padding: .6rem; font-size: .85rem; line-height: 1.4 }
code { font-family: ui-monospace, monospace; font-size: .9em }
table { border-collapse: collapse; font-size: .9rem; display: block; overflow-x: auto; max-width: 100% }
th { text-align: left; border-bottom: 2px solid #888 }
th, td { padding: .3rem .6rem; vertical-align: top } td { border-bottom: 1px solid #e5e5e5 }
td.number, th.number { text-align: right }
img { max-width: 100%; height: auto }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); gap: 2rem;
  align-items: start }
figure { margin: 0 } figcaption { font-size: .9rem; max-width: 46rem }
.held { color: #1b6b32; font-weight: 600 } .failed { color: #a31f1f; font-weight: 600 }
.unjudged { white-space: nowrap }
@media (max-width: 44rem) {
  .cards table, .cards tbody, .cards tr, .cards td { display: block } .cards tr:first-child { display: none }
  .cards tr { border-top: 2px solid #888; padding: .5rem 0 } .cards td { border: 0; padding: .1rem 0 }
  .cards td::before { content: attr(data-column) ": "; color: #595959; font-weight: normal }
}
"""

# Classes of the cells that say what became of a hypothesis.
_OUTCOMES = {"held": "held", "failed": "failed", "not judged": "unjudged"}


def make_page(title: str, body: str, nav: str = "", style: str = "") -> bytes:
    """Return a page of HTML.

    Args:
        title: text of its tab.
        body, nav: HTML.
        style: rules beside those of all pages.

    Raises:
        ValueError: there is no title, without which a page cannot be told from another.
    """
    require(isinstance(title, str) and bool(title), "title", title, "a text")
    about = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
    head = f"<!doctype html><html lang='en'><head>{about}{GENERATOR}<title>{html.escape(title)}</title>"
    top = f"<nav>{nav}</nav>" if nav else ""
    return f"{head}\n<style>{_STYLE}{style}</style></head>\n<body>{top}<main>\n{body}\n</main></body></html>\n".encode()


def make_sections(sections: Mapping[str, str]) -> str:
    """Return titled sections of HTML, by title, with links to them first."""
    links = " ".join(f"<a href='#s{i}'>{html.escape(title)}</a>" for i, title in enumerate(sections))
    texts = (f"<h2 id='s{i}'>{html.escape(title)}</h2>{text}" for i, (title, text) in enumerate(sections.items()))
    return "\n".join([f"<nav>{links}</nav>", *texts])


def make_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numeric_from: int, kind: str = "wide") -> str:
    """Return a table of HTML, of texts.

    Args:
        numeric_from: columns from here on are set flush right.
        kind: "wide" scrolls where there is no room; "cards" sets the cells of a row below each other there.
    """
    marks = ["number" if i >= numeric_from else "" for i in range(len(columns))]
    named = [column if kind == "cards" else "" for column in columns]
    lines = ["".join(_cell("th", text, mark) for text, mark in zip(columns, marks, strict=True))]
    for row in rows:
        cells = zip(row, marks, named, strict=True)
        lines.append("".join(_cell("td", text, _OUTCOMES.get(text, mark), column) for text, mark, column in cells))
    return f"<div class='{kind}'><table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>"


def _cell(tag: str, text: str, mark: str, column: str = "") -> str:
    attributes = {"class": mark, "data-column": column}
    given = "".join(f" {name}='{html.escape(value)}'" for name, value in attributes.items() if value)
    return f"<{tag}{given}>{html.escape(text)}</{tag}>"


def figure_block(png: bytes, title: str, caption: str, source: str, anchor: str) -> str:
    """Return a figure of HTML with the picture inside; its alternative text is title and caption."""
    title, caption, source, anchor = (html.escape(text) for text in (as_sentence(title), caption, source, anchor))
    return (
        f"<figure id='{anchor}'><img alt='{title} {caption}' loading='lazy' "
        f"src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
        f"<figcaption><strong>{title}</strong> {caption}<br><span class='facts'>{source}</span></figcaption></figure>"
    )
