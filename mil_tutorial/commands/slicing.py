"""Which statements of a notebook a piece of code needs: found without running anything."""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__"}
# Methods that change their object, functions that change their arguments, and calls without which numbers differ.
CHANGING = frozenset({"append", "extend", "update", "add", "insert", "setdefault", "pop", "remove", "sort"})
MODES = frozenset({"load_state_dict", "eval", "train"})
CHANGING_FUNCTIONS, SEEDS = frozenset({"fit"}), ("torch.manual_seed(",)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
PLAIN = (ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Statement:
    """One statement at the top of a cell.

    Attributes:
        text: its code.
        defines: names that it gives a value, or changes.
        uses: names that it must find.
        whole: it gives its names their values whatever came before.
        calls: functions that it calls at its top.
        effects: of a function: names outside it that a call of it changes.
    """

    text: str
    defines: frozenset[str]
    uses: frozenset[str]
    whole: bool
    calls: frozenset[str] = frozenset()
    effects: frozenset[str] = frozenset()


def without_magics(source: str) -> str:
    """A cell's code as Python reads it: lines for IPython alone (`%matplotlib`, `!pip`, `name?`) become empty.

    >>> without_magics("%matplotlib inline\\nx = 1")
    '\\nx = 1'
    """
    if source.lstrip().startswith("%%"):
        return ""
    kept = []
    for line in source.splitlines():
        bare = line.strip()
        magic = bare.startswith(("%", "!")) or (bare.endswith("?") and "#" not in bare)
        kept.append(
            line[: len(line) - len(line.lstrip())] + "pass" if magic and line != bare else "" if magic else line
        )
    return "\n".join(kept)


def _names(code: str) -> tuple[set[str], set[str]]:
    """Names that code defines at its top, and names of the top that it uses, also inside its functions."""
    table = symtable.symtable(code, "<cell>", "exec")
    symbols = table.get_symbols()
    defines = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported() or s.is_namespace()}
    uses = {s.get_name() for s in symbols if s.is_referenced()}
    scopes = list(table.get_children())
    while scopes:
        scope = scopes.pop()
        uses |= {s.get_name() for s in scope.get_symbols() if s.is_global() and s.is_referenced()}
        scopes += scope.get_children()
    return defines, uses


def _root(node: ast.AST | None) -> str | None:
    """The name at the root of `table["x"].y`; None of a plain name, which is not changed but defined."""
    root = node
    while isinstance(root, (ast.Attribute, ast.Subscript)):
        root = root.value
    return root.id if root is not node and isinstance(root, ast.Name) else None


def _changes(node: ast.AST, top: bool = True) -> tuple[set[str], set[str]]:
    """Names whose values code changes without defining them, and functions that it calls; not inside functions."""
    changed, calls = set[str](), set[str]()
    if isinstance(node, SCOPES) and not top:
        return changed, calls
    targets = [*getattr(node, "targets", ()), getattr(node, "target", None)]
    changed |= {name for target in targets if (name := _root(target))}
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name):
            calls.add(node.func.id)
            if node.func.id in CHANGING_FUNCTIONS:
                changed |= {a.id for a in node.args if isinstance(a, ast.Name)}
        elif isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING | MODES and (name := _root(node.func)):
            changed.add(name)
    for child in ast.iter_child_nodes(node):
        more, called = _changes(child, top=False)
        changed, calls = changed | more, calls | called
    return changed, calls


def statements(source: str) -> list[Statement]:
    """The statements of a cell.

    Raises:
        SyntaxError: it is no Python. (ValueError, where it holds a null byte.)
    """
    code = without_magics(source)
    found = []
    for node in ast.parse(code).body:
        text = ast.unparse(node)
        defines, uses = _names(text)
        changed, calls = _changes(node)
        effects = frozenset[str]()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            effects, changed, calls = frozenset(changed & uses), set(), set()
            uses -= defines  # a function may call itself
        whole = isinstance(node, PLAIN) and not changed & uses
        changes = frozenset(defines | changed)
        found.append(Statement(text, changes, frozenset(uses - BUILTINS | changed), whole, frozenset(calls), effects))
    return found


def defined_in(source: str) -> frozenset[str]:
    """Names that a cell defines at its top; none where it is no Python."""
    try:
        return frozenset().union(*(s.defines for s in statements(source)))
    except (SyntaxError, ValueError, RecursionError):
        return frozenset()


def missing(code: Iterable[Statement]) -> frozenset[str]:
    """Names that must be there before these statements run."""
    needed: set[str] = set()
    there: set[str] = set()
    for statement in code:
        needed |= statement.uses - there
        there |= statement.defines
    return frozenset(needed)


def needed_for(names: Iterable[str], before: Sequence[Statement]) -> tuple[list[Statement], frozenset[str]]:
    """The statements that give these names their values, and what those need in turn.

    Returns:
        The statements, in their order, and the names that none of them defines.
    """
    asked, last = set(names) - BUILTINS, None
    effects = {name: s.effects for s in before for name in s.defines if s.effects}
    while True:  # again with what was missing: a function may use one that is defined after it
        wanted, kept = set(asked), list[Statement]()
        for statement in reversed(before):
            hit = statement.defines & wanted
            by_call = wanted.intersection(name for f in statement.calls for name in effects.get(f, ()))
            if not hit and not by_call and not ("torch" in wanted and statement.text.startswith(SEEDS)):
                continue
            kept.append(statement)
            if statement.whole and not by_call:
                wanted -= hit
            wanted |= statement.uses
        unknown = frozenset(wanted).difference(*(s.defines for s in kept))
        if unknown == last or not unknown:
            return kept[::-1], unknown
        asked, last = asked | unknown, unknown
