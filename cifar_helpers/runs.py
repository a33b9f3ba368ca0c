"""What a run leaves behind: its record, its checkpoint, its row in the ledger, its figures and receipts."""

import datetime
import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from cifar_helpers.config import digest, profile_rank
from cifar_helpers.storage import append_line, load_checkpoint, read_lines, save_checkpoint, write_whole


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: means over examples, accuracies as fractions, the learning rate of its last step."""

    epoch: int
    steps: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float


@dataclass(frozen=True)
class RunRecord:
    """All that is known of a run once it is over; `best` is the epoch whose weights the model holds.

    Attributes:
        name: what the run is called in tables.
        config, model, data: what was asked for, as plain values; `run_hash` identifies the three.
        history: one EpochRecord per epoch.
        best_epoch: 1-based; highest validation accuracy, ties by lower validation loss.
        seconds: of training and validation, summed over epochs.
        stopped_early: whether patience ran out before the epochs did.
        environment: device, number format, threads, versions.
        checkpoint_sha256: None if no checkpoint was asked for.
    """

    name: str
    run_hash: str
    config: dict
    model: dict
    data: dict
    history: tuple[EpochRecord, ...]
    best_epoch: int
    seconds: float
    stopped_early: bool
    environment: dict
    checkpoint_sha256: str | None

    @property
    def best(self) -> EpochRecord:
        return self.history[self.best_epoch - 1]

    @property
    def val_accuracy(self) -> float:
        return self.best.val_accuracy

    @property
    def val_loss(self) -> float:
        return self.best.val_loss

    @property
    def train_accuracy(self) -> float:
        return self.best.train_accuracy

    def __str__(self) -> str:
        return (
            f"{self.name}: validation accuracy {self.val_accuracy:.2%} (epoch {self.best_epoch} of "
            f"{len(self.history)}), {self.seconds:.0f} s"
        )


# --- checkpoints ---


def save_progress(path: Path, about: dict, groups: dict[str, dict[str, torch.Tensor]]) -> str:
    """Write the state of a run as one checkpoint and return its SHA-256; tensors are named `group/name`."""
    tensors = {f"{group}/{name}": t for group, members in groups.items() for name, t in members.items()}
    return save_checkpoint(path, tensors, about)


def load_progress(path: Path) -> tuple[dict, dict[str, dict[str, torch.Tensor]]]:
    """Return what `save_progress` was given.

    Raises:
        CheckpointError: the file is damaged or no checkpoint.
    """
    tensors, about = load_checkpoint(path)
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        group, name = key.split("/", 1)
        groups.setdefault(group, {})[name] = tensor
    return about, groups


def differing_keys(found: dict, wanted: dict) -> list[str]:
    """Return `key (found value, wanted value)` for every key whose values differ, also inside nested dicts."""
    rows = []
    for key in sorted(found.keys() | wanted.keys()):
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            rows += [f"{key}.{row}" for row in differing_keys(a, b)]
        elif a != b:
            rows.append(f"{key} ({a!r}, now {b!r})")
    return rows


def code_digest() -> str:
    """Return twelve hexadecimal digits of the source of this package."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return digest([(file.name, file.read_text(encoding="utf-8")) for file in files])


# --- where a notebook writes ---


PROVENANCE = ("notebook", "profile", "device", "data_source")


@dataclass(frozen=True)
class Workspace:
    """Where a notebook writes, and the provenance that everything it writes carries."""

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
    def ledger(self) -> Path:
        return self.figures / "runs.jsonl"

    @property
    def receipts(self) -> Path:
        return self.figures / "receipts.jsonl"

    def checkpoint(self, name: str) -> Path:
        """Return the path of the checkpoint of the run called `name`; never among the figures, never in git."""
        return self.checkpoints / self.notebook / self.data_source / self.profile / f"{name}.safetensors"

    def save_figure(self, figure, name: str, caption: str) -> Path | None:
        """Stamp a figure with its provenance and write it as `name`.png, which carries caption and provenance too.

        A figure of a higher profile is never overwritten by a lower one: then nothing is written and None returned.

        Raises:
            ValueError: the figure has no title.
        """
        title = figure_title(figure)
        source = "real data" if self.data_source == "real" else "SYNTHETIC STAND-IN, not CIFAR"
        figure.text(
            1, -0.01, f"{source} · {self.profile} profile · {self.device}", ha="right", va="top", size=7, color="0.45"
        )
        path = self.figures / f"{self.notebook.split('_')[0]}_{name}.png"
        if profile_rank(read_figure(path).get("profile", "")) > profile_rank(self.profile):
            return None
        content = io.BytesIO()
        facts = {"title": title, "caption": caption} | {key: getattr(self, key) for key in PROVENANCE}
        figure.savefig(content, format="png", bbox_inches="tight", metadata={"Description": json.dumps(facts)})
        write_whole(path, content.getvalue())
        return path

    def save_logits(self, record: RunRecord, logits: torch.Tensor, about: dict, split: str = "val") -> Path | None:
        """Write the logits (N, C) of a run, as float16, for whoever judges it later without its checkpoint.

        Those of a higher profile are never overwritten by a lower one, nor equal ones by themselves: then nothing is
        written and None returned.

        Args:
            about: what they are of: "data", the split's SHA-256; "weights", their hash; "mirrored", as in `predict`.
        """
        return self._keep(kept_path(self.figures, record.name, split), logits.half(), record, about)

    def save_ranks(self, record: RunRecord, ranks: torch.Tensor, about: dict) -> Path | None:
        """Write the rank of every test label (N,), as `metrics.label_ranks` gives them, as `save_logits` does.

        They hold every question of right and wrong in a hundredth of the space: git keeps those of all runs.
        """
        return self._keep(kept_path(self.figures, record.name, "ranks"), ranks.to(torch.int16), record, about)

    def _keep(self, path: Path, values: torch.Tensor, record: RunRecord, about: dict) -> Path | None:
        old, known = read_kept(path)
        about = {name: getattr(self, name) for name in PROVENANCE} | about
        about |= {"name": record.name, "run_hash": record.run_hash}
        same = all(known.get(key) == about[key] for key in ("run_hash", "weights")) and torch.equal(old, values)
        if same or profile_rank(known.get("profile", "")) > profile_rank(self.profile):
            return None
        save_checkpoint(path, {path.parent.name: values}, about)
        return path

    def log_run(self, record: RunRecord, dataset: str) -> dict:
        """Append the run to the ledger, unless its newest row there says the same; return the row."""
        row = ledger_row(self, record, dataset)
        old = newest_rows(read_lines(self.ledger)).get(ledger_key(row))
        if old is None or old["checkpoint_sha256"] != row["checkpoint_sha256"] or old["val_loss"] != row["val_loss"]:
            append_line(self.ledger, row)
        return row


