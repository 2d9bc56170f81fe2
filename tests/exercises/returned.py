"""Makes thirty returned notebooks, each with something of its own, and says what the table must hold for each."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
RIGHT = "Right."

# Answers to the exercises of notebook 1, as cells.
MINIMUM = "my_minimum = min(tissue_share(x, y) for x, y in coords[labels.label == 1].tolist())"
ABOVE = "def patches_above(fraction, threshold):\n    return int((fraction > threshold).sum())"
LEVEL = (
    "def choose_level(downsamples, side, px):\n"
    "    return max((i for i, f in enumerate(downsamples) if side / f >= px), default=0)"
)
HELPED = "def patches_above(fraction, threshold):\n    return my_count(fraction > threshold)"
GOOD = {"my_minimum": MINIMUM, "patches_above": ABOVE, "choose_level": LEVEL}


def above(body: str, before: str = "") -> str:
    """An answer to patches_above whose function does this, after some lines at the top of the cell."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return f"{before}\ndef patches_above(fraction, threshold):\n{lines}\n    return int((fraction > threshold).sum())"


def notebook(answers: dict[str, str], *, stem: str = "01-data-and-patch-labels", edit=None) -> str:
    """The student's notebook with these cells in place of its stubs; `edit` changes the notebook at the end."""
    import make_workshop

    from mil_tutorial.commands.slicing import defined_in

    found = make_workshop.student(nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4))
    for cell in found.cells:
        if "exercise" in cell.metadata.get("tags", []):
            for name, answer in answers.items():
                if name in defined_in(cell.source):
                    cell.source = answer
                    break
    if edit is not None:
        edit(found)
    return nbformat.writes(found)


def edit_checks(found) -> None:
    """Every check says "Right.", whatever the answer is."""
    for cell in found.cells:
        if "check" in cell.metadata.get("tags", []):
            cell.source = "class check:\n    patches_above = staticmethod(lambda f: print('Right.'))\nprint('Right.')"


def no_tags(found) -> None:
    """As an editor leaves it that knows no tags."""
    for cell in found.cells:
        cell.metadata = {}


def add_helper(found) -> None:
    """A helper function in a cell of its own."""
    found.cells.insert(5, nbformat.v4.new_code_cell("def my_count(values):\n    return int(values.sum())"))


def loud(found) -> None:
    """A hundred megabytes of printed lines were saved with it."""
    output = nbformat.v4.new_output("stream", name="stdout", text="x" * (100 << 20))
    next(c for c in found.cells if c.cell_type == "code").outputs = [output]


