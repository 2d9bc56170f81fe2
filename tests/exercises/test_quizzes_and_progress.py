"""Quizzes that answer without a kernel; what is remembered, where, and the certificate."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from html.parser import HTMLParser

import pytest

from mil_tutorial import DataError, ParameterError
from mil_tutorial.commands.main import main
from mil_tutorial.exercises import certificate, notebook_1, progress, quizzes, words
from mil_tutorial.exercises.checks import exercises_of


def good(fraction, threshold):
    return int((fraction > threshold).sum())


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A learner's file of progress."""
    path = tmp_path / "home" / "progress.json"
    monkeypatch.setenv(progress.VARIABLE, str(path))
    return path


# Quizzes


@pytest.mark.parametrize("notebook", words.NOTEBOOKS)
def test_five_questions_with_a_sentence_for_every_choice(notebook):
    asked = quizzes.questions(notebook)
    assert len(asked) >= 5
    for question in asked:
        choices = question["choices"]
        assert question["question"].endswith("?") and 3 <= len(choices) <= len(quizzes.LETTERS)
        assert [c.get("right") for c in choices].count(True) == 1
        assert all(c["text"] and len(c["why"]) > 20 and c["why"].endswith(".") for c in choices)
        assert len({c["why"] for c in choices}) == len(choices)


def test_the_right_choice_is_not_always_at_one_place():
    letters = Counter("".join(quizzes.right_letters(n) for n in words.NOTEBOOKS))
    assert set(letters) == set("abc") and max(letters.values()) <= 15
    assert all(len(set(quizzes.right_letters(n))) > 1 for n in words.NOTEBOOKS)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], Counter()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen[tag] += 1
        assert not any(name.startswith("on") or name in ("href", "src", "style") for name, _ in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("notebook", words.NOTEBOOKS)
def test_the_markdown_needs_no_script_and_is_readable_as_text(notebook):
    text = quizzes.quiz_markdown(notebook)
    tags = Tags()
    tags.feed(text)
    choices = sum(len(q["choices"]) for q in quizzes.questions(notebook))
    assert not tags.open and set(tags.seen) <= {"details", "summary", "p", "strong", "code", "em"}
    assert tags.seen["details"] == tags.seen["summary"] == choices
    plain = re.sub(r"<[^>]+>", "", text)
    for question in quizzes.questions(notebook):
        assert question["question"] in text
        for choice in question["choices"]:
            assert quizzes.as_html(choice["why"]) in text
    assert "a) " in plain and "c) " in plain


def test_answers_get_their_sentences_and_are_remembered(file, capsys):
    right = quizzes.right_letters(1)
    quizzes.answer_quiz(1, right)
    said = capsys.readouterr().out
    assert said.count("Right.") == 5 and "5 of 5 right." in said
    wrong = "".join("b" if letter == "a" else "a" for letter in right)
    quizzes.answer_quiz(1, " ".join(wrong).upper())
    said = capsys.readouterr().out
    assert said.count("No.") == 5 and "0 of 5 right." in said
    first = quizzes.questions(1)[0]["choices"]["abc".index(wrong[0])]["why"]
    assert first in said
    assert progress.read_progress()["quizzes"]["1"]["answers"] == wrong  # the last ones count


def test_letters_that_do_not_fit_are_explained(file, capsys):
    quizzes.answer_quiz(1, "")
    assert "5 letters between the quotes" in capsys.readouterr().out
    quizzes.answer_quiz(1, "ab")
    assert "found 2 letters, expected 5" in capsys.readouterr().out
    assert not file.exists()
    quizzes.answer_quiz(1, "x?aaa")
    said = capsys.readouterr().out
    assert "there is no answer x. Choose one of a, b, c." in said and "Question 2: left out." in said


# Progress


@pytest.mark.slow
def test_checks_are_remembered_across_kernels_and_what_was_right_stays_right(file, capsys):
    notebook_1.patches_above(lambda fraction, threshold: None)
    notebook_1.patches_above(good)
    notebook_1.patches_above(lambda fraction, threshold: 3)
    entry = progress.read_progress()["exercises"]["1.patches_above"]
    assert entry["right"] is True and entry["tries"] == 3
    assert notebook_1.patches_above.accepts(good) and notebook_1.patches_above.judge(good).right
    assert progress.read_progress()["exercises"]["1.patches_above"]["tries"] == 3  # these two are not remembered
    code = "from mil_tutorial.exercises.progress import progress_table; print(progress_table())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "notebook 1:  exercises 1 of 3   quiz 0 of 5" in done.stdout and str(file) in done.stdout


def test_off_means_that_nothing_is_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(progress.VARIABLE, "off")
    monkeypatch.chdir(tmp_path)
    notebook_1.patches_above(good)
    quizzes.answer_quiz(1, "aaaaa")
    assert progress.progress_file() is None and not list(tmp_path.iterdir())
    certificate.show_progress("Ada")
    assert "MIL_TUTORIAL_PROGRESS is off" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"exercises": {}, "quizzes": {}}', '{"exercises": []}', "\x00" * 50, "é"]
)
def test_a_damaged_file_is_named_and_the_lesson_goes_on(file, capsys, content):
    file.parent.mkdir(parents=True)
    file.write_bytes(content.encode("latin-1"))
    verdict = notebook_1.patches_above(good)
    said = capsys.readouterr().out
    assert verdict == "Right." and said.startswith("Right.\n(This is not remembered: ")
    assert "progress.json" in said and "Delete it to begin again." in said
    assert file.read_bytes() == content.encode("latin-1")  # it is the learner's: not overwritten
    assert main(["progress"]) == 2 and "Delete it to begin again." in capsys.readouterr().err
    certificate.show_progress("Ada")
    assert "Delete it to begin again." in capsys.readouterr().out


