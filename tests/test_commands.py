"""The command line, in a folder with notebooks: what it prints, returns and replaces."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from notebook_files import write_notebook

import cifar_helpers
from cifar_helpers.course import commands, doctor, execution, verdicts
from cifar_helpers.course.commands import main
from cifar_helpers.course.notebooks import Progress, find_notebooks, hold_output
from cifar_helpers.training.checkpoint import load_checkpoint


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a folder with a notebook, in which the commands run without data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "prepare", lambda *_: {"CIFAR_PROFILE": "quick"})
    monkeypatch.setattr(execution, "expected_seconds", lambda *_: {})  # seconds, to learn that none of these says
    (tmp_path / "notebooks").mkdir()
    write_notebook(tmp_path / "notebooks" / "01_good.ipynb", "print('fine')")
    return tmp_path


def test_run_ends_with_the_path_of_the_report(project, capsys):
    assert main(["run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(project / "build" / "report.html")
    assert (project / "build" / "notebooks" / "01_good.ipynb").exists()
    assert any("01_good  cell  1 of 1" in line for line in lines)


def test_run_says_first_how_many_hypotheses_the_profile_can_judge(project, capsys):
    write_notebook(project / "notebooks" / "05_batchnorm.ipynb", "print('fine')")
    assert main(["run"]) == 0
    said = "The quick profile on real data judges none of 4 hypotheses; beside each stands the published verdict."
    assert capsys.readouterr().out.splitlines()[0] == said


def test_a_failing_notebook_makes_the_exit_status_1(project, capsys):
    write_notebook(project / "notebooks" / "02_bad.ipynb", "1 / 0")
    assert main(["run"]) == 1
    printed = capsys.readouterr().out
    assert "cell 1: ZeroDivisionError: division by zero" in printed
    assert "executed copy: build/notebooks/02_bad.ipynb" in printed.replace("\\", "/")
    assert (project / "build" / "report.html").exists()


def test_publish_executes_in_place_and_leaves_a_failing_notebook_alone(project):
    bad = write_notebook(project / "notebooks" / "02_bad.ipynb", "1 / 0")
    before = bad.read_bytes()
    assert main(["publish", "--profile", "quick"]) == 1
    good = nbformat.read(project / "notebooks" / "01_good.ipynb", as_version=4)
    assert good.cells[0].outputs[0].text == "fine\n"
    assert bad.read_bytes() == before
    bad.unlink()
    assert main(["publish", "--profile", "quick"]) == 0


def test_publishing_the_notebooks_of_the_repository_alone_rewrites_the_published_verdicts(project, monkeypatch):
    written = []
    monkeypatch.setattr(commands, "write_published", written.append)
    assert main(["publish", "--profile", "quick"]) == 0
    assert written == []
    (project / "pyproject.toml").touch()
    (project / "cifar_helpers" / "course").mkdir(parents=True)
    monkeypatch.setattr(commands, "home_folder", lambda: project)
    assert main(["publish", "--profile", "quick"]) == 0
    assert written == [Path("notebooks")]


def test_site_writes_below_build_and_says_where(project, monkeypatch, capsys):
    pages = SimpleNamespace(write_site=lambda home, out: out.resolve() / "index.html")
    monkeypatch.setitem(sys.modules, "cifar_helpers.course.site", pages)
    assert main(["site"]) == 0
    assert capsys.readouterr().out == f"{project / 'build' / 'site' / 'index.html'}\n"


def test_site_says_what_it_lacks(project, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "cifar_helpers.course.site", raising=False)
    monkeypatch.setitem(sys.modules, "latex2mathml.converter", None)
    assert main(["site"]) == 2
    said = (
        "making web pages needs latex2mathml.converter, which is not installed: pip install 'cifar-helpers[notebooks]'"
    )
    assert said in capsys.readouterr().err


def test_publish_leaves_a_notebook_alone_that_was_edited_while_it_ran(project, capsys):
    path = project / "notebooks" / "01_good.ipynb"
    write_notebook(path, f"open({str(path)!r}, 'a').write(' ')")  # as an editor would
    before = path.read_bytes()
    assert main(["publish", "--profile", "quick"]) == 1
    assert path.read_bytes() == before + b" "
    assert "01_good.ipynb was changed while it was executed" in capsys.readouterr().err


def test_publish_names_the_numbers_that_the_new_run_does_not_print(project, capsys):
    path = write_notebook(project / "notebooks" / "01_good.ipynb", "print('accuracy 91 %')")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(
        nbformat.v4.new_markdown_cell("**What we see:** it is right in 91 % of all cases, not in 93 %.")
    )
    nbformat.write(notebook, path)
    assert main(["publish", "--profile", "quick"]) == 0
    named = [line for line in capsys.readouterr().out.splitlines() if "is in no output" in line]
    assert len(named) == 1
    assert named[0].startswith("01_good, ")
    assert "'93'" in named[0]


def test_publish_refuses_a_lower_profile_than_the_published_one(project, capsys):
    notebook = project / "notebooks" / "01_good.ipynb"
    output = nbformat.v4.new_output("stream", text="laptop profile, real data: both\n")
    cell = nbformat.v4.new_code_cell("print('laptop')", execution_count=1, outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), notebook)
    assert main(["publish", "--profile", "quick"]) == 2
    assert "published in the higher profile 'laptop'" in capsys.readouterr().err


def test_synthetic_data_do_not_replace_what_was_published_with_real_ones(project, monkeypatch, capsys):
    notebook = project / "notebooks" / "01_good.ipynb"
    output = nbformat.v4.new_output("stream", text="quick profile, real data: both\n")
    cell = nbformat.v4.new_code_cell("print('quick')", execution_count=1, outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), notebook)
    before = notebook.read_bytes()
    monkeypatch.setattr(commands, "prepare", lambda *_: {"CIFAR_PROFILE": "quick", "CIFAR_DATA": "synthetic"})
    assert main(["publish", "--profile", "quick", "--data", "auto"]) == 2
    assert "01_good.ipynb was published with real data" in capsys.readouterr().err
    assert notebook.read_bytes() == before


def test_report_outside_the_repository_changes_nothing(tmp_path, monkeypatch, capsys):
    before = verdicts.published_verdicts()
    monkeypatch.setattr(commands, "home_folder", lambda: tmp_path)
    assert main(["report"]) == 2
    assert "is not the repository" in capsys.readouterr().err
    with pytest.raises(ValueError, match="the folder of the published notebooks"):
        verdicts.write_published(tmp_path)
    assert verdicts.published_verdicts() == before != {}


def test_a_folder_on_a_drive_that_is_gone_cannot_be_written(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda _: False)
    monkeypatch.setattr(Path, "is_dir", lambda _: False)
    assert not doctor.can_write(Path("Z:/out"))


@pytest.mark.skipif(os.name != "posix", reason="needs make")
def test_make_clean_leaves_the_copies_of_a_reader(tmp_path):
    (tmp_path / "Makefile").write_bytes((Path(commands.__file__).parents[2] / "Makefile").read_bytes())
    for _ in range(2):  # the second time there is no build/
        assert subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, check=False).returncode == 0
        for name in ("build/lab/notebooks/mine.ipynb", "build/report.html", "build/figures/a.png", ".venv/installed"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    assert subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, check=False).returncode == 0
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["Makefile", "mine.ipynb"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lab", "6"], "option='6' is not allowed: one of JupyterLab's; a single notebook is --only 6"),
        (["run", "--only", "9"], "--only 9: no such notebook in {project}/notebooks, which holds 01_good: "),
        (["run", "--only", "1", "09"], "--only 09: no such notebook"),
        (["run", "--notebooks", "nowhere"], "expected the folder notebooks/ of the repository"),
        (["run", "--out", "notebooks/01_good.ipynb"], "--out='notebooks/01_good.ipynb' is not allowed: a folder, and"),
        (["run", "--out", "notebooks/01_good.ipynb/below"], "01_good.ipynb is a file"),
        (
            ["run", "--profile", "quik"],
            "--profile='quik' is not known: choose one of quick, laptop, full. Did you mean",
        ),
        (
            ["run", "--data", "reel"],
            "--data='reel' is not known: choose one of auto, real, synthetic. Did you mean 'real'?",
        ),
        (["run", "--profiles=quick"], "option='--profiles' is not known: choose one of --out, --profile, --data, "),
        (["run", "--only"], "--only: expected at least one argument; more: python -m cifar_helpers run --help"),
        (["train", "final", "--dataset", "imagenet"], "--dataset='imagenet' is not known: choose one of cifar10, "),
        (["train", "final", "--data", "cifar100"], "--data='cifar100' is not known: write --dataset cifar100"),
        (["train", "finel"], "recipe='finel' is not known: choose one of baseline"),
        (
            ["train", "final", "--seed", "x"],
            "--seed: invalid int value: 'x'; more: python -m cifar_helpers train --help",
        ),
        (["train", "final", "--seed", "-1"], "--seed=-1 is not allowed: a whole number from 0"),
        (["train"], "required: RECIPE; more: python -m cifar_helpers train --help"),
        (
            ["rnu"],
            "command='rnu' is not known: choose one of run, lab, publish, train, data, report, site, doctor. "
            "Did you mean 'run'?",
        ),
        (["doctor", "now"], "'now' is one word too many; more: python -m cifar_helpers doctor --help"),
        (["doctor", "--now"], "'--now' is one word too many"),
    ],
)
def test_what_the_caller_must_mend_is_said_with_status_2(project, capsys, arguments, words):
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert words.format(project=project) in printed
    assert printed.count("\n") == 1
    assert not (project / "build").exists()


def test_without_a_command_it_shows_the_help_and_does_nothing(capsys):
    assert main([]) == 2
    said = capsys.readouterr()
    assert "examples:\n  python -m cifar_helpers doctor\n" in said.out
    assert said.err == ""


def test_it_says_its_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"cifar_helpers {cifar_helpers.__version__}\n"


@pytest.mark.parametrize("name", list(commands._EXAMPLES))
def test_the_examples_of_the_help_are_understood(name, capsys):
    with pytest.raises(SystemExit):
        main([*filter(None, [name]), "--help"])
    examples = capsys.readouterr().out.split("examples:\n")[1].splitlines()
    assert examples
    for example in examples:
        words = example.split("#")[0].split("|")[0].removeprefix("  python -m cifar_helpers ").split()
        if words[0] != "COMMAND":
            assert callable(commands._parse(words).command)


def test_some_notebooks_are_run_by_their_numbers(project, capsys):
    for number in ("02", "03"):
        write_notebook(project / "notebooks" / f"{number}_more.ipynb", "1")
    assert main(["run", "--only", "3", "01"]) == 0
    copies = (project / "build" / "notebooks").glob("*.ipynb")
    assert sorted(path.stem for path in copies) == ["01_good", "03_more"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Windows closes its pipes in another way")
def test_a_reader_that_goes_away_is_no_error():
    read, write = os.pipe()
    os.close(read)
    program = "from cifar_helpers.course import commands; commands.prepare = print; exit(commands.main(['data']))"
    done = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_train_into_a_place_that_cannot_be_written_ends_in_one_line(project, capsys, monkeypatch):
    monkeypatch.setattr(commands, "load_data", lambda *_, **__: SimpleNamespace(source="synthetic", title="no data"))
    monkeypatch.setenv("CIFAR_OUT", str(project / "notebooks" / "01_good.ipynb"))
    assert main(["train", "lenet", "--profile", "quick", "--data", "synthetic"]) == 2
    printed = capsys.readouterr().err
    assert "01_good.ipynb" in printed
    assert printed.count("\n") == 1


# --- stopped, and started again ---

# A notebook whose first cell counts how often it was executed, and whose second waits to be stopped, but once.
COUNT = "open({counts!r}, 'a').write({name!r} + chr(10))\nprint('first words')"
TRAIN = """
from pathlib import Path
from numpy import zeros
from safetensors.numpy import save_file  # as `save_tensors` writes it, and imported in no time
path = Path("../build/checkpoints/02_waits//quick/run.safetensors")
print("found" if path.exists() else "not found", flush=True)
path.parent.mkdir(parents=True, exist_ok=True)
save_file({"w": zeros(1)}, path, {"about": "{}", "sha256": "0"})
"""
WAIT = """
import time
from pathlib import Path
if not Path({ready!r}).exists():
    Path({ready!r}).touch()
    time.sleep(60)
