"""The rules of the house (CONTRIBUTING.md), read from the folders and sources: a module that breaks one is named."""

import ast
import inspect
import re
import subprocess
import sys

import house as plan
import pytest
from rooms import draw
from source import FUNCTIONS

import mil_tutorial

# What may break a rule, and why. An exception that is not needed any more must go.
WIDE = {"bags.dataset.TridentWSIDataset.__init__": "takes torchmil's call as it is"}
BY_POSITION = {"TridentWSIDataset": "takes torchmil's call as it is"}
SETS_THREADS = {
    "devices": "sets them back",
    "commands.processes": "a worker process owns itself",
}
SETS_ENVIRONMENT = {"commands.main": "the process of the command"}
SETS_ALLOCATOR = {"process": "only commands call it"}
LOADS_BY_NAME = {
    "commands.main": "a command is loaded when it is named",
    "exercises.checks": "a module for each notebook",
}


@pytest.fixture(scope="module")
def house():
    return plan.House()


def fake(folder, modules):
    """A package of these modules, text by file name, under the house's own plan of rooms."""
    package = folder / "mil_tutorial"
    for name, text in {"__init__.py": "", **modules}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return plan.House(package)


# The rooms


def test_every_module_is_in_a_known_room(house):
    assert house.unknown() == [], "give it a place in ROOMS in tools/house.py, or put it into a room's folder"
    assert [r for r in plan.ROOMS if r not in house.rooms()] == [], "ROOMS names a room that is gone"


@pytest.mark.slow
def test_rooms_import_only_from_rooms_below(house):
    assert house.upward() == []


@pytest.mark.slow
def test_no_circles(house):
    assert house.circles() == []


def test_the_package_itself_imports_nothing_of_its_own(house):
    assert house.imports(house.modules[""]) == {}


@pytest.mark.parametrize(
    "text",
    [
        "from mil_tutorial.slides import reading",
        "from mil_tutorial.slides.reading import open_slide",
        "import mil_tutorial.slides.reading",
        "import os, mil_tutorial.slides.reading as r",
        "def f():\n    from mil_tutorial.slides.reading import open_slide",
        "from .slides.reading import open_slide",
        "from . import slides",
        "if True:\n    class A:\n        from .slides import reading",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mil_tutorial.slides.reading import Slide",
    ],
)
def test_an_upward_import_is_seen_wherever_it_stands(tmp_path, text):
    assert len(fake(tmp_path, {"geometry.py": text, "slides/__init__.py": "", "slides/reading.py": ""}).upward()) == 1


def test_an_upward_import_by_way_of_the_package_is_seen(tmp_path):
    house = fake(tmp_path, {"geometry.py": "from mil_tutorial import open_slide", "slides/reading.py": ""})
    house.public["open_slide"] = "slides.reading"
    assert len(house.upward()) == 1


def test_a_circle_within_a_room_is_seen(tmp_path):
    texts = {
        "a": "from .b import x",
        "b": "def f():\n    from mil_tutorial.slides import c",
        "c": "from ..slides.a import y",
        "d": "from . import a",
    }
    house = fake(tmp_path, {f"slides/{name}.py": text for name, text in texts.items()})
    assert house.circles() == [["slides.a", "slides.b", "slides.c"]] and house.upward() == []


def test_a_module_without_a_room_is_seen(tmp_path):
    assert fake(tmp_path, {"helpers.py": "", "attic/box.py": "", "slides/x.py": ""}).unknown() == [
        "attic.box",
        "helpers",
    ]


def test_modules_are_imported_by_statements(house):
    """An import by a name in a string would be invisible to all of the above."""
    named = {m.name for m in house.modules.values() if re.search(r"\b(import_module|__import__)\(", m.text)}
    assert named == set(LOADS_BY_NAME)