def open_workspace(notebook: str, profile: str, device: str, sources: Iterable[str]) -> Workspace:
    """Return where `notebook` writes: below CIFAR_OUT; else the project, or `build` for the stand-in.

    Without a project around the package (Colab), the current folder takes its place.

    Args:
        sources: of all data sets in use; one stand-in among them makes everything a stand-in's.
    """
    data_source = "real" if set(sources) == {"real"} else "synthetic"
    home = home_folder()
    root = Path(os.environ.get("CIFAR_OUT") or home).resolve()
    checkpoints = (home / "build" if root == home else root) / "checkpoints"
    if data_source == "synthetic" and root == home:
        root = home / "build"
    return Workspace(notebook, profile, device, data_source, root, checkpoints)


def home_folder() -> Path:
    """Return the project around the package, or, where there is none (Colab), the current folder."""
    project = Path(__file__).resolve().parent.parent
    return project if (project / "pyproject.toml").exists() else Path.cwd()


def figure_title(figure) -> str:
    """Return the title of a matplotlib figure: its own, else those of its axes."""
    titles = [figure.get_suptitle()] if figure.get_suptitle() else [axes.get_title() for axes in figure.axes]
    found = [" ".join(title.split()) for title in titles if title]
    if not found:
        raise ValueError("the figure has no title; expected one that can be read alone: axes.set_title(…)")
    return " · ".join(found)


def read_figure(path: Path) -> dict:
    """Return title, caption, notebook, profile, device and data source of a saved figure; {} if there is none."""
    if not path.exists():
        return {}
    with Image.open(path) as image:
        return json.loads(image.info.get("Description", "{}"))


def kept_path(figures: Path, run: str, part: str) -> Path:
    """Return where a run leaves its logits on a split, "val" or "test", or its "ranks"."""
    return figures / (f"ranks/{run}.safetensors" if part == "ranks" else f"logits/{run}-{part}.safetensors")


def read_kept(path: Path) -> tuple[torch.Tensor, dict]:
    """Return the logits, float16 (N, C), or ranks, int16 (N,), that a run left, and what they are of.

    If there are none, an empty tensor and {}.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.exists():
        return torch.empty(0), {}
    tensors, about = load_checkpoint(path)
    return tensors[path.parent.name], about


# --- the ledger ---


def ledger_row(workspace: Workspace, record: RunRecord, dataset: str) -> dict:
    """Return the run as one row of plain values; what it scores on test stands in its receipt."""
    environment = dict(record.environment)
    device, threads = environment.pop("device"), environment.pop("threads")
    return {
        "notebook": workspace.notebook,
        "name": record.name,
        "dataset": dataset,
        "data_source": workspace.data_source,
        "profile": workspace.profile,
        "seed": record.config["seed"],
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


def ledger_key(row: dict) -> tuple:
    """Return what makes two rows the same run: notebook, name, data, profile and configuration."""
    return tuple(row[k] for k in ("notebook", "name", "dataset", "data_source", "profile", "run_hash"))


def newest_rows(rows: list[dict]) -> dict[tuple, dict]:
    """Return the newest row of every run, in the order in which the runs first appear."""
    return {ledger_key(row): row for row in rows}


# --- receipts ---


def with_receipt(path: Path, key: dict, evaluate: Callable[[], dict]) -> dict:
    """Return the result stored under `key`, or evaluate once and append a receipt with the result.

    A key of which every value was seen before evaluates nothing.
    """
    for receipt in read_lines(path):
        if all(receipt.get(k) == v for k, v in key.items()):
            return receipt["result"]
    result = evaluate()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    append_line(path, {**key, "result": result, "date": date})
    return result
