"""What the README shows is run: every Python block, in its order, on small data."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from small import synthetic_split

import cifar_helpers
from cifar_helpers.data import Dataset

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TABLE = re.findall(
    r"^\| `([\w/]+)` \|", CONTRIBUTING.partition("## Where what is")[2].partition("\n## ")[0], flags=re.M
)
SLOW = "run_checks("  # half a minute; the checks have tests of their own


@pytest.fixture
def small_world(tmp_path, monkeypatch):
    """Work in an empty folder with a few pictures, and with few images for CIFAR-10."""
    monkeypatch.chdir(tmp_path)
    splits = (synthetic_split(count, 10, name) for count, name in ((200, "train"), (50, "val"), (50, "test")))
    dataset = Dataset("cifar10", "synthetic", *splits)
    monkeypatch.setattr(cifar_helpers, "load_data", lambda name: dataset)
    Image.new("RGB", (60, 40), "brown").save("my_dog.jpg")
    for part in ("train", "val"):
        for name, colour in (("cat", "grey"), ("dog", "brown")):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (40 + i, 40), colour).save(folder / f"{i}.png")
    return tmp_path


def test_every_block_runs(small_world, capsys):
    world = {"ids": torch.arange(10_000), "logits": torch.rand(10_000, 100)}
    for block in BLOCKS:
        quick = re.sub(r"epochs=\d+", "epochs=1", block).replace("width=0.5", "width=0.1")
        code = compile(quick, "README.md", "exec")
        if SLOW not in block:
            exec(code, world)
    printed = capsys.readouterr().out
    assert "validation accuracy" in printed
    assert "[]" in printed  # the submission has no fault
    assert {path.name for path in (small_world / "build").iterdir()} == {
        "mine.safetensors", "cnn.safetensors", "pictures.safetensors"
    }  # fmt: skip


def test_the_first_block_is_short_and_resumes_after_a_kill(tmp_path):
    """As a person would try it: killed for real, and the same lines again."""
    (block,) = (block for block in BLOCKS if "MultiMarginLoss" in block)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    (tmp_path / "mine.py").write_text(block.replace("epochs=5", "epochs=12").replace("512", "1024"))
    path = tmp_path / "build" / "mine.safetensors"
    process = subprocess.Popen([sys.executable, "mine.py"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL) if hasattr(signal, "SIGKILL") else process.kill()
    process.wait()
    assert path.exists()
    again = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 1  # random images: each call makes new ones, and the checkpoint does not answer for them
    assert "data.train" in again.stderr
    text = (tmp_path / "mine.py").read_text().replace("import torch\n", "import torch\ntorch.manual_seed(0)\n", 1)
    (tmp_path / "mine.py").write_text(text)
    path.unlink()
    process = subprocess.Popen([sys.executable, "mine.py"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    again = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "run: goes on from mine.safetensors after epoch" in again.stdout
    assert "validation accuracy" in again.stdout


@pytest.mark.parametrize("name", TABLE)
def test_folders_and_modules_of_the_table_exist(name):
    package = Path(cifar_helpers.__file__).parent
    assert (package / name).is_dir() or (package / f"{name}.py").is_file()