@pytest.mark.slow
def test_the_image_of_the_rooms_is_drawn_from_todays_imports(house, repo):
    """Rooms and arrows as they are now; the numbers of lines may be a little old."""
    number = re.compile(r"(\d[\d ]*)(?= lines)")
    drawn = (repo / "site" / "_static" / "rooms.svg").read_text(encoding="utf-8")
    today = draw(house, plan.GROUND, plan.STEPS)
    assert number.sub("N", drawn) == number.sub("N", today), "run `make house`"
    for before, now in zip(number.findall(drawn), number.findall(today), strict=True):
        before, now = (int(text.replace(" ", "")) for text in (before, now))
        assert abs(before - now) <= 0.2 * max(before, now) + 10, f"{before} lines are {now} now: run `make house`"


def test_tests_have_the_rooms_names(house, repo):
    rooms = {p.parent.name for p in house.package.glob("*/__init__.py")} - {"sources"}
    assert rooms <= {p.name for p in (repo / "tests").iterdir() if p.is_dir()}
    names = [p.name for p in (repo / "tests").rglob("test_*.py")]
    assert len(set(names)) == len(names), "two test files have the same name"


# Sizes


def test_what_the_lessons_import_by_name_is_small(house, repo):
    names = house.of_lessons(repo / "notebooks" / "scripts")
    assert {"models", "bags.dataset", "training.fit"} <= names <= set(house.modules)
    assert house.size(sorted(names))[1] <= 3000  # lines of code


def test_no_module_is_longer_than_300_lines(house):
    assert {m.name: m.lines for m in house.modules.values() if m.lines > 300} == {}


@pytest.mark.slow
def test_no_function_is_longer_than_60_lines(house):
    """Without its docstring; the options of a command are a list."""
    assert {str(f): f.lines for f in house.functions() if f.lines > 60 and not plan.is_table(f)} == {}


def test_no_public_function_has_more_than_12_parameters(house):
    assert {str(f) for f in house.functions() if f.public and f.parameters > 12} == set(WIDE)


def test_options_are_named_in_calls():
    """A public function takes at most four options by position."""
    many = {}
    errors = {"DataError", "ParameterError"}  # as exceptions take them
    for name in set(mil_tutorial.__all__) - errors:
        parameters = inspect.signature(getattr(mil_tutorial, name)).parameters.values()
        by_position = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        options = [p.name for p in parameters if p.name in by_position and p.default is not p.empty]
        if len(options) > 4:
            many[name] = options
    assert set(many) == set(BY_POSITION), many


def test_the_formatter_is_told_to_keep_off_only_for_tables_of_numbers(house):
    skips = plan.skips(house)
    assert len(skips) <= 3
    for place in skips:
        name, line = place.split(":")
        module = house.modules[name]
        inside = [n for n in ast.walk(module.tree) if getattr(n, "end_lineno", 0) == int(line)]
        numbers = [
            n for s in inside for n in ast.walk(s) if isinstance(n, ast.Constant) and type(n.value) in (int, float)
        ]
        assert len(set(map(id, numbers))) >= 8, f"{place}: not a table of numbers"


# Manners


def calls(module):
    """Dotted names of what a module calls."""
    return [ast.unparse(n.func) for n in ast.walk(module.tree) if isinstance(n, ast.Call)]


def changes_environment(module):
    """Whether a module assigns to `os.environ` or changes it by a method."""
    changed = re.compile(r"(os\.)?environ\.(setdefault|update|pop|clear|popitem|__\w+__)$|(os\.)?(putenv|unsetenv)$")
    targets = [
        t
        for n in ast.walk(module.tree)
        if isinstance(n, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete))
        for t in (n.targets if isinstance(n, (ast.Assign, ast.Delete)) else [n.target])
    ]
    assigned = any(re.match(r"(os\.)?environ\b", ast.unparse(t)) for t in targets)
    return assigned or any(changed.match(name) for name in calls(module))


