"""Notebooks that learners returned: read from a folder and from zips, and the cells that answer the exercises."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mil_tutorial.commands import slicing
from mil_tutorial.commands.course import notebook_folder
from mil_tutorial.errors import DataError
from mil_tutorial.exercises.checks import Exercise, exercises_of
from mil_tutorial.exercises.words import NOTEBOOKS, texts

LARGEST = 256 << 20  # bytes of one notebook; pictures and printed lines are in it
TITLE = re.compile(r"^#\s*(\d)\s*·", re.MULTILINE)


@dataclass(frozen=True)
class Task:
    """What is run for one exercise.

    Attributes:
        key: of the exercise, such as "1.patch_width".
        context: code of the course's own notebook that the answer needs, and of other cells of the learner.
        answer: the learner's cell, "" if there is none.
        verdict: what there is to say without running anything, or "".
    """

    key: str
    context: str = ""
    answer: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Returned:
    """One returned notebook.

    Attributes:
        learner: whose it is: the folder or the rest of the file's name.
        file: where it came from.
        notebook: its number; 0 if it is none of the course.
        tasks: one for each exercise.
        problem: why it cannot be graded, or "".
    """

    learner: str
    file: str
    notebook: int = 0
    tasks: Sequence[Task] = ()
    problem: str = ""


@dataclass
class Cells:
    """The code cells of a notebook: source and tags, and the text of its first Markdown cells."""

    code: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    title: int = 0


def read_cells(content: bytes) -> Cells:
    """The cells of a notebook file.

    Raises:
        DataError: it is no notebook of format 4.
    """
    try:
        found = json.loads(content.decode("utf-8-sig"))
        cells = Cells()
        for cell in found["cells"]:
            source = cell.get("source", "")
            source = source if isinstance(source, str) else "".join(source)
            if cell["cell_type"] == "code":
                tags = cell.get("metadata", {}).get("tags", [])
                cells.code.append((source, frozenset(t for t in tags if isinstance(t, str))))
            elif not cells.title and (title := TITLE.search(source)):
                cells.title = int(title[1])
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"it is no notebook of format 4 ({type(error).__name__}: {error!s:.60})") from error
    return cells


@dataclass(frozen=True)
class Found:
    """A file that may be a notebook: where it is, whose it is, and its bytes or why there are none."""

    name: str
    learner: str
    content: bytes | DataError


def find_returned(folder: Path) -> Iterator[Found]:
    """Every notebook in a folder and in its zips, or in one zip.

    Nothing is unpacked to disk, so a name in a zip that points elsewhere goes nowhere.

    Raises:
        DataError: no such folder or zip.
    """
    if folder.is_file() and folder.suffix.lower() == ".zip":
        yield from _in_zip(folder, folder.name)
        return
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder or zip. Name the folder with the returned notebooks.")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith((".", "__MACOSX")) for part in name.parts) or not path.is_file():
            continue
        if path.suffix.lower() == ".zip":
            yield from _in_zip(path, name.as_posix())
        elif path.suffix == ".ipynb":
            yield Found(name.as_posix(), learner_of(name.as_posix()), _read(path))


def _read(path: Path) -> bytes | DataError:
    try:
        if path.stat().st_size > LARGEST:
            return DataError(f"it has more than {LARGEST >> 20} MB")
        return path.read_bytes()
    except OSError as error:
        return DataError(f"it cannot be read ({error.strerror})")


def _in_zip(path: Path, name: str) -> Iterator[Found]:
    """The notebooks of a zip: of one learner, whose name is the zip's, or of several, in folders or by their names."""
    owner = PurePosixPath(name).parts[0] if "/" in name else PurePosixPath(name).stem
    try:
        with zipfile.ZipFile(path) as archive:
            members = []
            for member in sorted(archive.infolist(), key=lambda m: m.filename):
                parts = [
                    p for p in PurePosixPath(member.filename.replace("\\", "/")).parts if p not in ("..", "/", ".")
                ]
                if member.filename.endswith(".ipynb") and not any(p.startswith((".", "__MACOSX")) for p in parts):
                    members.append((parts, member))
            several = len({parts[0] for parts, _ in members if len(parts) > 1}) > 1
            for parts, member in members:
                inside = "/".join(parts if several else parts[-1:])
                learner = learner_of(inside)
                known = several or learner != PurePosixPath(inside).stem  # else it says which notebook, not whose
                yield Found(f"{name}: {'/'.join(parts)}", learner if known else owner, _unpacked(archive, member))
    except (zipfile.BadZipFile, OSError) as error:
        yield Found(name, owner, DataError(f"the zip cannot be read ({error!s:.80})"))


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | DataError:
    try:
        with archive.open(member) as file:
            content = file.read(LARGEST + 1)  # what the zip says of the size may be a lie
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        return DataError(f"it cannot be read from the zip ({error!s:.80})")
    return DataError(f"it has more than {LARGEST >> 20} MB") if len(content) > LARGEST else content


def learner_of(name: str) -> str:
    """Whose notebook it is: the first folder, else what the file's name has beside the notebook's own.

    >>> learner_of("Ada/01-data-and-patch-labels.ipynb"), learner_of("01-data-and-patch-labels_ada.ipynb")
    ('Ada', 'ada')
    """
    path = PurePosixPath(name)
    if len(path.parts) > 1:
        return path.parts[0]
    rest = path.stem
    for stem in sorted((p.stem for p in notebook_folder().glob("*.ipynb")), key=len, reverse=True):
        rest = rest.replace(stem, "", 1)
    return rest.strip(" -_.") or path.stem


