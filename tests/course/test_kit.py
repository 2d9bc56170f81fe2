"""The teacher's kit: minutes add up, exercises exist, every Predict has an answer, questionnaires become forms."""

import csv
import difflib
import re

import make_workshop
import pytest
from deck import exercises

KIT = make_workshop.ROOT / "site" / "workshop"
NAMES = sorted(p.stem for p in exercises.NOTEBOOKS.glob("0*.ipynb"))


def clock(text):
    hours, minutes = text.split(":")
    return 60 * int(hours) + int(minutes)


def plans():
    for part in (KIT / "plans.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        rows = [[c.strip() for c in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| ")]
        yield part.splitlines()[0], [row for row in rows if ":" in row[0]]


def test_minutes_of_every_plan_add_up():
    found = {}
    for title, rows in plans():
        for row, following in zip(rows, rows[1:], strict=False):
            assert clock(row[0]) + int(row[1]) == clock(following[0]), f"{title}, {row[0]}"
        found[title.split(":")[0]] = clock(rows[-1][0]) + int(rows[-1][1]) - clock(rows[0][0])
    assert found == {"45 minutes": 45, "90 minutes": 90, "180 minutes": 180, "One day": 480}


def test_exercises_of_the_plans_exist():
    titles = {n: [s.title for s in exercises.exercises(n)] for n in NAMES}
    there = {f"{int(n[:2])}.{found}" for n in NAMES for found in re.findall(r"exercise (\d+)", " ".join(titles[n]))}
    for title, rows in plans():
        named = {e for row in rows for e in re.findall(r"\d\.\d", row[3])}
        assert named <= there, title
    assert any(there <= {e for row in rows for e in re.findall(r"\d\.\d", row[3])} for _, rows in plans())


def numbers(words):
    """Slides that a plan names: "slides 2, 5 and 7 to 9"."""
    found = set()
    for first, last in re.findall(r"(\d+)(?: to (\d+))?", words):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def test_slides_and_exercises_of_a_block_fit_into_its_minutes():
    decks = sorted((make_workshop.OUT / "slides").glob("0*.html"))
    if len(decks) != len(NAMES):
        pytest.skip("the slides are not built: make workshop")
    section = re.compile(r'<section class="(\w+)" data-minutes="(\d+)"><h1>(.*?)</h1>')
    slides = [section.findall(deck.read_text(encoding="utf-8")) for deck in decks]
    for title, rows in plans():
        for row in rows:
            needed = 0
            for words in re.split(r"(?=[Dd]eck)", row[2])[1:]:
                deck = slides[int(re.search(r"\d", words)[0]) - 1]
                named = re.search(r"slides? ([\d, toand]+)", words)
                chosen = (
                    numbers(named[1]) if named else {i for i, s in enumerate(deck, 1) if s[0] in ("figure", "predict")}
                )
                assert max(chosen) <= len(deck), f"{title}: {row[2]}"
                needed += sum(int(deck[i - 1][1]) for i in chosen)
            for notebook, number in re.findall(r"(\d)\.(\d)", row[3]):
                needed += next(int(s[1]) for s in slides[int(notebook) - 1] if f"exercise {number} " in s[2])
            assert needed <= int(row[1]), f"{title}, {row[0]}: {needed} minutes of slides and exercises"


@pytest.mark.parametrize("name", NAMES)
def test_every_predict_has_an_answer(name):
    page = (KIT / "predict.md").read_text(encoding="utf-8")
    part = page.split(f"## Notebook {int(name[:2])}\n", 1)
    answered = re.findall(r"(?m)^> (.+)$", part[1].split("\n## ")[0]) if len(part) == 2 else []
    words = "\n".join(c.source for c in exercises.cells_of(name) if c.cell_type == "markdown")
    for question in re.findall(r"\*\*Predict:\*\*\s*(.+)", words):
        assert difflib.get_close_matches(question, answered, 1, 0.7), f"predict.md answers not: {question}"


def test_questionnaires_become_forms(tmp_path):
    make_workshop.write_kit(tmp_path)
    with (tmp_path / "questions-before.csv").open(encoding="utf-8", newline="") as file:
        before = list(csv.DictReader(file))
    with (tmp_path / "questions-after.csv").open(encoding="utf-8", newline="") as file:
        after = list(csv.DictReader(file))
    assert [row["number"] for row in before] == [str(i) for i in range(1, len(before) + 1)] and len(after) == 9
    same = {row["question"] for row in before} & {row["question"] for row in after}
    assert len(same) == 5, "the word, and four questions that show what was learnt"
    assert all(len(row["choices"].split(";")) >= 3 for row in before + after if row["kind"] == "choice")