"""


@pytest.fixture
def waiting(project):
    """Return such a project: the first and the last notebook count, the second also trains and waits to be stopped."""
    (project / "notebooks" / "01_good.ipynb").unlink()
    counts, ready = str(project / "counts"), str(project / "ready")
    for name, more in (("01_first", ()), ("02_waits", (TRAIN, WAIT.format(ready=ready))), ("03_last", ())):
        write_notebook(project / "notebooks" / f"{name}.ipynb", COUNT.format(counts=counts, name=name), *more)
    return project


def executions(project) -> str:
    """Return which notebooks were executed, by their numbers."""
    return "".join(line[1] for line in (project / "counts").read_text().split())


def copy_of(project, name: str):
    return nbformat.read(project / "build" / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.fixture
def interruptible():
    """Heed SIGINT: a shell starts what runs in its background so that it does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_when(ready: Path) -> threading.Thread:
    """Send this process what Ctrl-C sends, once a file is there."""

    def watch() -> None:
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT for one process")
def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(waiting, interruptible, capfd):
    thread = interrupt_when(waiting / "ready")
    assert main(["run"]) == 130
    thread.join()
    said = capfd.readouterr()
    assert said.err.splitlines()[-1] == "stopped; run again to resume"
    assert "Traceback" not in said.out + said.err
    assert "  cell 3: interrupted" in said.out.splitlines()
    page = (waiting / "build" / "report.html").read_text(encoding="utf-8")
    assert "01_first" in page
    assert "cell 3: interrupted" in page
    assert copy_of(waiting, "02_waits").cells[0].outputs[0].text == "first words\n"
    assert executions(waiting) == "12"

    assert main(["run"]) == 0
    assert executions(waiting) == "1223"
    assert "01_first  done before" in capfd.readouterr().out
    assert copy_of(waiting, "02_waits").cells[1].outputs[0].text == "found\n"  # its checkpoint was kept
    page = (waiting / "build" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("01_first", "02_waits", "03_last"))
    assert main(["run", "--only", "03"]) == 0  # that is another run, and the whole one is over
    assert executions(waiting) == "12233"


