"""The published notebooks as web pages: nothing is lost, nothing is asked for outside, and a reader can read it."""

import base64
import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from browser import browser_page
from test_report import RESULTS, ROW, save_line

from cifar_helpers._storage import append_line
from cifar_helpers.course.captions import saved_figures
from cifar_helpers.course.report import write_report
from cifar_helpers.course.verdicts import published_verdicts

site = pytest.importorskip("cifar_helpers.course.site", reason="makes web pages: pip install '.[notebooks]'")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
PAGES = ["index", "glossary", "report", *(path.stem for path in NOTEBOOKS)]

# What is wrong with a page: pictures that did not load, text wider than the window, and text too pale for its ground.
LOOK = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => numbers(colour).slice(0, 3).map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return getComputedStyle(at).backgroundColor;
    }
    return 'rgb(255, 255, 255)';
  };
  const contrast = (element) => {
    const [dark, bright] = [getComputedStyle(element).color, ground(element)].map(light).sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const say = (element) => `${element.tagName} ${element.textContent.trim().slice(0, 80)}`;
  const images = [...document.images];
  images.forEach((image) => { image.loading = 'eager'; });
  const texts = [...document.body.querySelectorAll('*')].filter((element) =>
    [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  return {
    pictures: images.length,
    unseen: images.filter((image) => !image.complete || !image.naturalWidth).map((image) => image.alt),
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    pale: texts.filter((element) => contrast(element) < 4.5).map(say),
  };
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("site") / "site"
    site.write_site(ROOT, folder)
    return {path.stem: path for path in folder.glob("*.html")}


class Tags(HTMLParser):
    """Collects what a page links to, its anchors, and its pictures with their alternative texts."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links, self.anchors, self.pictures, self.names = [], set(), [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.names.add(tag)
        self.links += [found["href"]] if "href" in found else []
        self.anchors |= {found["id"]} if "id" in found else set()
        self.pictures += [(found.get("src", ""), found.get("alt", ""))] if tag == "img" else []


def test_there_is_a_page_for_everything_that_is_published(pages):
    assert sorted(pages) == sorted(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_holds_its_pictures_with_words_and_asks_for_nothing(pages, name):
    tags = Tags(pages[name])
    assert not tags.names & {"script", "link", "iframe", "object", "video"}
    assert [src[:60] for src, alt in tags.pictures if not src.startswith("data:image/png") or len(alt) < 10] == []
    assert "url(" not in pages[name].read_text(encoding="utf-8")


def test_all_links_inside_lead_somewhere(pages):
    tags = {name: Tags(path) for name, path in pages.items()}
    for name, page in tags.items():
        for link in page.links:
            place, _, anchor = link.partition("#")
            if "://" not in place:
                target = place.removesuffix(".html") or name
                assert target in tags, f"{name}: {link}"
                assert not anchor or anchor in tags[target].anchors, f"{name}: {link}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_page_of_a_notebook_shows_its_stored_outputs(pages, path):
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    stored = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    shown = [src.partition(",")[2] for src, _ in Tags(pages[path.stem]).pictures]
    assert list(map(base64.b64decode, shown)) == list(map(base64.b64decode, stored))
    text = html.unescape(pages[path.stem].read_text(encoding="utf-8"))
    for row in published_verdicts()[path.stem]:
        assert all(part in text for part in row)


def test_formulas_are_formulas(pages):
    page = pages["05_batchnorm"].read_text(encoding="utf-8")
    assert page.count("<math") > 50
    for name in PAGES:
        assert not re.search(r"<m[a-z]+>\\", pages[name].read_text(encoding="utf-8")), name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_stored_picture_has_a_caption(path):
    for cell in nbformat.read(path, as_version=4).cells:
        pictures = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        assert len(pictures) == len([c for c in saved_figures(cell.source).values() if c]), cell.source


def test_the_report_shows_all_figures_and_hypotheses(pages):
    page = pages["report"].read_text(encoding="utf-8")
    figures = sum(len(Tags(pages[path.stem]).pictures) for path in NOTEBOOKS)
    assert page.count("<figure") == figures > 100
    assert f"Of {sum(map(len, published_verdicts().values()))} hypotheses: " in page


def test_pages_are_written_over_older_ones_and_over_nothing_of_yours(tmp_path):
    (tmp_path / "thesis.html").write_text("mine")
    with pytest.raises(ValueError, match="was not made by cifar_helpers"):
        site.write_site(ROOT, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.html"]


@pytest.mark.parametrize(("home", "words"), [(3, "a path"), (Path("/nowhere"), "the folder of the repository")])
def test_pages_of_no_repository_are_refused(tmp_path, home, words):
    with pytest.raises(ValueError, match=words):
        site.write_site(home, tmp_path / "site")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def report_of_a_run(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path))
    save_line("synthetic")
    for number in range(3):
        append_line(tmp_path / "figures" / "runs.jsonl", ROW | {"name": f"a-name-of-some-length-{number}"})
    published = replace(RESULTS[0], executed=ROOT / "notebooks" / "05_batchnorm.ipynb")
    return write_report(tmp_path, [*RESULTS, published])


def test_pages_look_right_at_every_width(pages, report_of_a_run):
    with browser_page() as page:
        for name, path in (pages | {"report of a run": report_of_a_run}).items():
            for width in (1280, 390):
                page.set_viewport_size({"width": width, "height": 900})
                page.goto(path.as_uri())
                page.evaluate(LOOK)
                page.wait_for_load_state("networkidle")
                seen = page.evaluate(LOOK)
                assert (seen["unseen"], seen["wide"], seen["pale"]) == ([], 0, []), (name, width)
        assert page.faults == []
        assert [url[:80] for url in page.requests if not url.startswith(("data:image/png", "file://"))] == []
