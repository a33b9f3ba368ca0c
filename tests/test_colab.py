"""Colab: its T4 and its slow machine without a GPU as stubs, and each notebook alone, with its versions, for real."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from torch import nn

from cifar_helpers._storage import read_lines
from cifar_helpers.course import get_budget, open_workspace
from cifar_helpers.course.colab import KEEP, colab_advice
from cifar_helpers.runtime import pick_device
from cifar_helpers.training._plan import make_plan
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.loop import fit

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PYTHON = ROOT / "build" / "colab" / "venv" / "bin" / "python"  # `make colab-test` makes it


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """Stand on a fresh Colab machine: its variable, an empty folder, none of ours set, no GPU."""
    for name in ("CIFAR_PROFILE", "CIFAR_OUT", "CIFAR_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("cifar_helpers.course.workspace.home_folder", Path.cwd)  # no clone around the package
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def put_in(gpu: tuple[int, int], monkeypatch) -> None:
    """Pretend that there is a GPU of this compute capability, which claims bfloat16, as a T4 does."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device=None: gpu)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *a, **k: True)


# --- the profile ---


@pytest.mark.parametrize(("gpu", "profile"), [((7, 5), "laptop"), ((8, 0), "full"), ((9, 0), "full"), (None, "quick")])
def test_the_default_profile_suits_the_machine(colab, gpu, profile):
    if gpu:
        put_in(gpu, colab)
    assert get_budget().profile == profile
    colab.setenv("CIFAR_PROFILE", "laptop")
    assert get_budget().profile == "laptop"


def test_a_gpu_that_is_not_used_decides_nothing(colab):
    put_in((9, 0), colab)
    colab.setenv("CIFAR_DEVICE", "cpu")
    assert get_budget().profile == "quick"
    colab.delenv("COLAB_RELEASE_TAG")
    assert get_budget().profile == "laptop"


# --- what is said ---


def test_a_reader_hears_how_to_get_more_and_how_to_keep_it(colab, capsys):
    more, keep = colab_advice("quick")
    assert "%env CIFAR_PROFILE=laptop" in more
    assert keep.endswith(KEEP)
    assert colab_advice("laptop") == [keep]
    colab.setenv("CIFAR_PROFILE", "quick")  # a choice
    assert colab_advice("quick") == [keep]
    open_workspace("01_data", "quick", "cpu", ["synthetic"])
    assert keep in capsys.readouterr().out


def test_elsewhere_nothing_is_said(colab, capsys):
    colab.delenv("COLAB_RELEASE_TAG")
    open_workspace("01_data", "quick", "cpu", ["synthetic"])
    assert capsys.readouterr().out == ""


TINY = TrainConfig(epochs=1, precision="float32")


