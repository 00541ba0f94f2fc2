"""Read the package's own source: its files, their imports, and what a rule says about them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "vlmbench"


@cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def python_files(*folders: str) -> list[Path]:
    """Return the Python files below folders of the repository, in order of their names.

    A folder that does not exist has no files.
    """
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    """Return a path relative to the repository, as an error message names it."""
    return path.relative_to(REPOSITORY).as_posix()


def location(path: Path, node: ast.AST) -> str:
    """Return "vlmbench/types.py:12" for a node of a file."""
    return f"{name_of(path)}:{getattr(node, 'lineno', 1)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One module that a file imports.

    `is_eager`: the import runs when the file is imported. `is_for_types`: only a type checker runs
    it.
    """

    module: str
    is_eager: bool
    is_for_types: bool


def module_name(path: Path) -> str:
    """Return "vlmbench.data" for vlmbench/data/__init__.py."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def module_names() -> dict[str, Path]:
    """Return the file of each module of the package."""
    return {module_name(path): path for path in python_files("vlmbench")}


def imports_of(path: Path) -> Iterator[Import]:
    """Yield each module that a file imports. `from a import b` is a.b if that is a module."""
    tree = parse(path)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    at_top = {id(node) for node in tree.body}

    for node in ast.walk(tree):
        for module in _modules(node):
            yield Import(
                module=module,
                is_eager=id(node) in at_top,
                is_for_types=id(node) in for_types,
            )


def _modules(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parent = node.module or ""
        for alias in node.names:
            full = f"{parent}.{alias.name}"
            is_module = full in module_names() or full == "vlmbench.__version__"
            yield full if is_module else parent
