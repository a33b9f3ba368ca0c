"""The package as its user gets it: what a wheel holds and asks for, and that it works from an empty folder."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from test_imports import LEVELS

import cifar_helpers

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cifar_helpers"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}

# Modules whose distribution has another name; IPython comes with ipykernel.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "IPython": "ipykernel"}
# What a plain `pip install cifar-helpers` does not bring.
LACKING = (
    "IPython",
    "ipykernel",
    "jupyterlab",
    "latex2mathml",
    "nbclient",
    "nbconvert",
    "nbformat",
    "nbval",
    "psutil",
    "pytest",
    "_pytest",
)
TEST_TOOLS = {"build", "coverage", "jupyterlab", "mypy", "nbval", "pre-commit", "pytest", "ruff", "setuptools"}

# Runs first in every interpreter of the user below: hides what is lacking, and notes what is written elsewhere.
SITE = """
import os, sys

sys.modules.update(dict.fromkeys({lacking!r}))
folder = os.path.realpath({folder!r})
allowed = (folder + os.sep, os.devnull, "/dev/", "/proc/")
changing = {{"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}}
writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

def watch(event, arguments):
    if event in changing or event == "open" and (arguments[2] or 0) & writing:
        paths = arguments[: 2 if event in ("os.rename", "os.symlink") else 1]
        for path in (os.path.realpath(os.fsdecode(path)) for path in paths if not isinstance(path, int)):
            if not path.startswith(allowed):
                with open(os.path.join(folder, "elsewhere.txt"), "a") as file:
                    print(event, path, file=file)

sys.addaudithook(watch)
"""

# What a first user does: her own network, her own batches, a checkpoint, and the network again.
TRAIN = """
import sys
from pathlib import Path

import cifar_helpers

heavy = {"matplotlib", "pandas", "scipy", "seaborn", "sklearn", "torchvision"} & set(sys.modules)
assert not heavy, f"import cifar_helpers imports {heavy}"
assert not list(Path.cwd().iterdir())
assert Path(cifar_helpers.__file__).is_relative_to(sys.argv[1]), cifar_helpers.__file__

import torch
from torch import nn

from cifar_helpers import TrainConfig, evaluate, fit, load_checkpoint


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 2)

    def forward(self, images):
        return self.layer(images.flatten(1))


torch.manual_seed(0)
images = torch.randn(32, 3, 2, 2)
batches = [(images, (images.mean((1, 2, 3)) > 0).long())]
model = Network()
config = TrainConfig(epochs=20, lr=0.5)
record = fit(model, batches, batches, config, checkpoint="mine.safetensors", device="cpu", verbose=False)
assert record.val_accuracy > 0.9, record

again = Network()
again.load_state_dict(load_checkpoint("mine.safetensors").weights)
assert evaluate(again, batches) == evaluate(model, batches)
print(cifar_helpers.__version__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy, so that no build/ and no egg-info stay here; with the installed setuptools."""
    pytest.importorskip("pip")
    source = tmp_path_factory.mktemp("source")
    for folder in ("cifar_helpers", "tests", "benchmarks", "figures"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run_pip("wheel", source, "--no-deps", "--no-build-isolation", "--wheel-dir", source / "dist")
    (built,) = (source / "dist").glob("*.whl")
    return built


def run_pip(*arguments) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class User:
    """Somebody in an empty folder who has the wheel, its dependencies, no settings and a new home."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        self._written = folder / "elsewhere.txt"
        for place in (self.work, folder / "home", folder / "temporary", folder / "site"):
            place.mkdir()
        site = SITE.format(lacking=LACKING, folder=str(folder))
        (folder / "site" / "sitecustomize.py").write_text(site, encoding="utf-8")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CIFAR_", "PYTHON", "XDG_", "MPL", "TORCH"))}
        self._environment = kept | {
            "PYTHONPATH": os.pathsep.join([str(library), str(folder / "site")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            **dict.fromkeys(("HOME", "USERPROFILE"), str(folder / "home")),
            **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder / "temporary")),
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the empty folder, and ask that it writes nowhere but there, at home and for a moment."""
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.work, env=self._environment, capture_output=True, text=True
        )
        assert not self._written.exists(), self._written.read_text(encoding="utf-8")
        return done

    def files(self) -> list[str]:
        return sorted(path.name for path in self.work.iterdir())


@pytest.fixture(scope="module")
def library(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("library")
    run_pip("install", wheel, "--no-deps", "--no-index", "--no-compile", "--target", target)
    return target


@pytest.fixture
def user(library, tmp_path) -> User:
    return User(tmp_path, library)


# --- from an empty folder ---


def test_your_own_network_is_trained_and_loaded_again(user, library):
    done = user.run("-c", TRAIN, str(library))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == cifar_helpers.__version__
    assert user.files() == ["mine.safetensors", "mine.safetensors.previous"]  # of the epoch before


def test_the_doctor_says_where_everything_goes(user):
    done = user.run("-m", "cifar_helpers", "doctor")
    assert done.returncode == 0, done.stderr
    for what in ("home", "data", "figures", "checkpoints"):
        (line,) = re.findall(rf"^{what} .*$", done.stdout, flags=re.M)
        assert str(user.folder.resolve()) in line
    assert user.files() == []


def test_run_says_that_it_needs_the_notebooks(user):
    done = user.run("-m", "cifar_helpers", "run")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert str(user.work.resolve() / "notebooks") in done.stderr
    assert user.files() == []


# What notebook 08 asks for, on real data: five steps on two data sets, and two more seeds of the last one.
ANSWERS = """
from cifar_helpers.course import CHAIN, find_runs, locate_workspace, read_result

here = locate_workspace("08_final_report", "quick", "cpu", ["real"])
for dataset in ("cifar10", "cifar100"):
    for step, seed in [*((step, 0) for step in CHAIN), (CHAIN[-1], 1), (CHAIN[-1], 2)]:
        row = find_runs(dataset, here, seed)[step]
        found = read_result(row, here, logits=step == CHAIN[-1] and not seed)
        print(row["name"], len(found.ranks), found.test is not None)
"""


def test_notebook_08_reads_the_published_answers_where_there_is_no_clone(user):
    done = user.run("-c", ANSWERS)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len({name for name, _, _ in rows}) == 14
    assert {count for _, count, _ in rows} == {"10000"}
    assert [name for name, _, logits in rows if logits == "True"] == ["final-cifar10", "final-cifar100"]
    assert user.files() == []


def test_the_table_of_results_is_the_one_of_the_readme_where_there_is_no_clone(user):
    done = user.run(
        "-c", "from cifar_helpers.course import results, home_folder; print(results.results_markdown(home_folder()))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in (ROOT / "README.md").read_text(encoding="utf-8")


# --- the wheel ---


def test_the_wheel_holds_the_package_its_license_the_published_answers_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")}
    weights = {path.relative_to(ROOT).as_posix() for path in (PACKAGE / "weights").iterdir()}
    answers = {name for name in names if name.startswith("cifar_helpers/course/published/")}
    package = {name for name in names if ".dist-info/" not in name} - answers
    assert package == modules | weights | {"cifar_helpers/py.typed", "cifar_helpers/course/verdicts.json"}
    assert {name.rpartition(".")[2] for name in answers} == {"jsonl", "safetensors"}
    assert wheel.stat().st_size < 6e6
    assert len([name for name in names if name.endswith(".dist-info/licenses/LICENSE")]) == 1


def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    assert metadata["Version"] == cifar_helpers.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Author"] == "the cifar_helpers authors"
    assert {line.split(", ")[0] for line in metadata.get_all("Project-URL")} == {"Changelog", "Issues", "Repository"}
    assert set(metadata.get_all("Provides-Extra")) == {"browser", "dev", "imagenet", "notebooks", "timm"}
    plain = {Requirement(line).name for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    assert plain == {requirement.name for requirement in RUNTIME}


# --- what it needs ---


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the distribution of each import of foreign code, and whether it is inside a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in (module.partition(".")[0] for module in modules):
            if module not in sys.stdlib_module_names | {"cifar_helpers"}:
                yield DISTRIBUTIONS.get(module, module), id(node) in inside


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_every_import_is_a_declared_dependency(path):
    runtime = {requirement.name for requirement in RUNTIME}
    optional = {requirement.name for extra in ("notebooks", "timm") for requirement in EXTRAS[extra]}
    in_course = "course" in path.relative_to(PACKAGE).parts
    for distribution, inside in imports(path):
        assert distribution in (runtime | optional if inside or in_course else runtime)


def test_every_dependency_is_imported():
    used = {distribution for path in PACKAGE.rglob("*.py") for distribution, _ in imports(path)}
    assert {requirement.name for requirement in RUNTIME} <= used


def test_dependencies_stand_once():
    names = [requirement.name for requirements in (RUNTIME, *EXTRAS.values()) for requirement in requirements]
    assert sorted(names) == sorted(set(names))
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["-e .[notebooks,imagenet,dev]"]


def test_one_version_of_the_weights_stands_everywhere():
    """The hash is that of one file: the notebook that installs it on Colab names the same version."""
    (weights,) = PROJECT["optional-dependencies"]["imagenet"]
    name = weights.partition("==")[0]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        found = re.findall(rf"{name}==[\d.]+", path.read_text(encoding="utf-8"))
        assert set(found) <= {weights}, path.name


def test_no_user_gets_a_test_tool_or_an_upper_bound():
    for requirement in RUNTIME:
        assert requirement.name not in TEST_TOOLS
        assert {specifier.operator for specifier in requirement.specifier} == {">="}
    assert not TEST_TOOLS - {"jupyterlab"} & {requirement.name for requirement in EXTRAS["notebooks"]}


# --- files that must agree ---


def constraints(name: str) -> dict[str, str]:
    lines = (ROOT / "constraints" / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {package.lower().replace("_", "-"): version for package, version in pairs}


def test_the_oldest_versions_are_the_lower_bounds():
    bounds = {
        requirement.name: next(s.version for s in requirement.specifier if s.operator == ">=")
        for requirement in [*RUNTIME, *EXTRAS["notebooks"], *EXTRAS["dev"]]
    }
    assert constraints("oldest.txt") == bounds


@pytest.mark.parametrize("name", ["ci.txt", "colab.txt"])
def test_versions_of_ci_and_colab_satisfy_the_bounds(name):
    exact = constraints(name)
    requirements = [*RUNTIME, *EXTRAS["notebooks"], *EXTRAS["dev"]]
    assert name != "ci.txt" or {requirement.name for requirement in requirements} <= exact.keys()
    for requirement in requirements:
        if requirement.name in exact:
            assert exact[requirement.name] in requirement.specifier, requirement


def test_one_version_stands_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, flags=re.M)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^cff-version: (.*)$", citation, flags=re.M) == ["1.2.0"]
    assert re.findall(r"^version: (.*)$", citation, flags=re.M) == [versions[0][0]] == [cifar_helpers.__version__]
    assert re.findall(r"^date-released: (.*)$", citation, flags=re.M) == [versions[0][1]]
    assert versions == sorted(versions, key=lambda row: Version(row[0]), reverse=True)
    assert all(re.search(rf"^\[{re.escape(version)}\]: https://", changelog, flags=re.M) for version, _ in versions)


def test_the_guide_shows_the_import_levels_that_are_tested():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| (`[^|]+`) \| [^|]+ \|$", guide, flags=re.M)
    assert [tuple(re.findall(r"`(\w+)`", row)) for row in rows] == [level for level in LEVELS if level[0][:2] != "__"]


def test_pre_commit_runs_the_ruff_of_ci():
    config = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"/ruff-pre-commit\n +rev: v(\S+)", config) == [constraints("ci.txt")["ruff"]]


@pytest.mark.skipif(shutil.which("make") is None or os.name != "posix", reason="needs make")
def test_make_address_writes_the_account_wherever_it_stands(tmp_path):
    address = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    assert address.count("/") == 1
    copy = tmp_path / "copy"
    ours = shutil.ignore_patterns(".venv", ".git", "figures", "*.egg-info", ".*_cache", "__pycache__", ".d?")
    shutil.copytree(
        ROOT,
        copy,
        ignore=lambda folder, names: {
            *ours(folder, names),
            *({"data", "build", "dist"} & set(names) if Path(folder) == ROOT else ()),
        },
    )
    subprocess.run(["make", "address", "REPOSITORY=some/one"], cwd=copy, check=True, capture_output=True)
    files = [path for path in copy.rglob("*") if path.is_file()]
    assert not [path for path in files if address.encode() in path.read_bytes() or path.suffix == ".bak"]
    assert sum(b"https://github.com/some/one" in path.read_bytes() for path in files) >= 10
