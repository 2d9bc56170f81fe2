"""Count what the house rules ask for, and draw the rooms of the package from its imports. `make house` does both.

python tools/house.py                               lines, longest module and function, upward imports, circles, …
python tools/house.py --draw site/_static/rooms.svg
python tools/house.py --package PATH                another package, such as an older checkout's
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from source import Function, Module

ROOT = Path(__file__).resolve().parent.parent
# The rooms from the ground up: each imports only from those before it. A new module at the top needs a place here.
GROUND = [
    "errors",
    "files",
    "remote",
    "geometry",
    "style",
    "sliders",
    "devices",
    "process",
    "tables",
    "chunks",
    "hdf5",
    "trident",
]
STEPS = ["slides", "bags", "models", "training", "evaluation", "localization"]
ROOMS = [*GROUND, *STEPS, "asking", "sources", "fixture", "data", "exercises", "commands", "__main__"]


class House:
    """A package with its modules and what they import from each other.

    Args:
        package: its folder.
    """

    def __init__(self, package: Path = ROOT / "mil_tutorial") -> None:
        self.package = package
        self.modules: dict[str, Module] = {}
        self._imports: dict[str, dict[str, int]] = {}  # by module, once asked for
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.modules[name] = Module(name, path)
        stub = package / "__init__.pyi"
        self.public: dict[str, str] = {}  # public name -> module
        for node in ast.parse(stub.read_text(encoding="utf-8")).body if stub.exists() else ():
            if isinstance(node, ast.ImportFrom):
                self.public.update({a.asname or a.name: node.module or "" for a in node.names})

    def targets(self, node: ast.AST, inside: Module | None = None) -> list[str]:
        """Modules of the package that one import statement names, wherever it stands."""
        package = self.package.name
        if isinstance(node, ast.Import):
            return [a.name.partition(".")[2] for a in node.names if a.name.split(".")[0] == package]
        if not isinstance(node, ast.ImportFrom):
            return []
        if node.level:
            if inside is None:
                return []
            parts = inside.path.relative_to(self.package).parent.parts
            base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
        elif (node.module or "").split(".")[0] == package:
            base = (node.module or "").partition(".")[2]
        else:
            return []
        return [self._home(base, alias.name) for alias in node.names]

    def _home(self, base: str, name: str) -> str:
        """What `from base import name` reaches: a module of that name, else the home of a public name, else `base`."""
        module = f"{base}.{name}".lstrip(".")
        return module if module in self.modules else self.public.get(name, "") if base == "" else base

    def imports(self, module: Module) -> dict[str, int]:
        """Modules of the package that a module imports, also inside functions, and the line of each."""
        if module.name not in self._imports:
            found = self._imports[module.name] = dict[str, int]()
            for node in ast.walk(module.tree):
                for target in self.targets(node, module):
                    if target != module.name:
                        found.setdefault(target, getattr(node, "lineno", 0))
        return self._imports[module.name]

    def arrows(self) -> set[tuple[str, str]]:
        """Pairs of rooms: the first imports from the second."""
        pairs = {(m.room, target.split(".")[0]) for m in self.modules.values() for target in self.imports(m)}
        return {(a, b) for a, b in pairs if a != b and a and b}

    def unknown(self) -> list[str]:
        """Modules in no room that ROOMS knows."""
        return [m.name for m in self.modules.values() if m.room and m.room not in ROOMS]

    def upward(self) -> list[str]:
        """Imports from a room that stands above, in words."""
        found = []
        for m in self.modules.values():
            for target, line in self.imports(m).items():
                here, there = m.room, target.split(".")[0]
                if here in ROOMS and there in ROOMS and ROOMS.index(there) > ROOMS.index(here):
                    found.append(f"{m.name}, line {line}: imports {target}")
        return found

    def circles(self) -> list[list[str]]:
        """Groups of modules that import each other, directly or by way of others."""
        ahead = {name: self.reached([name], itself=False) for name in self.modules}
        groups = {tuple(sorted(other for other in seen if name in ahead[other])) for name, seen in ahead.items()}
        return [list(group) for group in sorted(groups) if len(group) > 1]

    def reached(self, names: Sequence[str], itself: bool = True) -> set[str]:
        """Modules that are imported by these, by those that they import, and so on."""
        seen: set[str] = set(names) if itself else set()
        queue = [name for name in names if name in self.modules]
        while queue:
            for target in self.imports(self.modules[queue.pop()]):
                if target in self.modules and target not in seen:
                    seen.add(target)
                    queue.append(target)
        return seen

    def of_notebooks(self, scripts: Path, pattern: str = "*.py") -> set[str]:
        """Modules that the notebooks import by name."""
        trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(scripts.glob(pattern))]
        return {target for tree in trees for node in ast.walk(tree) for target in self.targets(node) if target}

    def of_lessons(self, scripts: Path) -> set[str]:
        """Modules that the six lessons import by name, without those that check exercises and that draw slides."""
        return {n for n in self.of_notebooks(scripts, "0*.py") if n.split(".")[0] not in ("exercises", "fixture")}

    def size(self, names: Sequence[str]) -> tuple[int, int]:
        """Lines and code lines of modules together."""
        return sum(self.modules[n].lines for n in names), sum(self.modules[n].code for n in names)

    def rooms(self) -> dict[str, list[str]]:
        """The rooms in their order, each with its modules; those that ROOMS does not know come last."""
        found: dict[str, list[str]] = {}
        for name, module in self.modules.items():
            found.setdefault(module.room, []).append(name)
        return dict(sorted(found.items(), key=lambda item: ROOMS.index(item[0]) if item[0] in ROOMS else len(ROOMS)))

    def functions(self) -> list[Function]:
        """All functions and methods of the package."""
        return [f for m in self.modules.values() for f in m.functions()]


def type_errors(package: Path) -> str:
    """What the type checker says in its last line."""
    if find_spec("mypy") is None:
        return "mypy is not installed"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", package.name], cwd=package.parent, capture_output=True, text=True, check=False
    )
    return (done.stdout.strip() or done.stderr.strip()).splitlines()[-1]


def skips(house: House) -> list[str]:
    """Places where the formatter is told to keep off."""
    marked = re.compile(r"#\s*fmt: (skip|off)")
    return [
        f"{m.name}:{n}"
        for m in house.modules.values()
        for n, t in enumerate(m.text.splitlines(), 1)
        if marked.search(t)
    ]


def is_table(function: Function) -> bool:
    """The options of a command: a list, whatever its length."""
    return function.module.room == "commands" and function.name == "options"


def of_notebooks(house: House) -> Iterator[str]:
    """What the notebooks import, where there are any beside the package."""
    scripts = house.package.parent / "notebooks" / "scripts"
    named = house.of_notebooks(scripts) & set(house.modules)
    if named:
        homes = {name.split(".")[0] for name in named}
        yield f"the notebooks import from: {', '.join(r for r in house.rooms() if r in homes)}"
        reached = {
            n for n in house.reached(sorted(named)) if n in house.modules and n.split(".")[0] not in ("", "fixture")
        }
        for what, names in (
            ("modules that the six lessons name, without checks of exercises and fixture", house.of_lessons(scripts)),
            ("modules that all notebooks name", named),
            ("with what these import, without the fixture", reached),
        ):
            lines, code = house.size(sorted(names))
            yield f"  {what}: {len(names)}, {lines} lines, {code} of code"


def report(house: House, types: bool = True) -> str:
    """All counts, in plain text."""
    modules, functions = list(house.modules.values()), [f for f in house.functions() if not is_table(f)]
    public = [f for f in functions if f.public]
    longest, long = max(modules, key=lambda m: m.lines), max(functions, key=lambda f: f.lines)
    wide = max(public, key=lambda f: f.parameters)
    too_long, too_wide = sum(f.lines > 60 for f in functions), sum(f.parameters > 12 for f in public)
    lines = [f"{'room':<14}{'modules':>8}{'lines':>8}{'code':>8}"]
    for room, names in house.rooms().items():
        all_lines, code = house.size(names)
        lines.append(f"{room or '__init__':<14}{len(names):>8}{all_lines:>8}{code:>8}")
    all_lines, code = house.size(list(house.modules))
    lines += [f"{'all':<14}{len(house.modules):>8}{all_lines:>8}{code:>8}", ""]
    upward, circles, unknown, skipped = house.upward(), house.circles(), house.unknown(), skips(house)
    lines += [
        f"longest module: {longest.name}, {longest.lines} lines; over 300: {sum(m.lines > 300 for m in modules)}",
        f"longest function: {long}, {long.lines} lines without its docstring; over 60: {too_long}",
        f"widest public function: {wide}, {wide.parameters} parameters; over 12: {too_wide}",
        f"modules in no known room: {len(unknown)}",
        f"upward imports: {len(upward)}" + "".join(f"\n  {u}" for u in upward),
        f"circles: {len(circles)}" + "".join(f"\n  {', '.join(c)}" for c in circles),
        f"arrows between rooms: {len(house.arrows())}",
        f"fmt: skip: {len(skipped)}",
    ]
    lines += [*of_notebooks(house)]
    if types:
        lines.append(f"types: {type_errors(house.package)}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the counts, or draw the rooms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=ROOT / "mil_tutorial", help="folder of the package")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw the rooms as an SVG into this file")
    parser.add_argument("--no-types", action="store_true", help="leave the type checker out")
    args = parser.parse_args(argv)
    house = House(args.package.resolve())
    if args.draw:
        from rooms import draw

        args.draw.write_text(draw(house, GROUND, STEPS), encoding="utf-8")
        print(f"{args.draw}: drawn")
        return 0
    print(report(house, not args.no_types))
    return int(bool(house.unknown() or house.upward() or house.circles()))


if __name__ == "__main__":
    sys.exit(main())
