"""The house: who imports whom, what is public, and that importing does nothing else."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import cifar_helpers

PACKAGE = Path(cifar_helpers.__file__).parent
# From the lowest to the highest: each imports from those before it, and a package from itself.
LEVELS = (
    ("_arguments",),
    ("plots", "tables"),
    ("_contract", "_hashing", "_storage"),
    ("runtime",),
    ("_progress",),
    ("metrics", "statistics"),
    ("data",),
    ("models",),
    ("training",),
    ("checks",),
    ("transfer",),
    ("classify", "submission"),
    ("__init__",),
    ("course",),
    ("__main__",),
)
ORDER = [unit for level in LEVELS for unit in level]
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
PUBLIC = [name for name in MODULES if not any(part.startswith("_") for part in name.split("."))]
PACKAGES = ("data", "models", "training", "checks")
HEAVY = ("torchvision", "seaborn", "sklearn", "scipy", "matplotlib", "pandas", "IPython", "nbclient")


def imported(module: str) -> set[str]:
    """Return the modules of this package that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("cifar_helpers") for alias in node.names), "write from cifar_helpers…"
        elif isinstance(node, ast.ImportFrom) and node.module == "cifar_helpers":
            found |= {"__init__" if alias.name == "__version__" else alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cifar_helpers."):
            base = node.module.removeprefix("cifar_helpers.")
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_to_lower_levels(module):
    own = module.split(".")[0]
    level = {unit: i for i, units in enumerate(LEVELS) for unit in units}
    for other in {name.split(".")[0] for name in imported(module)} - {own}:
        assert level[other] < level[own], f"{module} imports {other}"


def test_the_library_never_imports_the_course():
    library = [name for name in MODULES if name != "__main__" and not name.startswith("course")]
    assert not [name for name in library if any(other.startswith("course") for other in imported(name))]


def test_training_knows_batches_by_what_they_do_and_models_not_at_all():
    for name in MODULES:
        if name.startswith("training."):
            assert {other for other in imported(name) if other.startswith(("data", "models"))} <= {"data.transforms"}


def test_there_is_no_circle():
    imports = {name: {other for other in imported(name) if other in MODULES} for name in MODULES}
    order: list[str] = []
    while len(order) < len(imports):
        ready = [name for name, needs in imports.items() if name not in order and needs <= set(order)]
        assert ready, f"circle among {set(imports) - set(order)}"
        order += ready


def defined(module: str) -> set[str]:
    """Return the names that a module defines at its top."""
    names: set[str] = set()
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


@pytest.mark.parametrize("module", PUBLIC)
def test_what_is_not_private_stands_in_all(module):
    """What `training` shares among its own modules and shows to nobody else lives in a module of its own name."""
    loaded = importlib.import_module(f"cifar_helpers.{module}")
    public = {name for name in defined(module) if not name.startswith("_")}
    assert public <= set(loaded.__all__), f"neither private nor in __all__: {public - set(loaded.__all__)}"
    assert len(set(loaded.__all__)) == len(loaded.__all__)
    assert all(getattr(loaded, name) is not None for name in loaded.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_shows_what_its_modules_show(package):
    loaded = importlib.import_module(f"cifar_helpers.{package}")
    shown = {name for module in PUBLIC if module.startswith(f"{package}.")
             for name in importlib.import_module(f"cifar_helpers.{module}").__all__}  # fmt: skip
    assert set(loaded.__all__) <= shown
    assert all(getattr(loaded, name) is not None for name in loaded.__all__)


def test_the_top_has_about_twenty_names():
    assert 15 <= len(cifar_helpers.__all__) <= 30
    assert all(getattr(cifar_helpers, name) is not None for name in cifar_helpers.__all__)


def test_importing_is_cheap():
    code = f"import sys, cifar_helpers; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_importing_has_no_side_effects(tmp_path):
    code = (
        "import os, random, matplotlib, nbclient, pooch, seaborn, sklearn.manifold, torch, torchvision\n"
        "before = random.getstate(), torch.get_rng_state().sum(), dict(matplotlib.rcParams), dict(os.environ)\n"
        + "".join(f"import cifar_helpers.{name}\n" for name in PUBLIC)
        + "after = random.getstate(), torch.get_rng_state().sum(), dict(matplotlib.rcParams), dict(os.environ)\n"
        "assert before == after\n"
        "assert not os.listdir('.')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
