"""Who may import whom: the architecture, checked."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "vlmbench"
# A unit may import units of lower levels and itself.
LEVELS = [
    {"types", "__version__"},
    {"plain"},
    {"config", "files", "interrupt"},
    {"data", "models", "metrics", "stats", "tracking", "rundir", "processes"},
    {"features", "backbones", "provenance"},
    {"train", "evaluate", "check", "report", "experiment", "dashboard", "energy"},
    {"cell", "pruning"},
    {"judge", "fit"},
    {"run", "reopen"},
    {"task"},
    {"__main__"},
]
LEVEL = {unit: level for level, units in enumerate(LEVELS) for unit in units}
PAIRS_ALLOWED = {("backbones", "features")}  # a backbone keeps its tokens in the store
TORCH_FREE = {
    "types",
    "config",
    "data",
    "metrics",
    "stats",
    "report",
    "rundir",
    "tracking",
    "files",
    "interrupt",
    "plain",
}
ONLY_IN = {
    "hydra": {"config/mistakes.py", "config/registry.py", "config/run.py", "reopen.py", "task.py", "__main__.py"},
    "unsloth": {"backbones/_unsloth.py"},
    "wandb": {"tracking.py"},
    "wandb_workspaces": {"dashboard.py"},
    "trl": {"train/trainer.py"},
    "optuna": {"pruning.py"},
    "datasets": {"data/sources/huggingface.py", "train/__init__.py"},
    "gradio": {"judge/page.py"},
}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Each imported module, and whether it is imported when the file is (not inside a function or for types only)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    at_top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "vlmbench":
                names = [f"vlmbench.{alias.name}" for alias in node.names]
            yield from ((name, id(node) in at_top) for name in names)


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_unit_imports_only_lower_units(path: Path) -> None:
    unit = unit_of(path)
    for module, _ in imports(path):
        if module.startswith("vlmbench."):
            other = module.split(".")[1]
            allowed = other == unit or LEVEL[other] < LEVEL[unit] or (unit, other) in PAIRS_ALLOWED
            assert allowed, f"{path.name} ({unit}) imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_some_packages_have_one_door(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    for module, _ in imports(path):
        doors = ONLY_IN.get(module.split(".")[0])
        assert doors is None or name in doors, f"{name} imports {module}"


@pytest.mark.parametrize("folder", ["data/sources", "data/variants", "data/views", "metrics"])
def test_plugins_never_import_plugins(folder: str) -> None:
    package = f"vlmbench.{folder.replace('/', '.')}."
    for path in (PACKAGE / folder).glob("[a-z]*.py"):
        for module, _ in imports(path):
            assert not module.startswith(package) or module.removeprefix(package).startswith("_"), path.name


@pytest.mark.parametrize("path", [path for path in FILES if unit_of(path) in TORCH_FREE], ids=str)
def test_torch_free_units_import_no_torch(path: Path) -> None:
    heavy = {"torch", "transformers", "trl", "peft", "accelerate"}
    for module, at_top in imports(path):
        assert module.split(".")[0] not in heavy, f"{path.name} imports {module}"
        assert module.split(".")[0] != "datasets" or not at_top, f"{path.name} imports {module} when it is imported"


def test_reading_the_configuration_imports_no_torch() -> None:
    code = (
        "import sys; from vlmbench.config import register_plugins; register_plugins(); import vlmbench.__main__; "
        "print([name for name in ('torch', 'transformers', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
