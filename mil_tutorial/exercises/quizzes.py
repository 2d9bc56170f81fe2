"""The quizzes: as Markdown that answers a click without a kernel, and as a cell that remembers what was chosen."""

from __future__ import annotations

import re
from html import escape
from typing import Any

from mil_tutorial.exercises import progress
from mil_tutorial.exercises.words import texts

LETTERS = "abcdef"
LEFT_OUT = "?"


def questions(notebook: int) -> list[dict[str, Any]]:
    """The questions of a notebook: each a "question" and its "choices" of "text", "why" and, for one, "right"."""
    return list(texts(f"notebook_{notebook}")["quiz"])


def right_letters(notebook: int) -> str:
    """The letters of the right choices."""
    found = [[bool(c.get("right")) for c in q["choices"]].index(True) for q in questions(notebook)]
    return "".join(LETTERS[i] for i in found)


def as_html(text: str) -> str:
    """A sentence with `code`, **bold** and *emphasis* as HTML, as Markdown is not read inside HTML.

    >>> as_html("Is `a < b` *always* **true**?")
    'Is <code>a &lt; b</code> <em>always</em> <strong>true</strong>?'
    """
    text = escape(text, quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)


def quiz_markdown(notebook: int) -> str:
    """The quiz as Markdown with `<details>`: each choice opens its sentence, with no script, kernel or network."""
    words = texts("common")["quiz"]
    parts = [str(words["title"])]
    for number, question in enumerate(questions(notebook), 1):
        parts.append(f"**{number}.** {question['question']}")
        lines = []
        for letter, choice in zip(LETTERS, question["choices"], strict=False):
            word = words["right" if choice.get("right") else "wrong"]
            summary, why = as_html(choice["text"]), as_html(choice["why"])
            inside = f"<summary>{letter}) {summary}</summary><p><strong>{word}</strong> {why}</p>"
            lines.append(f'<details class="quiz">{inside}</details>')
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def answer_quiz(notebook: int, letters: str) -> None:
    """Print a sentence for each answer, and remember the answers.

    Args:
        notebook: its number.
        letters: one for each question, such as "bacab"; a question mark leaves a question out.
    """
    words, asked = texts("common")["quiz"], questions(notebook)
    example = (LETTERS[:3] * 2)[: len(asked)]
    given = re.sub(r"[\s,.;]", "", str(letters)).lower()
    if not given:
        print(words["how"].format(n=len(asked), example=example))
        return
    if len(given) != len(asked):
        print(words["length"].format(found=len(given), n=len(asked), example=example))
        return
    right = 0
    for number, (letter, question) in enumerate(zip(given, asked, strict=True), 1):
        known = LETTERS[: len(question["choices"])]
        if letter == LEFT_OUT:
            print(words["left_out"].format(number=number))
        elif letter not in known:
            print(words["letter"].format(number=number, letter=letter, letters=", ".join(known)))
        else:
            choice = question["choices"][known.index(letter)]
            good = bool(choice.get("right"))
            right += good
            word = words["right" if good else "wrong"]
            print(words["answer"].format(number=number, letter=letter, word=word, why=choice["why"]))
    print(words["sum"].format(right=right, n=len(asked)))
    progress.remember_quiz(notebook, given, right)
