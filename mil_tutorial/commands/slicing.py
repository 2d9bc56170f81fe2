"""Which statements of a notebook a piece of code needs: found without running anything."""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__"}
PLAIN = (ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Statement:
    """One statement at the top of a cell.

    Attributes:
        text: its code.
        defines: names that it gives a value, or changes.
        uses: names that it must find.
        whole: it gives its names their values whatever came before.
    """

    text: str
    defines: frozenset[str]
    uses: frozenset[str]
    whole: bool


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
        changed = set()
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            root = target
            while isinstance(root, (ast.Attribute, ast.Subscript)):
                root = root.value
            if root is not target and isinstance(root, ast.Name):
                changed.add(root.id)  # table["x"] = 1 changes the table
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            uses -= defines  # a function may call itself
        whole = isinstance(node, PLAIN) and not changed
        found.append(Statement(text, frozenset(defines | changed), frozenset(uses - BUILTINS | changed), whole))
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
    while True:  # again with what was missing: a function may use one that is defined after it
        wanted, kept = set(asked), []
        for statement in reversed(before):
            hit = statement.defines & wanted
            if not hit:
                continue
            kept.append(statement)
            if statement.whole:
                wanted -= hit
            wanted |= statement.uses
        unknown = frozenset(wanted).difference(*(s.defines for s in kept))
        if unknown == last or not unknown:
            return kept[::-1], unknown
        asked, last = asked | unknown, unknown
