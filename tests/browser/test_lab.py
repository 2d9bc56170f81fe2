"""JupyterLab in a real browser: notebook 01 opens, runs all cells and shows its figures."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from mil_tutorial.exercises import quizzes


@pytest.fixture
def lab(repo, tmp_path):
    pytest.importorskip("jupyterlab", reason="pip install -e '.[course]' brings JupyterLab")
    shutil.copy(repo / "notebooks" / "01-data-and-patch-labels.ipynb", tmp_path)
    settings = tmp_path / "settings"
    environment = {
        **os.environ,
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
    }
    settings = {"IdentityProvider.token": "course", "ServerApp.root_dir": tmp_path, "LabApp.news_url": ""}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
    command += [f"--{name}={value}" for name, value in settings.items()]
    command += ["--ServerApp.open_browser=False"]
    log = open(tmp_path / "lab.log", "w")  # noqa: SIM115 (closed below)
    runtime = tmp_path / "runtime"
    process = subprocess.Popen(
        command, env={**environment, "JUPYTER_RUNTIME_DIR": str(runtime)}, stdout=log, stderr=log
    )
    address, deadline = None, time.monotonic() + 60
    while time.monotonic() < deadline and address is None:
        time.sleep(0.5)
        for file in runtime.glob("jpserver-*.json"):
            found = json.loads(file.read_text())["url"]
            try:
                urllib.request.urlopen(f"{found}api?token=course", timeout=2)
                address = found
            except OSError:
                continue
    assert address, (tmp_path / "lab.log").read_text()[-2000:]
    yield address
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:  # its kernels are slow to end on a busy machine
        process.kill()
    log.close()


def open_notebook(open_page, lab, name):
    """A notebook of the folder in a tab of its own; its kernel is its own, too."""
    allow = (lab, "data:", "blob:", lab.replace("http", "ws"))
    page = open_page(f"{lab}lab/workspaces/{Path(name).stem}/tree/{name}?token=course", allow=allow)
    page.sockets = []
    page.on("websocket", lambda socket: page.sockets.append(socket.url))
    page.locator(".jp-Notebook").wait_for(timeout=120_000)
    page.wait_for_timeout(2000)
    return page


def printed(page, word):
    """Run all cells, and what the cell printed that says the word."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    output = page.locator(".jp-RenderedText", has_text=word).last
    output.wait_for(timeout=120_000)
    output.filter(has_text="kernel ").wait_for(timeout=120_000)
    return output.inner_text()


def test_what_is_solved_in_one_tab_is_known_in_another_with_another_kernel(lab, open_page, tmp_path):
    where = f"import os\nos.environ['MIL_TUTORIAL_PROGRESS'] = {str(tmp_path / 'progress.json')!r}\n"
    answer = "check.patches_above(lambda fraction, threshold: (fraction > threshold).sum())"
    solve = [
        nbformat.v4.new_markdown_cell(quizzes.quiz_markdown(1)),
        nbformat.v4.new_code_cell(f"{where}from mil_tutorial.exercises import notebook_1 as check\n{answer}"),
        nbformat.v4.new_code_cell(
            "from mil_tutorial.exercises.quizzes import answer_quiz\n"
            f"answer_quiz(1, {quizzes.right_letters(1)!r})\nprint('kernel', os.getpid())"
        ),
    ]
    show = f"{where}from mil_tutorial.exercises.certificate import show_progress\nshow_progress()\n"
    show += "print('kernel', os.getpid())"
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for name, cells in (("solve", solve), ("show", [nbformat.v4.new_code_cell(show)])):
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=spec), tmp_path / f"{name}.ipynb")

    first = open_notebook(open_page, lab, "solve.ipynb")
    choice = first.locator("details.quiz, .jp-MarkdownOutput details").nth(1)
    assert not choice.locator("p").is_visible()
    choice.locator("summary").click()
    assert choice.locator("p").is_visible() and "Right." in choice.inner_text()  # no cell was run
    texts = [printed(first, "5 of 5 right.")]
    second = open_notebook(open_page, lab, "show.ipynb")
    texts.append(printed(second, "together"))
    assert "exercises 1 of 3   quiz 5 of 5" in texts[1], texts[1]
    assert len({text.split("kernel ")[1] for text in texts}) == 2, "one kernel answered both"
    second.reload()
    second.locator(".jp-Notebook").wait_for(timeout=120_000)
    for page in (first, second):
        assert not [f for f in page.faults if "network" in f]
        assert all(url.startswith(lab.replace("http", "ws")) for url in page.sockets)


def test_jupyterlab_runs_notebook_1_and_shows_its_figures(lab, open_page):
    page = open_page(
        f"{lab}lab/tree/01-data-and-patch-labels.ipynb?token=course",
        allow=(lab, "data:", "blob:", lab.replace("http", "ws")),
    )
    page.locator(".jp-Notebook").wait_for(timeout=60_000)
    page.wait_for_timeout(2000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    result = page.locator(".jp-RenderedText").get_by_text("Key result:")
    deadline = time.monotonic() + 180
    while result.count() < 1 and time.monotonic() < deadline:  # the last cell is drawn only when it is in sight
        page.locator(".jp-Notebook .jp-WindowedPanel-outer").first.evaluate("e => e.scrollTo(0, e.scrollHeight)")
        page.wait_for_timeout(1000)
    errors = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count()
    assert page.locator(".jp-RenderedText").get_by_text("Key result:").count() >= 1, (
        f"no key result; {errors} outputs on stderr"
    )
    found = 0
    outer = page.locator(".jp-Notebook .jp-WindowedPanel-outer").first
    height = outer.evaluate("e => e.scrollHeight")
    for place in range(0, int(height), 600):
        outer.evaluate(f"e => e.scrollTo(0, {place})")
        page.wait_for_timeout(80)
        found = max(found, page.locator(".jp-RenderedImage img").count())
    assert found >= 3, "the figures are not shown"
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
