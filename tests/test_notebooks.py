"""The notebooks' policy: what every committed notebook must hold, and what none may."""

import ast
import importlib.util
import re
import statistics
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from cifar_helpers.course.notebooks import notebook_metadata
from cifar_helpers.course.prose import unsupported_numbers

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TAGS = {"minutes", "nbval-ignore-output", "parameters"}
SECTIONS = ["Question", "Hypothesis", "Budget", "Setup", "Conclusion", "Limits", "Exercises", "References", "Next"]
TRAINS = {"fit", "train_epoch", "sweep"}
STANDARD = {"copy", "dataclasses", "importlib", "itertools", "math", "pathlib", "sys"}
PACKAGES = STANDARD | {
    "cifar_helpers",
    "matplotlib",
    "numpy",
    "seaborn",
    "sklearn",
    "torch",
    "torchinfo",
    "torchvision",
}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    notebook = nbformat.read(request.param, as_version=4)
    notebook.path = request.param
    return notebook


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def python(cell) -> ast.Module:
    """Return the syntax tree of a cell; lines of IPython magic become `pass`."""
    return ast.parse(re.sub(r"^(\s*)%.*$", r"\1pass", cell.source, flags=re.M))


def calls(cell) -> set[str]:
    """Return the names of the functions and methods that a cell calls."""
    nodes = [node.func for node in ast.walk(python(cell)) if isinstance(node, ast.Call)]
    return {node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "") for node in nodes}


def test_there_are_notebooks():
    assert NOTEBOOKS
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{i:02d}" for i in range(1, len(NOTEBOOKS) + 1)]


def test_cells_ran_once_in_order_without_an_error(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"]


def test_enough_cells_are_compared(notebook):
    compared = [
        cell
        for cell in code_cells(notebook)
        if cell.outputs and "nbval-ignore-output" not in cell.metadata.get("tags", [])
    ]
    assert len(compared) >= 8
    assert sum(any(o.output_type == "stream" for o in cell.outputs) for cell in compared) >= 5


def test_tags_are_known_and_parameters_are_plain_literals(notebook):
    assert {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])} <= TAGS
    parameters = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == 1
    for statement in python(parameters[0]).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)