@pytest.mark.slow
def test_only_the_command_changes_the_process(house):
    modules = house.modules.values()
    assert {m.name for m in modules if re.search(r"\bset_num_(interop_)?threads\b", m.text)} == set(SETS_THREADS)
    assert {m.name for m in modules if changes_environment(m)} == set(SETS_ENVIRONMENT)
    assert {m.name for m in modules if "mallopt(" in m.text} == set(SETS_ALLOCATOR)
    backend = [m.name for m in modules if re.search(r"\bmatplotlib\.use\(|\bswitch_backend\(", m.text)]
    assert backend == []
    callers = {m.name for m in modules if any(c.endswith("keep_freed_memory") for c in calls(m))}
    assert {name for name in callers if not name.startswith("commands.")} == set()


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.environ['A'] = 'b'",
        "from os import environ\nenviron |= {}",
        "import os\nos.environ.setdefault('A', 'b')",
        "import os\ndef f():\n    del os.environ['A']",
        "import os\nos.putenv('A', 'b')",
    ],
)
def test_a_change_of_the_environment_is_seen(tmp_path, text):
    house = fake(tmp_path, {"files.py": text, "errors.py": "import os\nx = os.environ.get('A') or dict(os.environ)"})
    assert [m.name for m in house.modules.values() if changes_environment(m)] == ["files"]


@pytest.mark.slow
def test_loading_every_room_leaves_the_process_as_it_is(house):
    names = [f"mil_tutorial.{m}" for m in house.modules if m and m not in ("__main__", "commands.main")]
    code = f"""
import importlib, os, threading
import cv2, matplotlib, sklearn, tensordict, torch  # they set variables of their own
def state():
    threads = [torch.get_num_threads(), torch.get_num_interop_threads(), cv2.getNumThreads(), threading.active_count()]
    return {{**os.environ, **matplotlib.rcParams, "threads": threads}}
before = state()
for name in {names!r}:
    importlib.import_module(name)
after = state()
changed = {{key: (before.get(key), after[key]) for key in after if before.get(key) != after[key]}}
assert before.keys() == after.keys() and not changed, changed
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_importing_the_package_loads_nothing_heavy_and_changes_nothing():
    code = """
import os, sys, threading
before = dict(os.environ)
import mil_tutorial
assert dict(os.environ) == before and threading.active_count() == 1
heavy = {"numpy", "torch", "cv2", "pandas", "scipy", "sklearn", "matplotlib", "h5py"} & set(sys.modules)
assert not heavy, heavy
assert dir(mil_tutorial) and not {"numpy", "torch"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_only_commands_name_flags(house):
    """The library names parameters; `pip install --...` and the colours of a style sheet are no flags of ours."""
    flag = re.compile(r"""(?<![^\s"'`(])(?<!var\()--[a-z][\w-]*(?![\w-]*:(?:#|light-dark))""")
    named = []
    for m in house.modules.values():
        if m.room not in ("commands", "__main__"):
            for node in ast.walk(m.tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and "pip install" not in node.value:
                    named += [f"{m.name}, line {node.lineno}: {f}" for f in flag.findall(node.value)]
    assert named == []


def test_modules_take_only_public_names_from_each_other(house):
    taken = []
    for m in house.modules.values():
        for node in ast.walk(m.tree):
            if isinstance(node, ast.ImportFrom) and any(house.targets(node, m)):
                taken += [f"{m.name}: {a.name}" for a in node.names if a.name.startswith("_")]
    assert taken == []


# Public names


def test_the_stub_says_what_is_there(house):
    assert sorted(mil_tutorial.__all__) == sorted(house.public)
    for name, module in house.public.items():
        assert name in {n for n in names_of(house.modules[module].tree)}, f"{module} has no {name}"
        assert getattr(mil_tutorial, name).__module__ == f"mil_tutorial.{module}", name
    assert set(dir(mil_tutorial)) >= set(house.public)


def names_of(tree):
    """Names that a module defines at its top."""
    for node in tree.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield ast.unparse(target)


def test_public_things_have_docstrings(house):
    """Modules, and classes and functions that other modules may use."""
    bare = [m.name for m in house.modules.values() if ast.get_docstring(m.tree) is None]
    for m in house.modules.values():
        nodes = [n for n in m.tree.body if isinstance(n, (*FUNCTIONS, ast.ClassDef)) and n.name[0] != "_"]
        bare += [f"{m.name}.{n.name}" for n in nodes if ast.get_docstring(n) is None]
    assert bare == []
    for name in mil_tutorial.__all__:
        assert (getattr(mil_tutorial, name).__doc__ or "").strip(), name


def test_the_package_says_that_it_is_typed(house):
    assert (house.package / "py.typed").exists() and (house.package / "__init__.pyi").exists()
