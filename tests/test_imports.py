"""The import table: a module imports only from the levels before its own, and importing does nothing else."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cifar_helpers

PACKAGE = Path(cifar_helpers.__file__).parent
TABLE = {
    # level 0
    "arguments": set(),
    # level 1
    "config": {"arguments"},
    "runtime": set(),
    "augment": {"arguments"},
    "metrics": {"arguments"},
    "models": {"arguments"},
    "layers": {"arguments"},
    "optim": set(),
    "storage": set(),
    "synthetic": set(),
    "plots": set(),
    "baselines": set(),
    # level 2
    "official": {"storage"},
    "runs": {"config", "storage"},
    "classify": {"augment", "models", "storage"},
    "submission": {"arguments", "storage"},
    "claims": {"arguments", "runtime"},
    # level 3
    "data": {"arguments", "augment", "official", "runtime", "storage", "synthetic"},
    "train": {"augment", "config", "metrics", "optim", "runs", "runtime", "storage"},
    # level 4
    "recipes": {"arguments", "augment", "config", "data", "models", "runs", "storage", "train"},
    "checks": {"arguments", "metrics", "optim", "runtime", "train"},
    "transfer": {"arguments", "augment", "classify", "config", "data", "official", "runtime", "storage", "train"},
    # level 5
    "mutants": {"augment", "checks", "metrics", "train"},
    # top
    "report": {"claims", "official", "recipes", "runs", "runtime", "storage"},
    "__main__": {"arguments", "config", "data", "official", "recipes", "report", "runs", "runtime", "storage", "train"},
    "__init__": set(),
}


def imported(module: str) -> set[str]:
    """Return the modules of this package that a module imports."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("cifar_helpers") for alias in node.names), "write from cifar_helpers…"
        elif isinstance(node, ast.ImportFrom) and node.module == "cifar_helpers":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cifar_helpers."):
            found.add(node.module.split(".")[1])
    return found


def test_every_module_stands_in_the_table():
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(TABLE)


@pytest.mark.parametrize("module", TABLE)
def test_module_imports_what_the_table_says(module):
    assert imported(module) == TABLE[module]


def test_the_readme_shows_the_same_table_and_imports_point_upwards():
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    rows = {module: level for level, module in re.findall(r"^\| (\d|top) \| `(\w+)` \|", readme, flags=re.M)}
    level = {module: 9 if text == "top" else int(text) for module, text in rows.items()}
    assert set(rows) == set(TABLE) - {"__init__"}
    for module, needs in TABLE.items():
        assert all(level[need] < level[module] or module == "__main__" for need in needs)


def test_the_table_has_no_circle():
    order: list[str] = []
    while len(order) < len(TABLE):
        ready = [module for module, needs in TABLE.items() if module not in order and needs <= set(order)]
        assert ready, f"circle among {set(TABLE) - set(order)}"
        order += ready


def test_importing_has_no_side_effects(tmp_path):
    modules = [name for name in TABLE if not name.startswith("__")]
    code = (
        "import os, random, matplotlib, nbclient, pooch, seaborn, sklearn.manifold, torch, torchvision\n"
        "before = random.getstate(), torch.get_rng_state().sum(), dict(matplotlib.rcParams), dict(os.environ)\n"
        + "".join(f"import cifar_helpers.{name}\n" for name in modules)
        + "after = random.getstate(), torch.get_rng_state().sum(), dict(matplotlib.rcParams), dict(os.environ)\n"
        "assert before == after\n"
        "assert not os.listdir('.')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
