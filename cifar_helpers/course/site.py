"""The published notebooks as web pages, for people who will not run them: as they are stored, nothing is executed."""

import base64
import html
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from cifar_helpers._arguments import require, require_path
from cifar_helpers._storage import read_lines
from cifar_helpers.course._ownership import claim_folder, is_project, remove_own_files, require_own_folder, write_own
from cifar_helpers.course.captions import add_alt_texts
from cifar_helpers.course.notebooks import find_notebooks, repository_address
from cifar_helpers.course.pages import figure_block, make_page, make_sections, make_table
from cifar_helpers.course.report import count_outcomes, figure_sections, results_table
from cifar_helpers.course.verdicts import read_verdicts

__all__ = ["write_site"]

_TITLES = {"index.html": "Contents", "report.html": "Report", "glossary.html": "Glossary"}
# The classes are those of Pygments: keywords, comments, texts, numbers, names that are defined or built in.
_STYLE = """
.highlight [class^=k], .highlight .ow { color: #1b6b32; font-weight: 600 }
.highlight [class^=c] { color: #5b6770; font-style: italic }
.highlight [class^=s] { color: #a31f1f }
.highlight [class^=m], .highlight .nb { color: #0b57a4 }
.highlight .nf, .highlight .nc, .highlight .nd { color: #6a2c91 }
.input_area pre { border-left: 3px solid #0b57a4 }
.output_text pre, .output_error pre { background: #fff; border-left: 3px solid #ccc }
.anchor-link { display: none }
math[display=block] { margin: .8rem 0 }
"""
_NARROW = "body { max-width: 60rem }"


def write_site(home: Path, out: Path) -> Path:
    """Write a page for each notebook of the project `home` below `out`, and contents, report and glossary; return one.

    The page returned is index.html: the README. No page has a script or asks for anything outside.

    Raises:
        ValueError: `home` is not the repository, or `out` was not made by this program.
    """
    require_path("home", home)
    require_path("out", out)
    home, out = home.resolve(), out.resolve()
    require(is_project(home), "home", home, "the folder of the repository, with README.md and notebooks/")
    require_own_folder(out)
    paths = find_notebooks(home / "notebooks")
    pages = {home / "README.md": "index.html", home / "notebooks" / "README.md": "glossary.html"}
    pages |= {path: f"{path.stem}.html" for path in paths}
    titles = _TITLES | {f"{path.stem}.html": path.stem[:2] for path in paths}
    nav = " ".join(f"<a href='{name}'>{title}</a>" for name, title in titles.items())
    claim_folder(out)
    remove_own_files(out, ("*.html",))
    for path, name in pages.items():
        title, body = _render(path, home, pages)
        write_own(out / name, make_page(title, body, nav, _STYLE + _NARROW))
    write_own(out / "report.html", make_page("What the notebooks found", _report(paths, home), nav))
    return out / "index.html"


def _render(path: Path, home: Path, pages: dict[Path, str]) -> tuple[str, str]:
    """Return the title of a notebook, or of a text in Markdown, and all of it as HTML."""
    renderer = _Renderer(path, home, pages)
    if path.suffix == ".md":
        body = renderer.render(path.read_text(encoding="utf-8"))
    else:
        notebook = nbformat.read(path, as_version=4)
        add_alt_texts(notebook.cells)
        # Without cleaning, which takes most of the time: what is stored is our own.
        filters = {"markdown2html": renderer.render, "clean_html": lambda text: text}
        exporter = HTMLExporter(
            template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True, filters=filters
        )
        body, _ = exporter.from_notebook_node(notebook)
    title = re.search(r"<h1[^>]*>(.*?)</h1>", body)
    return html.unescape(re.sub(r"<[^>]*>", "", title[1])) if title else path.stem, body


class _Renderer(IPythonRenderer):
    """Makes HTML of Markdown, with formulas in MathML, pictures inside, and links that lead to the other pages.

    Args:
        path: of the text, from which its links go out.
        home: of the project.
        pages: names of the pages, by what they are made from.
    """

    def __init__(self, path: Path, home: Path, pages: dict[Path, str]) -> None:
        super().__init__(escape=False, exclude_anchor_links=True)
        self._folder, self._home, self._pages = path.parent, home, pages
        self._is_markdown = path.suffix == ".md"

    def render(self, source: str) -> str:
        return MarkdownWithMath(renderer=self).render(source)

    def inline_math(self, body: str) -> str:
        return convert(body)

    def block_math(self, body: str) -> str:
        return f"<div class='wide'>{convert(body, display='block')}</div>"

    def heading(self, text: str, level: int, **attrs: object) -> str:
        """Return a heading with the anchor that it has in JupyterLab, or of a text in Markdown on GitHub."""
        anchor = re.sub(r"<[^>]*>", "", text).strip()
        if self._is_markdown:
            anchor = re.sub(r"[^\w\- ]", "", anchor.lower())
        anchor = anchor.replace(" ", "-").replace("'", "&#39;")
        return f"<h{level} id='{anchor}'>{text}</h{level}>\n"

    def link(self, text: str, url: str, title: str | None = None) -> str:
        place, mark, anchor = url.partition("#")
        if place and "://" not in place:
            path = (self._folder / place).resolve()
            url = self._pages.get(path) or f"{repository_address()}/blob/main/{path.relative_to(self._home).as_posix()}"
            url += mark + anchor
        return super().link(text, url, title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """Return a picture of the project inside the page; of any other, its alternative text."""
        if "://" in url:
            return text
        path = (self._folder / url).resolve()
        return super().image(text, f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}", title)


# --- the report on what is published ---


def _report(paths: list[Path], home: Path) -> str:
    """Return as HTML all hypotheses, figures and runs of the published notebooks."""
    rows = [[path.stem, *row] for path in paths for row in read_verdicts(path)]
    columns = ["notebook", "hypothesis", "outcome", "measured"]
    sections = {
        "What became of the hypotheses": count_outcomes([row[2] for row in rows])
        + make_table(columns, rows, len(columns), "cards"),
        **figure_sections({path.stem: list(_figures(path)) for path in paths}),
        "Runs": results_table(read_lines(home / "figures" / "runs.jsonl")),
    }
    return "<h1>What the notebooks found</h1>" + make_sections(sections)


def _figures(path: Path) -> Iterator[str]:
    """Yield the figures that a notebook stores, as HTML, each with the heading of its section."""
    notebook = nbformat.read(path, as_version=4)
    add_alt_texts(notebook.cells)
    heading = ""
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            heading = ([heading, *re.findall(r"^##+ (.*)$", cell.source, flags=re.M)])[-1]
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                png, caption = output.data["image/png"], output.metadata.get("image/png", {}).get("alt", "")
                yield figure_block(base64.b64decode(png), heading, caption, path.stem, f"{path.stem}-{i}")