def train_on_a_new_machine(folder: Path, monkeypatch) -> tuple[str, nn.Module]:
    """Train as a notebook does in an empty folder; return what is printed on the way to the end, and the network."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    here = open_workspace("01_data", "quick", "cpu", ["synthetic"])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    batches = [(torch.ones(8, 3, 2, 2), torch.arange(8) % 2)]
    fit(model, batches, batches, TINY, checkpoint=here.checkpoint("tiny"), device="cpu")
    assert not list(folder.rglob("*.safetensors"))
    return model


def test_the_line_about_drive_keeps_a_training_for_the_next_session(colab, tmp_path, capsys):
    """The line that is printed is executed, with a folder in the place of the Drive."""
    mounted = []
    drive = SimpleNamespace(mount=mounted.append)
    colab.setitem(sys.modules, "google.colab", SimpleNamespace(drive=drive))
    colab.setenv("CIFAR_OUT", "")  # so that what the line sets is undone
    exec(KEEP.replace("/content/drive", str(tmp_path / "drive")))
    assert mounted == [str(tmp_path / "drive")]
    assert colab_advice("laptop") == []
    first = train_on_a_new_machine(tmp_path / "monday", colab)
    assert "trained before" not in capsys.readouterr().out
    second = train_on_a_new_machine(tmp_path / "tuesday", colab)
    assert "trained before, loaded" in capsys.readouterr().out
    assert torch.equal(first[1].weight, second[1].weight)
    assert (tmp_path / "drive" / "MyDrive" / "cifar" / "checkpoints").is_dir()


# --- a T4, which has no bfloat16 whatever it claims ---


@pytest.mark.parametrize(
    ("gpu", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_a_training_takes_the_number_format_of_the_gpu_and_scales_the_loss_where_it_must(colab, gpu, dtype):
    put_in(gpu, colab)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    images = torch.randn(8, 3, 2, 2)
    batches = [(images, torch.arange(8) % 2)]
    config = TrainConfig(epochs=1, replicas=1)
    assert config.precision == "auto"
    plan = make_plan(model, batches, batches, config, pick_device(), num_classes=2, images=images)
    assert plan.device.type == "cuda"
    assert plan.dtype == dtype
    assert (plan.scaler is not None) == (dtype == torch.float16)
    assert plan.scaler is None or plan.scaler.is_enabled()


def tiny_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return a loss whose gradients are zero in float16, unless they are scaled."""
    return 1e-7 * nn.functional.cross_entropy(logits, labels)


def test_float16_learns_from_gradients_that_it_could_not_hold():
    """On a CPU, with the scaler that a T4 gets."""
    torch.manual_seed(0)
    images, labels = torch.randn(64, 3, 2, 2), torch.arange(64) % 2
    batches = [(images + labels[:, None, None, None], labels)]
    weights = {}
    for precision in ("float32", "float16"):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        config = TrainConfig(epochs=10, lr=1e6, weight_decay=0, precision=precision, schedule="constant")
        fit(model, batches, batches, config, loss=tiny_loss, device="cpu", verbose=False)
        weights[precision] = model[1].weight.detach()
    torch.manual_seed(1)
    assert (nn.Linear(12, 2).weight - weights["float32"]).abs().max() > 0.1
    assert torch.allclose(weights["float16"], weights["float32"], atol=0.02)


# --- each notebook alone, for real ---


@pytest.fixture
def wheel():
    """Take the package away from the environment of Colab's versions; return the wheel that a reader uploads."""
    (built,) = (ROOT / "build" / "colab").glob("*.whl")
    subprocess.run([PYTHON, "-m", "pip", "--quiet", "uninstall", "--yes", "cifar_helpers"], check=True)
    return built


@pytest.fixture(params=["synthetic", pytest.param("real", marks=pytest.mark.real)])
def source(request):
    return request.param


def run_alone(path: Path, folder: Path, source: str) -> nbformat.NotebookNode:
    """Execute a notebook in this folder as on Colab without a GPU, and return it executed."""
    kept = {k: v for k, v in os.environ.items() if k not in ("CIFAR_PROFILE", "CIFAR_OUT", "PYTHONPATH")}
    colab = {"CIFAR_DATA": source, "CIFAR_DEVICE": "cpu", "COLAB_RELEASE_TAG": "release-colab"}
    done = subprocess.run(
        [PYTHON, ROOT / "tests" / "run_alone.py", path],
        cwd=folder,
        env=kept | colab | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    return nbformat.read(path, as_version=4)


@pytest.mark.colab
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_alone_in_an_empty_folder_runs_from_top_to_bottom(path, source, wheel, tmp_path):
    alone = Path(shutil.copy(path, tmp_path))
    shutil.copy(wheel, tmp_path)
    outputs = [output for cell in run_alone(alone, tmp_path, source).cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert re.search(r"on this machine \(profile quick\)", text)
    assert KEEP in text
    assert f"quick profile, {source} data" in text
    looks = [row for log in tmp_path.rglob("test_access.jsonl") for row in read_lines(log)]
    assert source == "synthetic" or {row["kind"] for row in looks} <= {"audit"}  # no network is scored on test
