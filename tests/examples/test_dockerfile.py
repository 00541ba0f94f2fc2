"""The Dockerfile agrees with the repository. No container engine is needed, and none is tried."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.types import RunMode

from tests.conftest import REPOSITORY
from vlmbench.config import CONF, register_plugins

Instruction = tuple[str, str]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_stages() -> dict[str, list[Instruction]]:
    """Return the instructions of each stage, in the order of the file."""
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")

    stages: dict[str, list[Instruction]] = {}
    for line in joined.splitlines():
        name, arguments = line.split(maxsplit=1)
        if name == "FROM":
            instructions = stages[arguments.split(" AS ")[1]] = []
        instructions.append((name, arguments))
    return stages


STAGES = read_stages()
ALL = [instruction for instructions in STAGES.values() for instruction in instructions]
COPIED = [
    source for name, arguments in ALL if name == "COPY" for source in shlex.split(arguments)[:-1]
]


def arguments_of(stage: str, name: str) -> list[str]:
    return [arguments for instruction, arguments in STAGES[stage] if instruction == name]


def test_the_last_stage_is_the_cpu_and_the_other_one_is_for_a_gpu() -> None:
    assert list(STAGES) == ["base", "cuda", "cpu"]
    assert arguments_of("cpu", "FROM") == ["base AS cpu"]
    assert arguments_of("cuda", "FROM") == ["base AS cuda"]


def test_python_is_the_version_of_the_tests() -> None:
    (base,) = arguments_of("base", "FROM")
    version = re.match(r"python:(\d\.\d+)-slim AS base$", base)[1]

    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    assert f"Python {version})" in constraints.splitlines()[0]
    assert PROJECT["requires-python"] == f">={version}"


@pytest.mark.parametrize("source", sorted(set(COPIED)))
def test_every_copied_path_exists_and_is_sent_to_docker(source: str) -> None:
    assert (REPOSITORY / source).exists()
    assert not is_ignored(source)


@pytest.mark.parametrize("path", [".git", ".venv", "runs", "data", "vlmbench/__pycache__"])
def test_other_files_are_not_sent_to_docker(path: str) -> None:
    assert is_ignored(path)


def is_ignored(path: str) -> bool:
    """Whether .dockerignore leaves the path out: the last pattern that matches decides."""
    ignored = False
    for line in (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and matches(path, pattern):
            ignored = not line.startswith("!")
    return ignored


def matches(path: str, pattern: str) -> bool:
    candidates = [path, *map(str, Path(path).parents)]
    return any(fnmatch(candidate, pattern) for candidate in candidates)


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_each_image_has_what_the_package_is_built_from(stage: str) -> None:
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = build["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]}
    needed |= {*wheel["packages"], *wheel["force-include"]}

    copied = " ".join(arguments_of(stage, "COPY")).split()
    assert needed <= set(copied)


def test_pinned_versions_and_extras_are_those_of_the_project() -> None:
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    commands = " ".join(arguments for name, arguments in ALL if name == "RUN")

    pinned = re.findall(r"[\w-]+==[\d.]+", commands)
    assert len(pinned) == 2
    assert set(pinned) <= set(constraints)

    extras = {
        extra for match in re.findall(r"'\.\[([\w,]+)\]'", commands) for extra in match.split(",")
    }
    assert extras == {"report", "gpu"}
    assert extras <= set(PROJECT["optional-dependencies"])


def test_pip_always_uses_the_constraints() -> None:
    environment = " ".join(arguments for name, arguments in ALL if name == "ENV")
    assert "PIP_CONSTRAINT=/src/constraints.txt" in environment
    names = [name for name, _ in STAGES["base"]]
    assert names.index("COPY") < names.index("RUN")


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_an_image_runs_the_experiment_of_make_run_as_a_user_without_rights(stage: str) -> None:
    assert arguments_of(stage, "USER") == ["vlmbench"]
    assert any("useradd" in command for command in arguments_of("base", "RUN"))
    last = [name for name, _ in STAGES[stage]][-3:]
    assert last == ["USER", "ENTRYPOINT", "CMD"]

    (entrypoint,), (command,) = arguments_of(stage, "ENTRYPOINT"), arguments_of(stage, "CMD")
    assert json.loads(entrypoint) == ["vlmbench"]
    assert "vlmbench" in PROJECT["scripts"]
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (settings,) = json.loads(command)
    assert "run: $(READY)" in makefile
    assert f"-m vlmbench {settings}\n" in makefile

    register_plugins()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[settings], return_hydra_config=True)
    assert config.hydra.mode is RunMode.MULTIRUN
