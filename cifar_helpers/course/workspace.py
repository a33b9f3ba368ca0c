"""Where a notebook writes: figures, the run log, checkpoints and the logits of adopted runs, with their provenance."""

import datetime
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cifar_helpers._arguments import require, require_choice
from cifar_helpers._storage import CheckpointError, find_or_append, load_tensors, read_lines, save_tensors
from cifar_helpers.course._ownership import (
    claim_folder,
    is_project,
    read_figure_facts,
    require_name,
    require_own_file,
    write_own,
)
from cifar_helpers.course.colab import colab_advice
from cifar_helpers.course.profiles import profile_rank
from cifar_helpers.course.verdicts import describe_judged
from cifar_helpers.models.networks import ModelConfig
from cifar_helpers.runtime import is_main_process
from cifar_helpers.training.records import RunRecord
from cifar_helpers.transfer import TransferConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "LAB",
    "Workspace",
    "home_folder",
    "kept_path",
    "locate_workspace",
    "newest_rows",
    "open_workspace",
    "published_folder",
    "read_figure",
    "read_kept",
]

# Below the home folder: what a reader's own runs leave, and the copies of the notebooks that `lab` opens.
LAB = Path("build") / "lab"

_PROVENANCE = ("notebook", "profile", "device", "data_source")


