"""The command line, `python -m cifar_helpers {run,lab,publish,train,report,site,data,doctor}`: it wires modules."""

import argparse
import importlib
import io
import json
import os
import sys
from pathlib import Path
from types import ModuleType

from cifar_helpers._arguments import require, require_choice
from cifar_helpers._storage import CheckpointError
from cifar_helpers.course._ownership import is_project, require_own_folder
from cifar_helpers.course.lab import copy_notebooks, open_lab, require_lab
from cifar_helpers.course.minutes import expect, recipe_work
from cifar_helpers.course.notebooks import (
    NotebookResult,
    Progress,
    check_output,
    clear_output,
    find_notebooks,
    hold_output,
    published_profile,
)
from cifar_helpers.course.profiles import PROFILES, get_budget, profile_rank
from cifar_helpers.course.prose import unsupported_numbers
from cifar_helpers.course.recipes import CHAIN, RECIPES, checkpoint_of, train_recipe
from cifar_helpers.course.report import write_report
from cifar_helpers.course.results import RESULTS, SPEED, draw_ladder, fill_table, results_markdown, speed_markdown
from cifar_helpers.course.verdicts import describe_judged, write_published
from cifar_helpers.course.workspace import LAB, home_folder, locate_workspace, open_workspace
from cifar_helpers.data.datasets import data_folder, load_data
from cifar_helpers.data.download import SOURCES, DataError
from cifar_helpers.runtime import (
    device_name,
    doctor,
    environment_line,
    is_main_process,
    join_processes,
    main_process_first,
    pick_device,
)
from cifar_helpers.training.records import TrainingDiverged