def test_entries_of_another_form_are_refused(file):
    from mil_tutorial.files import write_json

    file.parent.mkdir(parents=True)
    write_json(file, {"exercises": {"1.patches_above": 3}, "quizzes": {}})
    with pytest.raises(DataError, match="something else than progress"):
        progress.read_progress()


def test_a_place_that_cannot_be_written_is_said(monkeypatch, tmp_path, capsys):
    (tmp_path / "no-folder").write_text("a file")
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "no-folder" / "progress.json"))
    assert notebook_1.patches_above(good).right
    assert "(This is not remembered: " in capsys.readouterr().out


def test_exercises_that_the_course_has_no_more_do_not_count(file):
    progress.remember_check("1.gone", True)
    progress.remember_check("1.patches_above", True)
    progress.remember_quiz(1, "aaaaa", 99)
    found = progress.tallies()[1]
    assert (found.right, found.all, found.quiz_right, found.quiz_all) == (1, len(exercises_of(1)), 5, 5)


# The certificate


@pytest.mark.parametrize(
    "name", ["Ada Lovelace", "<script>alert(1)</script> & \"co\" 'x'", "李小龙 " * 12, "O\x00\x1b[31m'Neil"]
)
def test_a_name_is_only_ever_a_name(file, tmp_path, name):
    progress.remember_check("1.patches_above", True)
    path = certificate.write_certificate(tmp_path / "certificate.svg", name)
    root = ElementTree.parse(path).getroot()
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert certificate.clean_name(name) in texts and not any("script" in element.tag for element in root.iter())
    everything = len([e for n in words.NOTEBOOKS for e in exercises_of(n)])
    assert f"1 of {everything} exercises solved" in texts
    orange = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("fill") == certificate.TUMOR]
    assert len(orange) == 1


@pytest.mark.parametrize("name", ["", "  \n", "x" * 121, "\x00"])
def test_no_certificate_without_a_name(file, name):
    with pytest.raises(ParameterError, match="name"):
        certificate.clean_name(name)


def test_no_certificate_for_nothing(file, tmp_path):
    with pytest.raises(DataError, match="Nothing is remembered yet"):
        certificate.write_certificate(tmp_path / "c.svg", "Ada")
    assert not (tmp_path / "c.svg").exists()


def test_the_last_cell_shows_progress_and_writes_the_certificate(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    certificate.show_progress()
    assert "Put your name between the quotes" in capsys.readouterr().out
    progress.remember_check("6.find_peaks", True)
    certificate.show_progress("Ada")
    assert "certificate: " in capsys.readouterr().out and (tmp_path / "outputs" / "certificate.svg").exists()


def test_the_command_shows_deletes_and_certifies(file, tmp_path, capsys):
    progress.remember_check("2.unpack", True)
    assert main(["progress", "--name", "Ada", "--out", str(tmp_path / "c.svg")]) == 0
    said = capsys.readouterr().out
    assert "notebook 2:  exercises 1 of 3" in said and "c.svg" in said and (tmp_path / "c.svg").exists()
    assert json.loads(file.read_text())["exercises"]["2.unpack"]["tries"] == 1
    assert main(["progress", "--delete"]) == 0 and "is deleted" in capsys.readouterr().out and not file.exists()
    assert main(["progress", "--delete"]) == 0 and "nothing is deleted" in capsys.readouterr().out
    assert main(["progress", "--name", " "]) == 2 and "--name: " in capsys.readouterr().err
