"""How pytest runs here: unit tests on small data, notebooks in the quick profile, each writing below `build/`."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
OUT = ROOT / "build" / "nbval"


def pytest_configure(config) -> None:
    """Give the notebooks' kernels their surroundings; they inherit this process's variables."""
    os.environ["CIFAR_PROFILE"] = "quick"
    os.environ["CIFAR_OUT"] = str(OUT)
    os.environ.setdefault("CIFAR_DATA_DIR", str(ROOT / "data"))
    os.environ["PYTHONWARNINGS"] = "error::FutureWarning"
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if workers > 1:  # with `pytest -n 2` the processes share the cores; torch, and what a test starts, read this
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    if getattr(config.option, "nbval", False):
        if config.option.nbval_cell_timeout == 2000:  # nbval's own default
            config.option.nbval_cell_timeout = 300
        if "PYTEST_XDIST_WORKER" not in os.environ:
            prepare_data()
        notice_dead_kernels()


def prepare_data() -> None:
    """Clear what earlier notebooks left, and fetch or make the data before a notebook's compared cells would."""
    from cifar_helpers.course.commands import prepare
    from cifar_helpers.course.notebooks import clear_output

    try:
        clear_output(OUT, checkpoints=True)
    except ValueError as refusal:
        raise pytest.UsageError(str(refusal)) from None
    os.environ |= prepare("quick", None)


def notice_dead_kernels() -> None:
    """Let nbval ask every second whether the kernel lives: it would wait for the cell's whole time-out."""
    from queue import Empty

    from nbval.kernel import RunningKernel

    wait = RunningKernel.get_message

    def get_message(self, stream, timeout=1):
        for _ in range(int(timeout)):
            try:
                return wait(self, stream, timeout=1)
            except Empty:
                if not self.is_alive():
                    raise RuntimeError("the kernel died (out of memory, or killed from outside)") from None
        raise Empty

    RunningKernel.get_message = get_message


def pytest_collection_modifyitems(config, items) -> None:
    """Skip what this machine cannot run, with the reason."""
    import torch

    from cifar_helpers.data.datasets import data_folder
    from cifar_helpers.data.download import SOURCES, wrong_files

    wanted = {mark.name for item in items for mark in item.iter_markers()}
    lacking = {}
    if "real" in wanted:
        synthetic = os.environ.get("CIFAR_DATA") == "synthetic"
        if synthetic or any(wrong_files(source, data_folder()) for source in SOURCES.values()):
            lacking["real"] = "CIFAR_DATA=synthetic, or the official CIFAR files are not in the data folder"
    if not (ROOT / "build" / "colab" / "venv" / "installed").exists():
        lacking["colab"] = "no environment with Colab's versions: make colab-test"
    elif "colab" not in config.option.markexpr:
        lacking["colab"] = "takes half an hour: make colab-test"
    if not torch.cuda.is_available():
        lacking["cuda"] = "no CUDA device"
    if "slow" not in config.option.markexpr:
        lacking["slow"] = "takes minutes: pytest -m slow"
    if "browser" not in config.option.markexpr:
        lacking["browser"] = "opens JupyterLab in a browser, some minutes: make browser-test"
    for item in items:
        for name, reason in lacking.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Remember the notebook in which a cell raised."""
    report = (yield).get_result()
    if report.failed and hasattr(item, "cell"):
        outputs = item.test_outputs
        if outputs is None or any(output["output_type"] == "error" for output in outputs):
            item.parent.failed_cell = item.name


def pytest_runtest_setup(item) -> None:
    """Skip the cells after one that raised: they would only say NameError."""
    failed = getattr(item.parent, "failed_cell", None)
    if failed:
        pytest.skip(f"{failed} raised an error")