# What somebody types who trains, on data that are there at once.
TRAIN_COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # heeded also where a shell began this in its background
sys.path.insert(0, sys.argv.pop(1))
from small import synthetic_split
from cifar_helpers.course import commands
from cifar_helpers.data.datasets import Dataset
splits = [synthetic_split(count, 10, name) for count, name in ((800, "train"), (100, "val"), (20, "test"))]
commands.load_data = lambda *_, **__: Dataset("cifar10", "synthetic", *splits)
commands.expect = lambda *_: "a moment"
sys.exit(commands.main(["train", "lenet", "--profile", "quick"]))
"""


def train(project, interrupt_after=None) -> tuple[int, str, str]:
    """Train in a process, and send it what Ctrl-C sends when it has printed a line with these words."""
    command = [sys.executable, "-c", TRAIN_COMMAND, str(Path(__file__).parent)]
    environment = {**os.environ, "CIFAR_OUT": str(project / "out")}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        printed = ""
        for line in process.stdout:
            printed += line
            if interrupt_after and interrupt_after in line:
                process.send_signal(signal.SIGINT)
        return process.wait(), printed, process.stderr.read()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGINT for one process")
def test_training_that_is_stopped_names_the_checkpoint_and_goes_on_from_it(tmp_path):
    status, _, said = train(tmp_path, interrupt_after="epoch 1/6")
    assert status == 130
    assert said.startswith("stopped; run again to resume from ")
    assert said.count("\n") == 1
    checkpoint = Path(said.removeprefix("stopped; run again to resume from ").strip())
    done = len(load_checkpoint(checkpoint).history)
    assert 1 <= done < 6
    status, printed, said = train(tmp_path)
    assert (status, said) == (0, "")
    assert f"goes on from {checkpoint.name} after epoch {done}\n" in printed
    assert len(load_checkpoint(checkpoint).history) == 6


def test_training_that_is_stopped_before_its_first_epoch_says_so(project, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    data = SimpleNamespace(source="synthetic", title="no data", name="cifar10")
    monkeypatch.setattr(commands, "load_data", lambda *_, **__: data)
    monkeypatch.setattr(commands, "recipe_work", lambda *_: None)
    monkeypatch.setattr(commands, "expect", lambda *_: "a moment")
    monkeypatch.setattr(commands, "train_recipe", stop)
    monkeypatch.setenv("CIFAR_OUT", str(project / "out"))
    assert main(["train", "lenet", "--profile", "quick"]) == 130
    assert capsys.readouterr().err == "stopped; run again to resume; no epoch of lenet-cifar10 is done yet\n"


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_killed_run_goes_on_from_the_last_whole_notebook(waiting):
    program = (
        "from cifar_helpers.course import commands, execution; execution.expected_seconds = lambda *_: {}; "
        "commands.prepare = lambda *_: {'CIFAR_PROFILE': 'quick'}; commands.main(['run'])"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (waiting / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert executions(waiting) == "12"
    write_notebook(waiting / "notebooks" / "03_last.ipynb", "1")
    assert not Progress(waiting / "build", find_notebooks(waiting / "notebooks"), {}), "other cells are another run"
    write_notebook(
        waiting / "notebooks" / "03_last.ipynb", COUNT.format(counts=str(waiting / "counts"), name="03_last")
    )
    assert main(["run"]) == 0
    assert executions(waiting) == "1223"
    assert copy_of(waiting, "02_waits").cells[1].outputs[0].text == "found\n"


def test_a_second_run_into_the_same_folder_is_refused_and_changes_nothing(project, capsys):
    (project / "build" / "figures").mkdir(parents=True)
    with hold_output(project / "build"):
        before = sorted(project.rglob("*"))
        for command in (["run"], ["run", "--only", "01"], ["publish", "--profile", "quick"]):
            assert main(command) == 2
            assert capsys.readouterr().err.startswith("another run writes to")
        assert sorted(project.rglob("*")) == before
    assert main(["run", "--out", "other"]) == 0


def test_what_was_executed_is_published_after_a_kill_before_it_was(project, monkeypatch):
    """Hours of a laptop: the executed copies take the places of their notebooks without another execution."""
    path = write_notebook(project / "notebooks" / "01_good.ipynb", f"open({str(project / 'counts')!r}, 'a').write('x')")
    with monkeypatch.context() as patch:
        patch.setattr(execution, "replace_source", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            main(["publish", "--profile", "quick"])
    assert nbformat.read(path, as_version=4).cells[0].execution_count is None
    assert main(["publish", "--profile", "quick"]) == 0
    assert (project / "counts").read_text() == "x"
    assert nbformat.read(path, as_version=4).cells[0].execution_count == 1
    assert main(["publish", "--profile", "quick"]) == 0  # over: published anew
    assert (project / "counts").read_text() == "xx"


def test_a_copy_that_is_gone_or_edited_is_not_taken_for_done(project):
    path = project / "notebooks" / "01_good.ipynb"
    progress = Progress(project / "build", [path], {})
    copy = project / "build" / "notebooks" / path.name
    execution.execute(path, copy, {})
    progress.note("done", "01_good", seconds=1.0, peak_bytes=1)
    assert progress.result(path).error is None
    notebook = nbformat.read(copy, as_version=4)
    notebook.cells[0].source = "print('mine')"
    nbformat.write(notebook, copy)
    assert progress.result(path) is None
    copy.unlink()
    assert progress.result(path) is None


def test_an_unknown_profile_is_said_with_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    write_notebook(tmp_path / "notebooks" / "01_good.ipynb", "1")
    assert main(["run", "--profile", "quik"]) == 2
    assert "Did you mean 'quick'?" in capsys.readouterr().err
    assert not (tmp_path / "build").exists()


def test_outside_the_repository_one_sentence_says_what_is_needed(tmp_path):
    """A process of its own: what somebody types who has installed the package with pip."""
    command = [sys.executable, "-m", "cifar_helpers", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"no notebooks in {tmp_path.resolve() / 'notebooks'}: expected the folder notebooks/")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_doctor_says_what_to_do_about_what_it_finds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"half a file")
    (tmp_path / "file").write_text("no folder")
    for name, value in {"PROFILE": "quik", "DEVICE": "cuda:99", "DATA_DIR": ".", "OUT": "file/below"}.items():
        monkeypatch.setenv(f"CIFAR_{name}", value)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "nbclient" else name)
    monkeypatch.setattr(doctor, "home_folder", lambda: tmp_path)
    assert main(["doctor"]) == 0
    rows = capsys.readouterr().out.replace("\n             -> ", " -> ").splitlines()
    advice = {row.split()[0]: row.split(" -> ")[1] for row in rows if " -> " in row}
    assert advice["CIFAR_PROFILE"] == "set CIFAR_PROFILE to one of quick, laptop, full, or unset it"
    assert "device='cuda:99' was asked for" in advice["device"]
    assert advice["notebooks"].startswith("pip install 'cifar-helpers[notebooks]'")
    assert advice["CIFAR-10"].startswith(f"delete {tmp_path / 'cifar-10-batches-py' / 'test_batch'}, then: python -m ")
    assert advice["CIFAR-100"].startswith("python -m cifar_helpers data fetches it (169 MB)")
    assert "clone it" in advice["home"]
    assert advice["checkpoints"] == advice["figures"] == "cannot be written: set CIFAR_OUT to another folder"
    assert "data" not in advice


def test_doctor_prints_the_machine_and_where_everything_goes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIFAR_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("CIFAR_DATA_DIR", str(tmp_path / "data"))
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "torch" in lines[0]
    where = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[-5:]}
    assert list(where) == ["home", "data", "figures", "checkpoints", "recipes"]
    assert where["home"] == str(commands.home_folder())
    assert where["data"] == str(tmp_path / "data")
    assert where["figures"].startswith(f"{tmp_path / 'out' / 'figures'} (real data)")
    assert where["checkpoints"] == str(tmp_path / "out" / "checkpoints")
    assert where["recipes"].startswith(str(tmp_path / "out" / "checkpoints"))
    assert not list(tmp_path.iterdir())
