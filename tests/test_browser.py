"""JupyterLab in a browser: every notebook, *Run All Cells* in the quick profile, looked at as a reader sees it.

    make browser-test                       (all eight, some minutes)
    pytest -m browser -k 06                 (one)

Screenshots of all of it go to build/browser/, in the light and in the dark theme. `CIFAR_DATA=synthetic` needs no data.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import psutil
import pytest
from browser import chromium

pytest.importorskip("playwright.sync_api", reason="opens a browser: make browser-test, or pip install '.[browser]'")
pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parent.parent
SHOTS = ROOT / "build" / "browser"
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("0*.ipynb"))
SECONDS = 1800  # for one notebook; a busy machine takes some times as long as a quiet one

WIDTH, HEIGHT = 1280, 1600  # of a laptop's window, and as much at once as a screenshot may well show
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"  # the one thing that a notebook asks of the internet

# What a person would choose in the menus: all cells are in the page, wherever it is scrolled to, and no news.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}

WIDGET = "window.jupyterapp?.shell.currentWidget"

# Of the notebook in sight: prompts of its code cells, and what is wrong with what they and the prose show.
LOOK = """() => {
  const notebook = document.querySelector('.jp-Notebook');
  const all = (selector) => [...notebook.querySelectorAll(selector)];
  const say = (element) => element.textContent.trim().slice(0, 300);
  const prose = '.jp-RenderedHTMLCommon';
  const text = all(`.jp-RenderedText, ${prose}, ${prose} table, ${prose} pre`);
  return {
    prompts: all('.jp-CodeCell .jp-InputPrompt').map(say),
    stderr: all('[data-mime-type="application/vnd.jupyter.stderr"]').map(say),  // and tracebacks
    pictures: all('img').length,
    unseen: all('img').filter((img) => !img.complete || !img.naturalWidth).map((img) => img.src.slice(0, 100)),
    wide: text.filter((element) => element.scrollWidth > element.clientWidth + 1).map(say),
  };
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Start JupyterLab as a reader does, copies and settings in a temporary folder; yield its address and token."""
    home = tmp_path_factory.mktemp("lab")
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    folders = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
               "JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime"}  # fmt: skip
    environment = os.environ | {name: str(home / folder) for name, folder in folders.items()}
    SHOTS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cifar_helpers", "lab", "--out", home / "lab", "--notebooks", ROOT / "notebooks"]
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", "--LabApp.expose_app_in_browser=True"]
    with (SHOTS / "jupyterlab.log").open("w") as log:
        process = subprocess.Popen([*command, "--", *options], env=environment, stdout=log, stderr=log)
        try:
            server = wait_for_server(home / "runtime", process)
            yield server | {"folder": home / "lab" / "notebooks"}
            shut_down = urllib.request.Request(f"{server['url']}api/shutdown", method="POST", data=b"")
            shut_down.add_header("Authorization", f"token {server['token']}")
            urllib.request.urlopen(shut_down, timeout=30)
            assert process.wait(60) == 0
        finally:
            for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
                child.kill()
            process.kill()


def wait_for_server(runtime: Path, process: subprocess.Popen) -> dict:
    """Return address and token of a server, which it writes into its folder once it listens."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            return json.loads(path.read_text())
        time.sleep(0.5)
    pytest.fail(f"JupyterLab did not start: {(SHOTS / 'jupyterlab.log').read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser():
    with chromium(missing=pytest.fail) as opened:
        yield opened


@pytest.fixture
def page(browser):
    """Return an empty page that asks nothing of the internet, and notes in `page.faults` what it complains of."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.faults = []
    page.on("console", lambda message: note_fault(page, message))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.route(lambda url: "//127.0.0.1" not in url and "//localhost" not in url, lambda route: stay_here(page, route))
    yield page
    page.evaluate("() => window.jupyterapp?.serviceManager.sessions.shutdownAll()")  # a kernel holds a gigabyte
    page.close()


def note_fault(page, message) -> None:
    """Note an error on the console, but for the one of JupyterLab itself, which looks for language servers."""
    where = message.location.get("url", "")
    if message.type == "error" and "/lsp/status" not in where:
        page.faults.append(f"{message.text} ({where})")


def stay_here(page, route) -> None:
    """Answer for the internet: with a picture instead of the badge; anything else is a fault."""
    if route.request.url == BADGE:
        route.fulfill(
            content_type="image/svg+xml", body="<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"
        )
    else:
        page.faults.append(f"asks for {route.request.url}")
        route.abort()


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_run_all_cells(lab, page, notebook):
    before = git_status()
    seen = run_all_cells(page, lab, notebook)
    command(page, "docmanager:save")
    for theme in ("Light", "Dark"):
        command(page, "apputils:change-theme", {"theme": f"JupyterLab {theme}"})
        take_screenshots(page, f"{notebook}-{theme.lower()}")
    assert seen["stderr"] == []
    assert seen["prompts"] == [f"[{number}]:" for number in range(1, len(seen["prompts"]) + 1)]
    assert seen["pictures"] > 2
    assert (seen["unseen"], seen["wide"], page.faults) == ([], [], [])
    assert git_status() == before


def test_what_is_wrong_is_seen(lab, page):
    """The test above passes where nothing is found; here there is something of each kind."""
    prose = "![gone](gone.png) ![elsewhere](https://example.com/a.png)\n\n" + table(["wide" * 20] * 5)
    sources = ("import sys; print('beside', file=sys.stderr)", f"print({'wide ' * 40!r})", "1 / 0", "'behind'")
    cells = [nbformat.v4.new_markdown_cell(prose), *map(nbformat.v4.new_code_cell, sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # else JupyterLab asks which
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), lab["folder"] / "wrong.ipynb")
    seen = run_all_cells(page, lab, "wrong")
    assert seen["stderr"][0] == "beside"
    assert "ZeroDivisionError" in seen["stderr"][1]
    assert seen["prompts"] == ["[1]:", "[2]:", "[3]:", "[ ]:"]
    assert len(seen["unseen"]) == seen["pictures"] == 2
    assert seen["wide"]
    assert "asks for https://example.com/a.png" in page.faults
    assert any("gone.png" in fault for fault in page.faults)


def table(cells: list[str]) -> str:
    """Return a Markdown table of one row."""
    return "".join(f"|{'|'.join(row)}|\n" for row in (cells, ["---"] * len(cells), cells))


def run_all_cells(page, lab: dict, notebook: str) -> dict:
    """Open a notebook, wait for its kernel, run all cells, and return what `LOOK` sees then."""
    page.goto(f"{lab['url']}lab/workspaces/{notebook}/tree/{notebook}.ipynb?token={lab['token']}")
    page.wait_for_function(
        f"() => {WIDGET}?.context?.sessionContext.session?.kernel?.status == 'idle'", timeout=120_000
    )
    command(page, "notebook:run-all-cells")
    return wait_until_idle(page)


def git_status() -> str:
    done = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout


def command(page, name: str, arguments: dict | None = None) -> None:
    """Do what an entry of JupyterLab's menus does, and do not wait for its end."""
    page.evaluate(
        "([name, arguments]) => { window.jupyterapp.commands.execute(name, arguments); }", [name, arguments or {}]
    )


def wait_until_idle(page) -> dict:
    """Return what `LOOK` sees once no cell waits or runs any more; cells behind one that fails do neither."""
    page.wait_for_function(f"() => ({LOOK})().prompts.includes('[*]:')", timeout=60_000)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        seen = page.evaluate(LOOK)
        if "[*]:" not in seen["prompts"]:
            page.wait_for_timeout(1000)  # the last output is drawn
            return page.evaluate(LOOK)
        page.wait_for_timeout(2000)
    pytest.fail(f"not done after {SECONDS} s: cell {seen['prompts'].index('[*]:') + 1} runs")


def take_screenshots(page, name: str) -> None:
    """Photograph the notebook, a screenful at a time."""
    for old in SHOTS.glob(f"{name}-*.png"):
        old.unlink()
    page.wait_for_timeout(500)
    box = page.locator(".jp-WindowedPanel-outer").first
    height, screen = box.evaluate("box => [box.scrollHeight, box.clientHeight]")
    for number, top in enumerate(range(0, height, screen), 1):
        box.evaluate("(box, top) => box.scrollTo(0, top)", top)
        page.wait_for_timeout(100)
        page.screenshot(path=SHOTS / f"{name}-{number:02d}.png")
