"""The command line, `python -m cifar_helpers {run,lab,publish,train,report,site,data,doctor}`: it wires modules."""

import argparse
import importlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from cifar_helpers import __version__
from cifar_helpers._arguments import require, require_choice
from cifar_helpers._storage import CheckpointError
from cifar_helpers.course._ownership import is_project, require_own_folder
from cifar_helpers.course.doctor import DATA_SOURCES, NAME, can_write, look_around, nearest_folder
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
from cifar_helpers.course.recipes import CHAIN, RECIPES, checkpoint_of, run_name, train_recipe
from cifar_helpers.course.report import write_report
from cifar_helpers.course.results import RESULTS, SPEED, draw_ladder, fill_table, results_markdown, speed_markdown
from cifar_helpers.course.verdicts import describe_judged, write_published
from cifar_helpers.course.workspace import LAB, home_folder, open_workspace
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
    """Run one command and return its exit status; without a command, show the help.

    0: done; 1: a notebook failed; 2: the caller must mend something, which is said, or gave no command, and nothing was
    done; 130: Ctrl-C; 141: whoever read the output through a pipe has gone.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or pipe that knows no … must not end a training
    try:
        try:
            args = _parse(sys.argv[1:] if arguments is None else arguments)
            return args.command(args)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _say_stopped()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still holds back
        return 141
    except (ValueError, OSError, DataError, CheckpointError, TrainingDiverged) as error:
        print(error, file=sys.stderr)
        return 2


def _say_stopped(what_next: str = "") -> int:
    if is_main_process():
        print(f"stopped{what_next}", file=sys.stderr)
    return 130


# --- what was typed ---

_EXAMPLES = {
    "": ("doctor", "run --only 1", "train final", "COMMAND --help"),
    "run": (
        "run                      # all notebooks, a first look, into build/report.html",
        "run --only 1 3           # two of them",
        "run --profile laptop     # all training images",
        "run --data synthetic     # without a download",
    ),
    "publish": ("publish --only 9 --profile laptop     # its outputs, and its figures in figures/",),
    "train": (
        "train final                       # the end of the recipe, on CIFAR-10",
        "train final --dataset cifar100 --seed 1",
        "train study --profile quick       # a first look",
        "train chain                       # all of its steps, on both data sets",
    ),
    "data": ("data                  # fetches what is missing", "data --data real      # or says why it cannot be had"),
    "report": ("report                # the same run log and benchmarks, the same tables",),
    "lab": (
        "lab                      # copies below build/lab; yours to change",
        "lab --only 6 --profile laptop",
        "lab -- --no-browser --port 8889   # the rest is for JupyterLab",
    ),
    "site": ("site                  # build/site/index.html",),
    "doctor": ("doctor", "doctor | less"),
}


class _Parser(argparse.ArgumentParser):
    """A parser with examples, that says in one sentence what is wrong."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        examples = _EXAMPLES[self.prog.removeprefix(NAME).strip()]
        self.epilog = "\n".join(["examples:", *(f"  {NAME} {example}" for example in examples)])

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; more: {self.prog} --help")


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Return what was typed, or raise a ValueError that names the word or the option that is not right."""
    parser, commands = _make_parser()
    named = next((word for word in arguments if not word.startswith("-")), None)
    if named is not None:
        require_choice("command", named, commands)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        used = commands[named] if named else parser
        option = next((word.split("=")[0] for word in unknown if word.startswith("-")), None)
        options = re.findall(r"--[\w-]+", used.format_usage())
        if option and options:
            require_choice("option", option, options)
        used.error(f"{option or unknown[0]!r} is one word too many")
    _check_values(args)
    return args


def _check_values(args: argparse.Namespace) -> None:
    """Raise a ValueError that names the option as it was typed, if its value is none that is known."""
    known: dict[str, Iterable[str]] = {
        "dataset": SOURCES,
        "profile": PROFILES,
        "data": DATA_SOURCES,
        "recipe": (*RECIPES, "chain"),
    }
    for name, choices in known.items():
        value = getattr(args, name, None)
        typed = name if name == "recipe" else f"--{name}"
        if name == "data" and "dataset" in args and value in SOURCES:
            raise ValueError(f"{typed}={value!r} is not known: write --dataset {value}")
        if value is not None:
            require_choice(typed, value, choices)
    if "seed" in args:
        require(0 <= args.seed < 2**32, "--seed", args.seed, "a whole number from 0 to 4,294,967,295")
    if "out" in args:
        _check_out(args.out)


def _check_out(out: Path) -> None:
    """Raise a ValueError if this is no folder, or none that can be made or written to."""
    there = nearest_folder(out)
    require(there.is_dir(), "--out", str(out), f"a folder, and {there} is a file")
    require(can_write(out), "--out", str(out), f"a folder to write to, and {there} is none")


def _make_parser() -> tuple[_Parser, dict[str, _Parser]]:
    """Return the parser of the whole line, and those of the commands by their names."""
    parser = _Parser(prog=NAME, description="Notebooks, data and machine.")
    parser.add_argument("--version", action="version", version=f"cifar_helpers {__version__}")

    def show_help(_: argparse.Namespace) -> int:
        parser.print_help()
        return 2

    parser.set_defaults(command=show_help)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    run = _add_command(commands, "run", _run_command, "execute the notebooks into a folder and write report.html there")
    run.add_argument("--out", type=Path, default=Path("build"), help="folder to write to (default: build)")

    lab = _add_command(
        commands, "lab", _lab_command, "open JupyterLab on copies of the notebooks; the repository stays as it is"
    )
    lab.add_argument("--out", type=Path, default=LAB, help=f"folder of the copies and their figures (default: {LAB})")
    lab.add_argument("options", nargs="*", help="for JupyterLab, after two dashes: -- --no-browser --port 8889")

    for command in (run, lab):
        command.add_argument("--profile", help=f"{', '.join(PROFILES)} (default: CIFAR_PROFILE, else quick)")

    publish = _add_command(commands, "publish", _publish_command, "execute the notebooks in place and rewrite figures/")
    publish.add_argument("--profile", help=f"{', '.join(PROFILES)} (default: what suits the machine)")

    train = _add_command(
        commands,
        "train",
        _train_command,
        "train a step of the recipe: a row below build/lab, weights in build/checkpoints",
    )
    train.add_argument(
        "recipe", metavar="RECIPE", help=f"{', '.join(RECIPES)}; chain: {', '.join(CHAIN)}, on both data sets"
    )
    train.add_argument("--dataset", help="cifar10 or cifar100 (default: cifar10; of the chain, both)")
    train.add_argument("--seed", type=int, default=0, help="of weights, order and augmentations (default: 0)")
    train.add_argument("--profile", help=f"{', '.join(PROFILES)} (default: CIFAR_PROFILE, else what suits the machine)")

    data = _add_command(commands, "data", _data_command, "find, fetch or make the data, and say what is there")
    for command in (run, lab, publish, train, data):
        command.add_argument("--data", help=f"{', '.join(DATA_SOURCES)} (default: CIFAR_DATA, else auto)")
    for command in (run, lab, publish):
        command.add_argument(
            "--only", nargs="+", metavar="N", help="numbers of notebooks, such as 1 or 01 (default: all)"
        )
        command.add_argument("--notebooks", type=Path, default=Path("notebooks"), help="their folder")

    _add_command(
        commands, "report", _report_command, "fill the tables of the README from the run log and the benchmarks"
    )
    site = _add_command(commands, "site", _site_command, "write the published notebooks as web pages; executes nothing")
    site.add_argument("--out", type=Path, default=Path("build/site"), help="folder to write to (default: build/site)")

    _add_command(
        commands, "doctor", _doctor_command, "look at this machine, say what to mend, and where all is read and written"
    )
    return parser, commands.choices


def _add_command(commands: Any, name: str, command: Callable, what: str) -> argparse.ArgumentParser:
    """Add a command whose help begins with what it does, and return its parser."""
    parser = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    parser.set_defaults(command=command)
    return parser


# --- the commands ---


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


def _profile_to_look(args: argparse.Namespace) -> str:
    """Return the profile that was asked for, or that of a first look."""
    return args.profile or os.environ.get("CIFAR_PROFILE") or "quick"


_RESUMES = "; run again to resume"


def _run_command(args: argparse.Namespace) -> int:
    paths = find_notebooks(args.notebooks, args.only or ())
    _execution()
    check_output(args.out, paths)
    profile = _profile_to_look(args)
    environment = prepare(profile, args.data) | {"CIFAR_OUT": str(args.out.resolve())}
    with hold_output(args.out):
        progress = Progress(args.out, paths, environment)
        if args.only is None and not progress:
            clear_output(args.out)
        judged = describe_judged([path.stem for path in paths], profile, environment.get("CIFAR_DATA", "real"))
        print(judged, end="\n" * bool(judged), flush=True)
        results = _execution().run_notebooks(paths, args.out, environment)
        print(write_report(args.out, results).resolve())
        if results[-1].interrupted:
            return _say_stopped(_RESUMES)
        progress.note("over")
    return int(any(result.error for result in results))


def _lab_command(args: argparse.Namespace) -> int:
    for option in args.options[:1]:
        require(option.startswith("-"), "option", option, f"one of JupyterLab's; a single notebook is --only {option}")
    chosen = find_notebooks(args.notebooks, args.only or ())
    require_lab()
    profile = _profile_to_look(args)
    environment = prepare(profile, args.data) | {"CIFAR_OUT": str(args.out.resolve())}
    copies = args.out / "notebooks"
    for kept in copy_notebooks(find_notebooks(args.notebooks), copies):
        print(f"{kept} was changed by you and stays; the course has a newer one: rename yours to get it")
    print(f"{profile} profile; your copies of the notebooks: {copies.resolve()}", flush=True)
    return open_lab(copies / chosen[0].name if args.only else copies, environment, args.options)


def _publish_command(args: argparse.Namespace) -> int:
    paths = find_notebooks(args.notebooks, args.only or ())
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
    if environment.get("CIFAR_DATA") == "synthetic":
        for path in paths:
            require(not published_profile(path), "--data", "synthetic", f"{path.name} was published with real data")
    with hold_output(root / "build"):
        results = _execution().run_notebooks(paths, root / "build", environment, keep_begun=False)
        if results[-1].interrupted:
            return _say_stopped(_RESUMES)
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
    names, chosen = (CHAIN, tuple(SOURCES)) if args.recipe == "chain" else ((args.recipe,), ("cifar10",))
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
        run = run_name(name, dataset.name, args.seed)
        checkpoint = checkpoint_of(run, RECIPES[name].experiment_for(budget, args.seed), workspace)
        try:
            _, record = train_recipe(name, dataset, budget, workspace, device, args.seed)
        except KeyboardInterrupt:
            begun = f" from {checkpoint}" if checkpoint.exists() else f"; no epoch of {run} is done yet"
            return _say_stopped(_RESUMES + begun)
        if is_main_process():
            print(record)
            print(checkpoint)
    return 0


def _data_command(args: argparse.Namespace) -> int:
    prepare("quick", args.data)
    return 0


def _report_command(args: argparse.Namespace) -> int:
    home = home_folder()
    if not is_project(home):
        raise ValueError(
            f"{home} is not the repository, whose README this command fills: clone it, and work in its folder"
        )
    _execution()  # needs what reading notebooks needs
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
    for what, found, advice in (*doctor(), *look_around()):
        print(f"{what:12} {found}" + (f"\n{'':12} -> {advice}" if advice else ""))
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