def cases(outside: Path) -> dict[str, tuple[str | bytes, dict[str, str] | str]]:
    """Learner -> their notebook, and by exercise (without its number) how the sentence begins, or words in it.

    Args:
        outside: a folder that nobody may write to, with a file secret.txt that nobody may read.
    """
    o = outside.as_posix()
    stub = {"my_minimum": "my_minimum = None", "patches_above": above("return None"), "choose_level": LEVEL}
    half = GOOD | {"choose_level": "def choose_level(downsamples, side, px):\n    return 0"}
    bad = "Your code stopped with"

    def one(body: str, said: str, before: str = "") -> tuple[str, dict[str, str]]:
        return notebook(GOOD | {"patches_above": above(body, before)}), {"patches_above": said}

    three = notebook(
        {"softmax": "def softmax(f):\n    e = torch.exp(f - f.max())\n    return e / e.sum()"},
        stem="03-abmil-from-scratch",
    )
    return {
        "01_all_right": (notebook(GOOD), {}),
        "02_half_right": (notebook(half), {"choose_level": "still fine enough"}),
        "03_untouched": (
            notebook({}),
            {"my_minimum": "Not yet", "patches_above": "returns nothing", "choose_level": "returns nothing"},
        ),
        "04_all_wrong": (
            notebook(
                {
                    "my_minimum": "my_minimum = 1.0",
                    "patches_above": above("return (fraction > threshold).mean()"),
                    "choose_level": "def choose_level(downsamples, side, px):\n    return len(downsamples) - 1",
                }
            ),
            {"my_minimum": "you lose", "patches_above": "how many", "choose_level": "pixels wide"},
        ),
        "05_hangs": one("while True: pass", "no answer after"),
        "06_hangs_at_the_top": one("pass", "no answer after", "while True: pass"),
        "07_sleeps": one("import time; time.sleep(10**6)", "no answer after"),
        "08_crashes": one("import ctypes; ctypes.string_at(0)", "ended before"),
        "09_leaves": one("import os; os._exit(0)", "ended before"),
        "10_exits": one("exit()", f"{bad} SystemExit"),
        "11_raises": one("return fraction[99]", f"{bad} IndexError"),
        "12_eats_memory": one("x = []\nwhile True: x.append(bytearray(50 << 20))", "emory"),
        "13_asks_for_a_terabyte": one("np.ones(2**37)", "emory"),
        "14_prints_100_MB": one("for _ in range(400): print('x' * 250_000)", RIGHT),
        "15_reads_outside": one(f"open('{o}/secret.txt').read()", f"{bad} PermissionError"),
        "16_writes_outside": one(f"open('{o}/written', 'w').write('x')", f"{bad} PermissionError"),
        "17_writes_outside_in_C": one(f"import cv2; assert cv2.imwrite('{o}/c.png', np.zeros((9, 9)))", bad),
        "18_deletes_outside": one(f"import os; os.remove('{o}/secret.txt')", f"{bad} PermissionError"),
        "19_writes_inside": one("open('mine.txt', 'w').write('x'); open('mine.txt').read()", RIGHT),
        "20_calls_home": one("import socket; socket.create_connection(('127.0.0.1', 9), 2)", bad),
        "21_starts_a_shell": one(f"import subprocess; subprocess.run('touch {o}/shell', shell=True)", bad),
        "22_forks": one("import os\nwhile True: os.fork()", bad),
        "23_edited_checks": (notebook(stub, edit=edit_checks), {"my_minimum": "Not yet", "patches_above": "nothing"}),
        "24_changes_the_check": one(
            "return 7",
            "expected",
            "from mil_tutorial.exercises import notebook_1\nnotebook_1.patches_above = lambda f: 'Right.'",
        ),
        "25_no_tags": (notebook(half, edit=no_tags), {"choose_level": "still fine enough"}),
        "26_helper_elsewhere": (
            notebook(
                GOOD | {"patches_above": HELPED},
                edit=add_helper,
            ),
            {},
        ),
        "27_no_Python": (
            notebook(GOOD | {"patches_above": "def patches_above(fraction, threshold)\n    return 1"}),
            {"patches_above": f"{bad} SyntaxError"},
        ),
        "28_saved_100_MB": (notebook(GOOD, edit=loud), {}),
        "29_other_notebook": (
            three,
            {"my_knob": "Not yet", "mean_pool": "returns nothing", "masked_softmax": "nothing", "copies": "Not yet"},
        ),
        "30_broken_file": (b'{"cells": [{"cell_type": "code", ', "no notebook of format 4"),
    }


def write_returned(folder: Path, outside: Path) -> dict[str, dict[str, str] | str]:
    """Write the thirty notebooks: most as files, some in folders, three in a zip that also points elsewhere.

    Returns:
        By learner what the table must hold, see `cases`.
    """
    outside.mkdir(parents=True, exist_ok=True)
    (outside / "secret.txt").write_text("the teacher's")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {}
    with zipfile.ZipFile(folder / "late.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../slipped.txt", "x")
        archive.writestr("__MACOSX/._01.ipynb", "x")
        for number, (learner, (content, said)) in enumerate(cases(outside).items()):
            stem = "03-abmil-from-scratch" if learner.startswith("29") else "01-data-and-patch-labels"
            content = content.encode() if isinstance(content, str) else content
            wanted[learner] = said
            if number in (1, 10):
                archive.writestr(f"../../{stem}_{learner}.ipynb", content)  # a name that would slip out of the folder
            elif number % 3:
                (folder / f"{stem}_{learner}.ipynb").write_bytes(content)
            else:
                (folder / learner).mkdir()
                (folder / learner / f"{stem}.ipynb").write_bytes(content)
    return wanted


if __name__ == "__main__":
    import sys

    print(json.dumps(write_returned(Path(sys.argv[1]), Path(sys.argv[2])), indent=1))
