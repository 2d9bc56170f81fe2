"""A module's source: its lines, its lines of code, its functions. `tools/house.py` counts with it."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Function:
    """A function or method: its name with its module and class, its node, and its lines without the docstring."""

    module: Module
    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    method: bool

    @property
    def lines(self) -> int:
        """Lines from `def` to the end, without the docstring."""
        text = docstring(self.node)
        return height(self.node) - (height(text) if text else 0)

    @property
    def parameters(self) -> int:
        """How many there are; `self` and `cls` do not count."""
        a = self.node.args
        everything = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]
        return len([p for i, p in enumerate(everything) if not (self.method and i == 0 and p.arg in ("self", "cls"))])

    @property
    def public(self) -> bool:
        """No part of the name begins with an underscore, apart from `__init__`."""
        return not any(part.startswith("_") and part != "__init__" for part in self.name.split("."))

    def __str__(self) -> str:
        return f"{self.module.name}.{self.name}"


@dataclass(frozen=True)
class Module:
    """A module of the package: its dotted name without the package's ("slides.reading", "" for the package itself)."""

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        """Its source."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)

    @property
    def room(self) -> str:
        """The room that it is in, "" for the package itself."""
        return self.name.split(".")[0]

    @property
    def lines(self) -> int:
        """All lines."""
        return len(self.text.splitlines())

    @cached_property
    def code(self) -> int:
        """Lines that hold code: no blank ones, no comments, no docstrings."""
        held: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in NO_CODE:
                held.update(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(self.tree):
            if isinstance(node, DOCUMENTED) and (text := docstring(node)):
                held.difference_update(range(text.lineno, text.lineno + height(text)))
        return len(held)

    def functions(self) -> Iterator[Function]:
        """Every function and method; one inside a function belongs to that function."""
        stack: list[tuple[str, ast.AST]] = [("", self.tree)]
        while stack:
            prefix, parent = stack.pop()
            for node in ast.iter_child_nodes(parent):
                if isinstance(node, FUNCTIONS):
                    yield Function(self, f"{prefix}{node.name}", node, isinstance(parent, ast.ClassDef))
                elif isinstance(node, ast.ClassDef):
                    stack.append((f"{prefix}{node.name}.", node))
                elif not isinstance(node, ast.expr):
                    stack.append((prefix, node))


def height(node: ast.stmt) -> int:
    """How many lines a statement takes."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def docstring(node: ast.AST) -> ast.Expr | None:
    """The statement that is the docstring of a module, class or function."""
    body = getattr(node, "body", None)
    first = body[0] if isinstance(body, list) and body else None
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return first if is_text else None
