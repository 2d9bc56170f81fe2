"""Write the pages of the API into site/api/, one for each room of the package. `make site` calls it."""

from __future__ import annotations

import argparse
import ast
import os
import shutil
from collections.abc import Iterator

from house import GROUND, ROOT, STEPS, House

PAGES = ROOT / "site" / "api"
TITLES = {
    "data": "The data root",
    "slides": "1 · Slides",
    "bags": "2 · Bags",
    "models": "3 · Models",
    "training": "4 · Training",
    "evaluation": "5 · Evaluation",
    "localization": "6 · Localization",
    "exercises": "The exercises",
    "asking": "Ask one slide",
    "sources": "CAMELYON16 over the network",
    "fixture": "The synthetic slides",
}


def first_sentence(text: str | None) -> str:
    """A docstring's first paragraph on one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def docstring_of(house: House, name: str) -> str:
    """What a public name is, in the first sentence of its docstring."""
    module = house.modules[house.public[name]]
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return first_sentence(ast.get_docstring(node))
    return first_sentence(ast.get_docstring(module.tree))


def is_empty(house: House, name: str) -> bool:
    """Whether a module has nothing that a page could show: no public class or function with a docstring."""
    return not any(
        isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_") and ast.get_docstring(node)
        for node in house.modules[name].tree.body
    )


def autodoc(name: str, members: bool = True) -> str:
    """The directive that shows a module."""
    option = "   :members:\n" if members else ""
    return f"```{{eval-rst}}\n.. automodule:: mil_tutorial.{name}\n{option}```\n"


def page_of_room(house: House, room: str) -> str:
    """A page: what the room is for, then module by module."""
    names = house.rooms()[room]
    parts = [f"# {TITLES[room]}\n"]
    parts += [autodoc(room, members=names == [room])]
    parts += [f"## {n}\n\n{autodoc(n)}" for n in names if n != room and not is_empty(house, n)]
    return "\n".join(parts)


def link(house: House, name: str) -> str:
    """A link to a name's entry."""
    return f"{{py:obj}}`{name} <mil_tutorial.{house.public[name]}.{name}>`"


def page_of_ground(house: House) -> str:
    """What every room may import."""
    parts = ["# The ground\n\nWhat every room may import.\n"]
    for room in GROUND:
        parts += [f"## {n}\n\n{autodoc(n)}" for n in house.rooms().get(room, []) if not is_empty(house, n)]
    return "\n".join(parts)


def helps(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands of the program, each with the parser that knows its options."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def page_of_commands() -> str:
    """What each command says of itself."""
    from mil_tutorial.commands.main import build_parser

    os.environ["COLUMNS"] = "100"  # the width that argparse writes for

    parts = ["# The commands\n\nWhat `mil-tutorial COMMAND --help` prints; `python -m mil_tutorial` is the same.\n"]
    for name, parser in helps(build_parser()):
        parts.append(f"## mil-tutorial {name}\n\n```text\n{parser.format_help().rstrip()}\n```\n")
    return "\n".join(parts)


def table_of_names(house: House, rooms: list[str]) -> str:
    """The public names, room by room."""
    parts = []
    for room in (*rooms, *GROUND):
        public = sorted((n for n, home in house.public.items() if home.split(".")[0] == room), key=str.lower)
        if public:
            parts += [f"### {TITLES.get(room, room)}\n", "| name | what it is |\n|---|---|"]
            parts += [f"| {link(house, n)} | {docstring_of(house, n)} |" for n in public] + [""]
    return "\n".join(parts)


def main() -> None:
    """Write all pages, and what the first one includes: the public names and the list of pages."""
    house = House()
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir()
    rooms = [r for r in ("data", *STEPS, "asking", "exercises", "sources", "fixture") if r in house.rooms()]
    for room in rooms:
        (PAGES / f"{room}.md").write_text(page_of_room(house, room), encoding="utf-8")
    (PAGES / "ground.md").write_text(page_of_ground(house), encoding="utf-8")
    (PAGES / "commands.md").write_text(page_of_commands(), encoding="utf-8")
    pages = "\n".join(f"/api/{page}" for page in (*rooms, "commands", "ground"))
    index = f"{table_of_names(house, rooms)}\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"
    (PAGES / "index.txt").write_text(index, encoding="utf-8")


if __name__ == "__main__":
    main()