def test_sections_stand_in_their_order(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## (.+)$", text, flags=re.M)
    assert [heading for heading in headings if heading in SECTIONS] == SECTIONS
    assert re.match(r"# \d\d · ", notebook.cells[0].source)
    assert "What we see" in text
    assert "What this does not show" in text.replace("What this\ndoes not show", "What this does not show")


def test_numbers_in_prose_stand_in_the_outputs_of_their_section(notebook):
    assert [str(found) for found in unsupported_numbers(notebook)] == []


def test_badge_and_setup_name_this_file_and_this_project(notebook):
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    account = address.removeprefix("https://github.com/")
    badge = f"https://colab.research.google.com/github/{account}/blob/main/notebooks/{notebook.path.name}"
    assert badge in notebook.cells[0].source
    assert f"git+{address}" in code_cells(notebook)[0].source


def first_cell(path: Path) -> str:
    return code_cells(nbformat.read(path, as_version=4))[0].source


def run_setup(source, monkeypatch, folder):
    """Run a set-up cell in a folder as if the package were not installed; return what pip was asked for."""
    asked: list[str] = []
    world = {"get_ipython": lambda: SimpleNamespace(run_line_magic=lambda *_: asked.append(world["source"]))}
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(TransformerManager().transform_cell(source), world)
    return asked


def test_all_setup_cells_are_the_same():
    assert len({first_cell(path) for path in NOTEBOOKS}) == 1


def test_the_setup_cell_takes_the_clone_around_it(monkeypatch):
    assert run_setup(first_cell(NOTEBOOKS[0]), monkeypatch, ROOT / "notebooks") == []
    assert sys.path[0] == str(ROOT)


def test_the_setup_cell_takes_an_uploaded_wheel_else_the_repository_else_says_what_to_do(monkeypatch, tmp_path):
    source = first_cell(NOTEBOOKS[0])
    with pytest.raises(SystemExit, match=r"pip wheel .* upload it to this folder"):
        run_setup(source, monkeypatch, tmp_path)
    published = source.replace("-your-account-", "someone")
    assert run_setup(published, monkeypatch, tmp_path) == ["git+https://github.com/someone/cifar_helpers"]
    wheel = tmp_path / "cifar_helpers-1.0-py3-none-any.whl"
    wheel.touch()
    assert run_setup(published, monkeypatch, tmp_path) == run_setup(source, monkeypatch, tmp_path) == [str(wheel)]


def test_metadata_is_what_publishing_writes_for_colab_and_nbval(notebook):
    assert notebook.metadata == notebook_metadata(notebook.path.name)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert notebook.metadata["accelerator"] == "GPU"
    assert notebook.metadata["colab"] == {"gpuType": "T4", "name": notebook.path.name}
    assert "widgets" not in notebook.metadata
    assert not [cell for cell in notebook.cells if "execution" in cell.metadata]


def test_cells_are_short(notebook):
    lengths = [len([line for line in cell.source.splitlines() if line.strip()]) for cell in code_cells(notebook)]
    assert statistics.median(lengths) <= 8
    assert max(lengths) <= 30


def test_no_cell_trains_and_plots_or_ends_in_a_semicolon(notebook):
    for cell in code_cells(notebook):
        assert not cell.source.rstrip().endswith(";")
        names = calls(cell)
        assert not (names & TRAINS and any(name.startswith("plot") or name == "show" for name in names)), cell.source


def test_figures_are_saved_and_shown(notebook):
    for cell in code_cells(notebook):
        names = calls(cell)
        if any(name.startswith("plot_") for name in names):
            assert {"save_figure", "show"} <= names, cell.source


def test_nothing_unstable_is_used_in_cells(notebook):
    source = "\n".join(cell.source for cell in code_cells(notebook)[1:])  # the first one finds the package
    for word in ("tqdm", "clear_output", "%time", "sys.path", "os.chdir", "import *", "sealed_test"):
        assert word not in source


def test_imports_are_ours_or_the_fields(notebook):
    for cell in code_cells(notebook):
        for node in ast.walk(python(cell)):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {module.split(".")[0] for module in modules} <= PACKAGES


def test_outputs_are_small_pictures_and_text_without_a_machines_paths(notebook):
    assert notebook.path.stat().st_size < 1.5e6
    allowed = {"text/plain", "image/png"}
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert set(output.get("data", {})) <= allowed
            text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not re.search(r"/(home|root|tmp|usr|Users)/|0x[0-9a-f]{6}", text)


def test_published_outputs_come_from_real_data(notebook):
    text = "".join(output.get("text", "") for cell in code_cells(notebook) for output in cell.outputs)
    assert re.search(r"^(laptop|full) profile, real data", text, flags=re.M)


def test_only_two_functions_open_the_test_split():
    """One module holds it and one hands it out; no other knows where it is."""
    package = ROOT / "cifar_helpers"
    knowing = {
        path.relative_to(package).as_posix() for path in package.rglob("*.py") if "sealed_test" in path.read_text()
    }
    assert knowing == {"data/datasets.py", "course/test_access.py"}


def test_a_run_of_the_recipe_is_the_one_of_the_readme(notebook):
    """The README, its figure and every notebook speak of the same weights: `make publish` trains them first."""
    weights = re.compile(r"([\w-]+): weights ([0-9a-f]{12})")
    published = dict(weights.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    texts = [output.get("text", "") for cell in code_cells(notebook) for output in cell.outputs]
    named = {name: value for text in texts for name, value in weights.findall(text)}
    assert named.items() <= (named | published).items()
    asks = any(calls(cell) & {"train_recipe", "evaluate_recipe"} for cell in code_cells(notebook))
    assert named or not asks


def test_the_words_of_the_glossary_stand_where_it_points_to(notebook):
    glossary = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    entries = re.findall(r"^\| (.+?) \| .+ \| \[\d\d\]\((\S+)\) \|$", glossary, re.M)
    assert len(entries) == glossary.count("\n| ") - 1
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").lower()
    for words, path in entries:
        for word in re.sub(r"\(.*?\)|\bset\b", "", words).split(","):
            assert path != notebook.path.name or word.strip().lower() in prose, word