__all__ = ["main", "prepare"]


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: done; 1: a notebook failed; 2: the caller must mend something, which is said; 130: Ctrl-C.
    """
    args = _make_parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or pipe that knows no … must not end a training
    try:
        return args.command(args)
    except KeyboardInterrupt:
        return _say_interrupted()
    except (ValueError, OSError, DataError, CheckpointError, TrainingDiverged) as error:
        print(error, file=sys.stderr)
        return 2


def _say_interrupted() -> int:
    print("interrupted; the same command goes on from here", file=sys.stderr)
    return 130


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cifar_helpers", description="Notebooks, data and machine.")
    commands = parser.add_subparsers(required=True)

    run = commands.add_parser("run", help="execute the notebooks into a folder and write report.html there")
    run.set_defaults(command=_run_command)
    run.add_argument("--out", type=Path, default=Path("build"), help="folder to write to (default: build)")

    lab = commands.add_parser("lab", help="open JupyterLab on copies of the notebooks; the repository stays as it is")
    lab.set_defaults(command=_lab_command)
    lab.add_argument("--out", type=Path, default=LAB, help=f"folder of the copies and their figures (default: {LAB})")
    lab.add_argument("options", nargs="*", help="for JupyterLab, after two dashes: -- --no-browser --port 8889")

    profile = os.environ.get("CIFAR_PROFILE") or "quick"
    for command in (run, lab):
        command.add_argument(
            "--profile", default=profile, help=f"{', '.join(PROFILES)} (default: CIFAR_PROFILE, else quick)"
        )

    publish = commands.add_parser("publish", help="execute the notebooks in place and rewrite figures/")
    publish.set_defaults(command=_publish_command)
    publish.add_argument("--profile", help="default: full with CUDA, laptop without")

    train = commands.add_parser("train", help="train a step of the recipe, below build/lab")
    train.set_defaults(command=_train_command)
    train.add_argument("name", help=f"{', '.join(RECIPES)}; chain: {', '.join(CHAIN)}, on both data sets")
    train.add_argument("--dataset", help="cifar10 or cifar100 (default: cifar10; of the chain, both)")
    train.add_argument("--seed", type=int, default=0, help="of weights, order and augmentations (default: 0)")
    train.add_argument("--profile", help="default: CIFAR_PROFILE, else full with CUDA and laptop without")

    for command in (run, lab, publish, train):
        command.add_argument("--data", help="auto, real or synthetic (default: CIFAR_DATA, else auto)")

    for command in (run, lab, publish):
        command.add_argument("--only", help="number of a single notebook, such as 01")
        command.add_argument("--notebooks", type=Path, default=Path("notebooks"), help="their folder")

    data = commands.add_parser("data", help="find, fetch or make the data, and say what is there")
    data.set_defaults(command=_data_command)
    data.add_argument("--data", help="auto, real or synthetic (default: CIFAR_DATA, else auto)")

    report = commands.add_parser("report", help="fill the tables of the README from the run log and the benchmarks")
    report.set_defaults(command=_report_command)

    site = commands.add_parser("site", help="write the published notebooks as web pages; nothing is executed")
    site.set_defaults(command=_site_command)
    site.add_argument("--out", type=Path, default=Path("build/site"), help="folder to write to (default: build/site)")

    commands.add_parser(
        "doctor", help="look at this machine, and say where everything is read and written"
    ).set_defaults(command=_doctor_command)
    return parser


def _execution() -> ModuleType:
    """Return the module that executes notebooks, or raise a ValueError that says how to install what it needs."""
    return _module("execution", "executing notebooks")


def _module(name: str, purpose: str) -> ModuleType:
    try:
        return importlib.import_module(f"cifar_helpers.course.{name}")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{purpose} needs {error.name}, which is not installed: pip install 'cifar-helpers[notebooks]'"
        ) from error


def _run_command(args: argparse.Namespace) -> int:
    paths = find_notebooks(args.notebooks, args.only)
    _execution()
    check_output(args.out, paths)
    environment = prepare(args.profile, args.data) | {"CIFAR_OUT": str(args.out.resolve())}
    with hold_output(args.out):
        progress = Progress(args.out, paths, environment)
        if args.only is None and not progress:
            clear_output(args.out)
        judged = describe_judged([path.stem for path in paths], args.profile, environment.get("CIFAR_DATA", "real"))
        print(judged, end="\n" * bool(judged), flush=True)
        results = _execution().run_notebooks(paths, args.out, environment)
        print(write_report(args.out, results).resolve())
        if results[-1].interrupted:
            return _say_interrupted()
        progress.note("over")
    return int(any(result.error for result in results))


def _lab_command(args: argparse.Namespace) -> int:
    chosen = find_notebooks(args.notebooks, args.only)
    require_lab()
    environment = prepare(args.profile, args.data) | {"CIFAR_OUT": str(args.out.resolve())}
    copies = args.out / "notebooks"
    for kept in copy_notebooks(find_notebooks(args.notebooks), copies):
        print(f"{kept} was changed by you and stays; the course has a newer one: rename yours to get it")
    print(f"{args.profile} profile; your copies of the notebooks: {copies.resolve()}", flush=True)
    return open_lab(copies / chosen[0].name if args.only else copies, environment, args.options)


def _publish_command(args: argparse.Namespace) -> int:
    paths = find_notebooks(args.notebooks, args.only)
    _execution()
    profile = get_budget(args.profile).profile
    for path in paths:
        published = published_profile(path)
        lower = profile_rank(profile) < profile_rank(published)
        require(not lower, "profile", profile, f"{path.name} was published in the higher profile {published!r}")
    root = args.notebooks.resolve().parent
    check_output(root / "build", paths)
    if not is_project(root):
        require_own_folder(root / "figures")
    environment = prepare(profile, args.data or "real") | {"CIFAR_OUT": str(root)}
    with hold_output(root / "build"):
        results = _execution().run_notebooks(paths, root / "build", environment, keep_begun=False)
        if results[-1].interrupted:
            return _say_interrupted()
        replaced = [path for path, result in zip(paths, results, strict=True) if _replace(path, result)]
        Progress(root / "build", paths, environment).note("over")
    if is_project(root) and args.notebooks.resolve() == (home_folder() / "notebooks").resolve():
        write_published(args.notebooks)
    for path in replaced:
        for unsupported in unsupported_numbers(json.loads(path.read_text(encoding="utf-8"))):
            print(f"{path.stem}, {unsupported}")
    return int(len(replaced) < len(paths))


def _replace(path: Path, result: NotebookResult) -> bool:
    """Publish an executed notebook and return True, unless it failed or was changed meanwhile, which is said."""
    if result.error is not None:
        return False
    try:
        _execution().replace_source(path, result)
    except ValueError as refusal:
        print(refusal, file=sys.stderr)
        return False
    return True


def _train_command(args: argparse.Namespace) -> int:
    require_choice("name", args.name, (*RECIPES, "chain"))
    names, chosen = (CHAIN, tuple(SOURCES)) if args.name == "chain" else ((args.name,), ("cifar10",))
    join_processes()
    with main_process_first():
        datasets = [load_data(name, source=args.data) for name in ([args.dataset] if args.dataset else chosen)]
    budget, device = get_budget(args.profile), pick_device()
    workspace = open_workspace("train", budget.profile, device_name(device), {data.source for data in datasets})
    asked = [(name, dataset) for dataset in datasets for name in names]
    if is_main_process():
        titles = ", ".join(dataset.title for dataset in datasets)
        print(f"{budget.profile} profile, {titles}. {environment_line(device)}", flush=True)
        print(expect([recipe_work(name, dataset, budget) for name, dataset in asked], budget, device), flush=True)
    for name, dataset in asked:
        _, record = train_recipe(name, dataset, budget, workspace, device, args.seed)
        if is_main_process():
            print(record)
            print(checkpoint_of(record.name, RECIPES[name].experiment_for(budget, args.seed), workspace))
    return 0


def _data_command(args: argparse.Namespace) -> int:
    prepare("quick", args.data)
    return 0


def _report_command(args: argparse.Namespace) -> int:
    home = home_folder()
    write_published(home / "notebooks")
    fill_table(home / "README.md", RESULTS, results_markdown(home))
    draw_ladder(home)
    fill_table(home / "README.md", SPEED, speed_markdown(home))
    print(home / "README.md")
    return 0


def _site_command(args: argparse.Namespace) -> int:
    print(_module("site", "making web pages").write_site(home_folder(), args.out))
    return 0


def _doctor_command(args: argparse.Namespace) -> int:
    for what, found, advice in doctor():
        print(f"{what:12} {found}" + (f"  -> {advice}" if advice else ""))
    real, synthetic = (locate_workspace("", "", "", {source}) for source in ("real", "synthetic"))
    where = {
        "home": home_folder(),
        "data": data_folder().resolve(),
        "figures": f"{real.figures} (real data), {synthetic.figures} (synthetic)",
        "checkpoints": real.checkpoints,
    }
    for what, folder in where.items():
        print(f"{what:12} {folder}")
    return 0


def prepare(profile: str, source: str | None) -> dict[str, str]:
    """Get the data ready before any notebook asks for it; return the variables that the notebooks read."""
    get_budget(profile)
    found = set()
    for name in SOURCES:
        dataset = load_data(name, source=source)
        print(f"{dataset.title}: {len(dataset.train):,} training and {len(dataset.val):,} validation images")
        found.add(dataset.source)
    # One data set that cannot be had makes both synthetic: a report never mixes the two.
    resolved = "real" if found == {"real"} else "synthetic"
    return {"CIFAR_PROFILE": profile, "CIFAR_DATA": resolved, "CIFAR_DATA_DIR": str(data_folder().resolve())}
