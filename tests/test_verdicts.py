"""What became of the hypotheses: in a notebook, in the file that ships with the package, and before a run."""

import ast
import json
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from cifar_helpers.course import verdicts
from cifar_helpers.course.profiles import get_budget
from cifar_helpers.course.verdicts import describe_judged, published_verdicts, read_verdicts, verdict, write_published
from cifar_helpers.course.workspace import open_workspace
from cifar_helpers.tables import format_table

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
PROFILES = [(profile, source) for profile in ("quick", "laptop", "full") for source in ("real", "synthetic")]


def test_the_file_in_the_package_says_what_the_published_notebooks_print():
    printed = {path.stem: read_verdicts(path) for path in NOTEBOOKS}
    assert published_verdicts() == printed, "python -m cifar_helpers report"
    assert len(printed) == 8
    assert all(3 <= len(rows) <= 4 for rows in printed.values())


def test_the_file_is_written_from_the_notebooks(tmp_path, monkeypatch):
    monkeypatch.setattr(verdicts, "_PUBLISHED", tmp_path / "verdicts.json")
    assert write_published(ROOT / "notebooks") == tmp_path / "verdicts.json"
    assert (tmp_path / "verdicts.json").read_bytes() == Path(verdicts.__file__).with_name("verdicts.json").read_bytes()


def test_beside_not_judged_stands_the_published_verdict():
    published = published_verdicts()["05_batchnorm"]
    rows = [verdict(name, False, "n = 1", judged=False) for name, _, _ in published]
    lines = format_table(rows, ("hypothesis", "outcome", "measured")).splitlines()
    assert [line.split() for line in lines[1::2]] == [[*row[0].split(), "not", "judged", "n", "=", "1"] for row in rows]
    places = [lines[0].index(title) for title in ("outcome", "measured")]
    for line, (_, outcome, found) in zip(lines[2::2], published, strict=True):
        assert line[places[0] :].startswith(f"published: {outcome} ")
        assert line[places[1] :] == found


def test_a_verdict_of_ones_own_and_a_judged_one_stay_a_single_line():
    name, _, _ = published_verdicts()["05_batchnorm"][0]
    assert verdict(name, True, "n = 3", judged=True) == (name, "held", "n = 3")
    assert verdict("mine", True, "n = 1", judged=False) == ("mine", "not judged", "n = 1")


def test_rows_that_are_not_judged_are_read_once(tmp_path):
    rows = [verdict(name, True, "n = 1", judged=False) for name, _, _ in published_verdicts()["05_batchnorm"]]
    text = format_table(rows, ("hypothesis", "outcome", "measured"))
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("stream", text=text)])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "05_batchnorm.ipynb")
    assert read_verdicts(tmp_path / "05_batchnorm.ipynb") == [(row[0], "not judged", "n = 1") for row in rows]


# --- before the run ---


def judged_hypotheses(path: Path, profile: str, source: str) -> list[bool]:
    """Return for each call of `verdict` in a notebook what `judged` is there, where weights and runs can be had."""
    trees = [ast.parse(re.sub(r"^(\s*)%.*$", r"\1pass", cell.source, flags=re.M))
             for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]  # fmt: skip
    world = {
        "here": SimpleNamespace(data_source=source),
        "budget": get_budget(profile),
        "profile": profile,
        "quick": profile == "quick",
        "cifar10": SimpleNamespace(train=range(45_000), val=range(5_000)),
        "imagenet": "the weights",
        "has_tuned": True,
    }
    for tree in trees:
        for node in tree.body:
            names = [ast.unparse(target) for target in node.targets] if isinstance(node, ast.Assign) else []
            if names in (["is_real"], ["is_whole"], ["judged"], ["judged_tuned"]):
                world[names[0]] = eval(ast.unparse(node.value), world)
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    calls = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "verdict"]
    return [eval(ast.unparse(keyword.value), world) for call in calls for keyword in call.keywords]


@pytest.mark.parametrize(("profile", "source"), PROFILES)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_announced_is_what_the_notebook_judges(path, profile, source):
    judged = judged_hypotheses(path, profile, source)
    assert len(judged) == len(published_verdicts()[path.stem])
    said = describe_judged([path.stem], profile, source)
    found = re.search(r"judges (\w+) of (\d+) hypotheses", said)
    counted = (found[1].replace("none", "0"), found[2]) if found else (str(len(judged)),) * 2
    assert counted == (str(sum(judged)), str(len(judged))), said


def test_the_quick_profile_says_what_it_can_judge_in_all_notebooks():
    said = describe_judged(published_verdicts(), "quick", "real")
    assert said.startswith("The quick profile on real data judges 3 of 31 hypotheses; beside the others stand the ")
    assert describe_judged(published_verdicts(), "laptop", "real") == ""
    assert describe_judged(["mine"], "quick", "synthetic") == ""


@pytest.mark.parametrize(
    ("notebook", "profile", "said"),
    [
        ("05_batchnorm", "quick", "judges none of 4 hypotheses; beside each stands the published verdict."),
        ("02_overfit_one_batch", "quick", ""),
        ("05_batchnorm", "laptop", ""),
        ("train", "quick", ""),
    ],
)
def test_a_notebook_says_it_where_it_opens_its_workspace(tmp_path, monkeypatch, capsys, notebook, profile, said):
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path))
    open_workspace(notebook, profile, "cpu", ["real"])
    assert said in capsys.readouterr().out
    open_workspace(notebook, profile, "cpu", ["real"])
    assert (capsys.readouterr().out == "") == (said == "")


def test_the_stored_outputs_of_published_notebooks_hold_no_such_line():
    """All that is published was judged, so that publishing prints what it printed before."""
    for path in NOTEBOOKS:
        assert "beside the others stand" not in json.dumps(json.loads(path.read_text(encoding="utf-8")))