@dataclass(frozen=True)
class Workspace:
    """Where a notebook writes, and the provenance that everything it writes carries.

    Of several processes under torchrun the first one writes.
    """

    notebook: str
    profile: str
    device: str
    data_source: str
    root: Path
    checkpoints: Path

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def run_log(self) -> Path:
        return self.figures / "runs.jsonl"

    @property
    def test_access_log(self) -> Path:
        return self.figures / "test_access.jsonl"

    @property
    def recipes(self) -> Path:
        """Where the weights of recipes are kept, for all notebooks: those trained in the lab are found by `run` too."""
        lab = (home_folder() / LAB).resolve()
        return lab.parent / "checkpoints" if self.checkpoints == lab / "checkpoints" else self.checkpoints

    def checkpoint(self, name: str) -> Path:
        """Return the path of the checkpoint of the run called `name`; never among the figures, never in git.

        Raises:
            ValueError: the name leads out of the folder.
        """
        require_name(name)
        return self.checkpoints / self.notebook / self.data_source / self.profile / f"{name}.safetensors"

    def save_figure(self, figure: "Figure", name: str, caption: str) -> Path | None:
        """Stamp a figure with its provenance and write it as `name`.png, which carries caption and provenance too.

        A figure of a higher profile is never overwritten by a lower one: then nothing is written and None returned.

        Raises:
            ValueError: the figure has no title, a file of this name was not written by this program, or the name leads
                out of the folder.
        """
        require_name(name)
        require(hasattr(figure, "get_suptitle"), "figure", figure, "a figure of matplotlib, such as new_axes returns")
        title = _figure_title(figure)
        path = self.figures / f"{self.notebook.split('_')[0]}_{name}.png"
        require_own_file(path)
        if not is_main_process() or profile_rank(read_figure(path).get("profile", "")) > profile_rank(self.profile):
            return None
        source = "real data" if self.data_source == "real" else "SYNTHETIC DATA, not CIFAR"
        stamp = f"{source} · {self.profile} profile · {self.device}"
        figure.text(1, -0.01, stamp, ha="right", va="top", size=7, color="0.45")
        content = io.BytesIO()
        facts = {"title": title, "caption": caption} | {key: getattr(self, key) for key in _PROVENANCE}
        figure.savefig(content, format="png", bbox_inches="tight", metadata={"Description": json.dumps(facts)})
        write_own(path, content.getvalue())
        return path

    def save_logits(
        self, record: RunRecord, logits: torch.Tensor, about: dict[str, Any], split: str = "val"
    ) -> Path | None:
        """Write the logits (N, C) of a run, as float16, so that it can be evaluated later without its checkpoint.

        Those of a higher profile are never overwritten by a lower one, nor equal ones by themselves: then nothing is
        written and None returned.

        Args:
            about: what they are of: "data", the split's SHA-256; "weights", their hash; "tta", as in `predict`.

        Raises:
            CheckpointError: a file of this name is damaged, or was not written by this program.
        """
        return self._keep(kept_path(self.figures, record.name, split), logits.half(), record, about)

    def save_ranks(self, record: RunRecord, ranks: torch.Tensor, about: dict[str, Any]) -> Path | None:
        """Write the rank of every test label (N,), as `metrics.label_ranks` gives them, as `save_logits` does.

        They answer every question of right and wrong in a hundredth of the space: git keeps those of all runs.
        """
        return self._keep(kept_path(self.figures, record.name, "ranks"), ranks.to(torch.int16), record, about)

    def _keep(self, path: Path, values: torch.Tensor, record: RunRecord, about: dict[str, Any]) -> Path | None:
        old, known = read_kept(path)
        about = {name: getattr(self, name) for name in _PROVENANCE} | about
        about |= {"name": record.name, "run_hash": record.run_hash}
        same = all(known.get(key) == about[key] for key in ("run_hash", "weights")) and torch.equal(old, values)
        if not is_main_process() or same or profile_rank(known.get("profile", "")) > profile_rank(self.profile):
            return None
        save_tensors(path, {path.parent.name: values}, about)
        return path

    def log_run(self, record: RunRecord, dataset: str) -> dict[str, Any]:
        """Append the run to the run log, unless its newest row there says the same; return what stands there."""
        row = _run_row(self, record, dataset)

        def find(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
            old = newest_rows(rows).get(_run_key(row))
            same = old is not None and all(old[key] == row[key] for key in ("checkpoint_sha256", "val_loss"))
            return old if same else None

        if not is_main_process():
            return find(read_lines(self.run_log)) or row
        return find_or_append(self.run_log, find, lambda: row)


def open_workspace(notebook: str, profile: str, device: str, sources: Iterable[str]) -> Workspace:
    """Return where `notebook` writes, as `locate_workspace` does, and make the folders, with a marker in them.

    The figures/ of the repository is published and gets no marker. On Colab it prints what to know there. If the
    profile cannot judge all hypotheses of the notebook on such data, a line says how many it can.

    Raises:
        ValueError: a folder of this name holds something, and this program did not make it.
    """
    workspace = locate_workspace(notebook, profile, device, sources)
    for line in colab_advice(profile) if is_main_process() else ():
        print(line)
    if not is_project(workspace.root):
        claim_folder(workspace.figures)
    claim_folder(workspace.checkpoints)
    claim_folder(workspace.recipes)
    judged = describe_judged([notebook], profile, workspace.data_source)
    if judged and is_main_process():
        print(judged)
    return workspace


def locate_workspace(notebook: str, profile: str, device: str, sources: Iterable[str]) -> Workspace:
    """Return where `notebook` writes: below CIFAR_OUT, else below build/lab in the home folder.

    With CIFAR_OUT set to the repository, as publishing sets it, real data write its figures/, and all else its build/.

    Args:
        sources: of all data sets in use; a synthetic one among them makes the whole workspace synthetic.

    Raises:
        ValueError: there is no source, or an unknown one.
    """
    found = set() if isinstance(sources, str) else set(sources)
    known = bool(found) and found <= {"real", "synthetic"}
    require(known, "sources", sources, "several, each real or synthetic: {dataset.source for dataset in …}")
    data_source = "real" if found == {"real"} else "synthetic"
    root = Path(os.environ.get("CIFAR_OUT") or home_folder() / LAB).resolve()
    inner = root / "build" if is_project(root) else root
    published = root if data_source == "real" else inner
    return Workspace(notebook, profile, device, data_source, published, inner / "checkpoints")


def home_folder() -> Path:
    """Return the project around the package, or, where there is none (Colab, pip), the current folder."""
    project = Path(__file__).resolve().parents[2]
    return project if is_project(project) else Path.cwd()


def published_folder() -> Path:
    """Return where the published logs, ranks and logits are: figures/ of the project, else what the wheel brought."""
    home = home_folder()
    return home / "figures" if is_project(home) else Path(__file__).with_name("published")


def _figure_title(figure: "Figure") -> str:
    """Return the title of a matplotlib figure: its own, else those of its axes."""
    titles = [figure.get_suptitle()] if figure.get_suptitle() else [axes.get_title() for axes in figure.axes]
    found = [" ".join(title.split()) for title in titles if title]
    if not found:
        raise ValueError("the figure has no title; expected one that can be read alone: axes.set_title(…)")
    return " · ".join(found)


def read_figure(path: Path) -> dict[str, str]:
    """Return title, caption, notebook, profile, device and data source of a saved figure; {} of any other file."""
    return read_figure_facts(path)


def kept_path(figures: Path, run: str, part: str) -> Path:
    """Return where a run leaves its logits on a split, "val" or "test", or its "ranks".

    Raises:
        ValueError: the name of the run leads out of the folder, or there is no such part.
    """
    require_choice("part", part, ("val", "test", "ranks"))
    require_name(run)
    return figures / (f"ranks/{run}.safetensors" if part == "ranks" else f"logits/{run}-{part}.safetensors")


def read_kept(path: Path) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the logits, float16 (N, C), or ranks, int16 (N,), that a run left, and what they are of.

    If there are none, an empty tensor and {}.

    Raises:
        CheckpointError: the file is damaged, or holds something else.
    """
    if not path.exists():
        return torch.empty(0), {}
    tensors, about = load_tensors(path)
    if tensors.keys() != {path.parent.name}:
        raise CheckpointError(f"{path} holds {', '.join(tensors)}; expected {path.parent.name}. Move it away.")
    return tensors[path.parent.name], about


# --- the run log ---


def _run_row(workspace: Workspace, record: RunRecord, dataset: str) -> dict[str, Any]:
    """Return the run as one row of plain values; what it scores on test stands in the test-access log."""
    environment = dict(record.environment)
    device, threads = environment.pop("device"), environment.pop("threads")
    known = [field.name for field in fields(TransferConfig if "backbone" in record.model else ModelConfig)]
    return {
        "notebook": workspace.notebook,
        "name": record.name,
        "dataset": dataset,
        "data_source": workspace.data_source,
        "profile": workspace.profile,
        "seed": record.config["seed"],
        "model": {name: record.model[name] for name in known if name in record.model},
        "config": record.config,
        "epochs": len(record.history),
        "seconds": round(record.seconds, 2),
        "train_accuracy": record.train_accuracy,
        "val_accuracy": record.val_accuracy,
        "val_loss": record.val_loss,
        "device": device,
        "versions": environment,
        "threads": threads,
        "run_hash": record.run_hash,
        "checkpoint_sha256": record.checkpoint_sha256,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _run_key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what makes two rows the same run: notebook, name, data, profile and configuration."""
    return tuple(row[k] for k in ("notebook", "name", "dataset", "data_source", "profile", "run_hash"))


def newest_rows(rows: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the newest row of every run, in the order in which the runs first appear."""
    return {_run_key(row): row for row in rows}