class Original:
    """The course's own notebook: its exercises, and the statements before each of them."""

    def __init__(self, notebook: int):
        (path,) = notebook_folder().glob(f"{notebook:02d}-*.ipynb")
        self.notebook, self.exercises = notebook, exercises_of(notebook)
        self.before: dict[str, list[slicing.Statement]] = {}
        self.solutions: dict[str, str] = {}
        so_far: list[slicing.Statement] = []
        for source, tags in read_cells(path.read_bytes()).code:
            defined = slicing.defined_in(source)
            for exercise in self.exercises:
                if "exercise" in tags and set(exercise.writes) <= defined:
                    self.before[exercise.key] = list(so_far)
                if "solution" in tags and set(exercise.writes) <= defined:
                    kept, _ = slicing.needed_for(exercise.writes, slicing.statements(source))  # no check, no figure
                    self.solutions[exercise.key] = "\n".join(s.text for s in kept)
            if not tags & {"exercise", "check", "solution"}:
                so_far += slicing.statements(source)

    def tasks(self, cells: Cells) -> list[Task]:
        """What to run for each exercise; of a notebook without a number, such as the hour, for those that it has."""
        answers = [(e, _answer(e, self.exercises, cells)) for e in self.exercises]
        return [self.task(e, text, cells) for e, text in answers if text is not None or cells.title]

    def task(self, exercise: Exercise, answer: str | None, cells: Cells) -> Task:
        """What to run for one exercise and one answer."""
        if answer is None:
            names = ", ".join(exercise.writes)
            return Task(exercise.key, verdict=texts("common")["grade"]["missing"].format(names=names))
        try:
            own = slicing.statements(answer)
        except (SyntaxError, ValueError, RecursionError) as error:
            what, line = getattr(error, "msg", str(error)), getattr(error, "lineno", None)
            said = texts("common")["grade"]["syntax"].format(what=what, line=line)
            return Task(exercise.key, answer=answer, verdict=said)
        needed = slicing.missing(own) | (set(exercise.takes) - set(exercise.writes))
        context, unknown = slicing.needed_for(needed, self.before.get(exercise.key, []))
        helpers: list[slicing.Statement] = []
        if unknown:  # the learner's own helpers, in other cells
            others = [s for text, tags in cells.code if text != answer and not tags & {"check"} for s in _safe(text)]
            helpers, asked = slicing.needed_for(unknown, others)
            more, _ = slicing.needed_for(asked, self.before.get(exercise.key, []))
            context = more + [s for s in context if s not in more]
        code = "\n".join(s.text for s in [*context, *helpers])
        return Task(exercise.key, code, slicing.without_magics(answer))


def _safe(source: str) -> list[slicing.Statement]:
    try:
        return slicing.statements(source)
    except (SyntaxError, ValueError, RecursionError):
        return []


def _answer(exercise: Exercise, exercises: Sequence[Exercise], cells: Cells) -> str | None:
    """The learner's cell: the one tagged as exercise, else the last other one that defines its names.

    A tagged cell that is no Python is the exercise's whose place it has.
    """
    tagged = [text for text, tags in cells.code if "exercise" in tags]
    names = set(exercise.writes)
    found = [text for text in tagged if names <= slicing.defined_in(text)]
    if not found and len(tagged) == len(exercises) and not slicing.defined_in(tagged[exercises.index(exercise)]):
        text = tagged[exercises.index(exercise)]
        found = [text] if any(re.search(rf"\b{n}\b", text) for n in names) else []
    if not found:
        # Where no cell is an exercise, as in the workshop's solution notebooks, a solution is what there is to grade.
        passed_over = {"exercise", "check", "solution"} if tagged else {"check"}
        others = [t for t, tags in cells.code if not tags & passed_over]
        found = [t for t in others if names <= slicing.defined_in(t)]
        found = found or [t for t in others if any(re.search(rf"^\s*def {n}\b", t, re.MULTILINE) for n in names)]
    return found[-1] if found else None


def which_notebook(cells: Cells, name: str) -> int:
    """The number of the notebook: from its title, else from the exercises in it, else from its name; 0 if unknown."""
    if cells.title in NOTEBOOKS:
        return cells.title
    defined = frozenset().union(*(slicing.defined_in(text) for text, _ in cells.code), frozenset())
    counts = {n: sum(set(e.writes) <= defined for e in exercises_of(n)) for n in NOTEBOOKS}
    best = max(counts, key=lambda n: counts[n])
    if counts[best]:
        return best
    number = re.search(r"(?:^|/|\D)0(\d)-", name)
    return int(number[1]) if number and int(number[1]) in NOTEBOOKS else 0


def read_returned(folder: str | os.PathLike[str]) -> list[Returned]:
    """All returned notebooks, with what to run for each.

    Args:
        folder: a folder of notebooks and zips, or one zip.

    Raises:
        DataError: it is not there, or holds no notebook.
    """
    originals: dict[int, Original] = {}
    found = []
    for file in find_returned(Path(folder)):
        try:
            if isinstance(file.content, DataError):
                raise file.content
            cells = read_cells(file.content)
            number = which_notebook(cells, file.name)
            if not number:
                raise DataError("it is none of the course's notebooks")
            if number not in originals:
                originals[number] = Original(number)
            found.append(Returned(file.learner, file.name, number, originals[number].tasks(cells)))
        except DataError as error:
            problem = texts("common")["grade"]["not_a_notebook"].format(problem=error)
            found.append(Returned(file.learner, file.name, problem=problem))
    if not found:
        raise DataError(f"{folder}: found no notebook (.ipynb), neither in the folder nor in a zip. Check the folder.")
    return found
