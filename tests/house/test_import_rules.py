"""Who may import whom: the order of the rooms, and the doors to large packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.helpers.source import PACKAGE, Import, imports_of, module_names, name_of, python_files

# A room may import rooms of lower levels, and itself. The package root is two things: a constant
# that every room may read, and the Python API, which stands on the command line.
LEVELS = [
    {"__version__", "types"},
    {"system"},
    {"config"},
    {"metrics", "stats", "models", "data", "runs"},
    {"features", "tracking"},
    {"backbones"},
    {"baselines", "report", "train"},
    {"pipeline"},
    {"deploy"},
    {"cli"},
    {"__init__", "__main__", "torchrun"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
MAX_ROOMS, MAX_ARROWS = 20, 90

# Only these files and folders may import the package: one place to look when its version moves.
DOORS = {
    "hydra": {"cli/", "config/"},
    "unsloth": {"backbones/_unsloth.py"},
    "wandb": {"tracking/tracker.py"},
    "wandb_workspaces": {"tracking/workspace.py"},
    "trl": {"train/trainer.py", "train/sft_config.py"},
    "optuna": {"pipeline/prune.py"},
    "datasets": {"data/sources/huggingface.py", "train/datasets.py"},
    "gradio": {"deploy/page.py"},
}
TORCH_FREE = {"types", "config", "data", "metrics", "stats", "report", "tracking", "cli"}
LAZY_TORCH = {"system", "runs"}  # only inside functions
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate"}
PLUGINS = ("data/sources", "data/variants", "data/views", "metrics")

FILES = python_files("vlmbench")


def in_package(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    """Return the top folder of a file of the package, or its own name without a folder."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def room_of_module(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def own_imports(path: Path) -> list[Import]:
    """Return the imports of the package itself."""
    return [found for found in imports_of(path) if found.module.split(".")[0] == "vlmbench"]


def test_a_room_imports_only_lower_rooms() -> None:
    problems = []
    for path in FILES:
        room = room_of(path)
        if room not in LEVEL:
            problems.append(f"{name_of(path)}: new room; give {room} a level in LEVELS")
            continue

        for found in own_imports(path):
            other = room_of_module(found.module)
            if other != room and LEVEL.get(other, len(LEVELS)) >= LEVEL[room]:
                problems.append(
                    f"{name_of(path)} imports {found.module}, but {room} does not stand above "
                    f"{other}; move the shared part to a lower room"
                )
    assert not problems, "\n".join(problems)


def test_a_large_package_has_one_door() -> None:
    problems = []
    for path in FILES:
        name = in_package(path)
        for found in imports_of(path):
            package = found.module.split(".")[0]
            doors = DOORS.get(package, {name})
            if not any(name == door or name.startswith(door) for door in doors):
                problems.append(
                    f"{name_of(path)} imports {package}; only {', '.join(sorted(doors))} may: "
                    "call what is there"
                )
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("folder", PLUGINS)
def test_plugins_never_import_plugins(folder: str) -> None:
    package = f"vlmbench.{folder.replace('/', '.')}."
    problems = [
        f"{name_of(path)} imports {found.module}; move what both need into a file whose name "
        "starts with an underscore"
        for path in (PACKAGE / folder).glob("[a-z]*.py")
        for found in imports_of(path)
        if found.module.startswith(package) and found.module.removeprefix(package)[0] != "_"
    ]
    assert not problems, "\n".join(problems)


def test_reading_data_and_reports_needs_no_torch() -> None:
    problems = []
    for path in FILES:
        room = room_of(path)
        for found in imports_of(path):
            package = found.module.split(".")[0]
            if found.is_for_types or package not in HEAVY | {"datasets"}:
                continue

            if package in HEAVY and room in TORCH_FREE:
                problems.append(f"{name_of(path)} imports {package}; {room} must work without it")
            elif found.is_eager and room in TORCH_FREE | LAZY_TORCH:
                problems.append(
                    f"{name_of(path)} imports {package} at its top; import it inside the function"
                )
    assert not problems, "\n".join(problems)


def test_reading_the_configuration_imports_no_torch() -> None:
    code = (
        "import sys; from vlmbench.config import register_plugins; register_plugins(); "
        "import vlmbench.__main__; "
        "print([name for name in ('torch', 'transformers', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {
        module: {found.module for found in own_imports(path) if found.module in module_names()}
        for module, path in module_names().items()
    }
    circle = find_circle(graph)
    assert not circle, f"{' -> '.join(circle)}; move the shared part into a file of its own"


def test_there_are_few_rooms_and_few_arrows_between_them() -> None:
    rooms = {room_of(path) for path in FILES}
    arrows = {
        (room_of(path), room_of_module(found.module))
        for path in FILES
        for found in own_imports(path)
    }
    between = {(a, b) for a, b in arrows if a != b and b != "__version__"}

    assert len(rooms) <= MAX_ROOMS, f"{len(rooms)} rooms: put new files into one of {sorted(rooms)}"
    assert len(between) <= MAX_ARROWS, f"{len(between)} arrows: {sorted(between)}"


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def find_circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the first circle of a graph as a path that ends where it begins; [] if none exists."""
    finished: set[str] = set()

    def search(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in finished:
            return []

        for target in sorted(graph[node] - {node}):
            circle = search(target, [*path, node])
            if circle:
                return circle
        finished.add(node)
        return []

    return next(filter(None, (search(node, []) for node in sorted(graph))), [])
