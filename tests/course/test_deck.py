"""The slides' own rules: letters that can be read, titles that are true, exercises on the slide."""

import re

import matplotlib.pyplot as plt
import pytest
from deck import exercises, look, page


@pytest.fixture(autouse=True)
def slides_look():
    with plt.rc_context():
        look.use_look()
        yield
    plt.close("all")


def test_small_cut_and_overlapping_letters_are_seen():
    figure, (axis,) = look.panels(1)
    axis.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    assert look.faults(figure) == []
    axis.text(0.2, 0.5, "one word")
    axis.text(0.22, 0.5, "another")
    axis.text(0.97, 0.8, "beyond the edge").set_in_layout(False)
    axis.text(0.5, 0.2, "small", fontsize=9)
    found = " / ".join(look.faults(figure))
    assert "lies on" in found and "'beyond the edge' is cut off" in found and "'small' is small" in found
    assert look.smallest_letters(figure) == pytest.approx(12.5)


def test_a_title_that_is_not_true_stops_the_build():
    assert look.claim(True, "so it is") == "so it is"
    with pytest.raises(look.ClaimFailed, match="Change the slide"):
        look.claim(False, "so it is not")


@pytest.mark.parametrize("name", sorted(p.stem for p in exercises.NOTEBOOKS.glob("0*.ipynb")))
def test_the_exercise_is_on_its_slide_and_the_solution_in_the_notes(name):
    slides = exercises.exercises(name)
    assert len(slides) >= 3
    for slide in slides:
        spoken = " ".join(slide.notes)
        assert slide.lines and slide.code and "Hint: " in spoken and len(spoken.split("Solution: ")[1]) > 10
        assert "$" not in "".join(slide.lines), "a formula that the slide cannot show"
    home = exercises.take_home(name)
    assert 3 <= len(home.lines) <= 5
    for slide in [*slides, home]:
        text = " ".join(slide.lines) + slide.title
        assert not re.search(r"<!--|\]\(|\||\$|https?:|instructor", text), f"not for the screen: {text}"
        assert sum(map(len, slide.lines)) < exercises.ROOM + 160, "more than a slide can hold"


def test_long_tasks_links_and_notes_are_made_fit_for_a_slide():
    source = "### Exercise 1 (★★): beat that\n\n<!-- instructor, 4 min: say it -->\n\nWrite `f(x)`, see [here](https://a.b).\n"
    assert exercises.task_of(source) == (
        "exercise 1 ★★ · beat that", "★★", ["Write `f(x)`, see [here](https://a.b)."],
    )  # fmt: skip
    assert exercises.task_of("**Exercise 2 (★).** Write `g`.") == ("exercise 2 ★", "★", ["Write `g`."])
    assert exercises.task_of("## Exercises") is None
    assert exercises.as_html("see [here](https://a.b), $-\\infty$") == "see here, −∞"
    stub = 'def f(x):\n    """Say it. f(1) is 2."""\n    # Write.'
    assert exercises.as_code(stub) == 'def f(x):\n    """Say it.\n    f(1) is 2."""\n    # Write.'
    assert exercises.as_code("x = None" + 70 * " " + "  # a word").splitlines()[1] == "# a word"


def test_a_deck_is_one_file_that_asks_for_nothing():
    figure = look.choices("yes", "no")
    text = page.deck([look.Slide("<b>", "x & y", figure, ("say this",), alt="two boxes")], "t")
    assert "&lt;b&gt;" in text and "x &amp; y" in text and 'alt="two boxes"' in text and "say this" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "") and 'src="data:image/webp;base64,' in text
