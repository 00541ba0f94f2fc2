"""What the documents name exists: tests, files, headings, results, and commands that compose."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from vlmbench.__main__ import CONF
from vlmbench.config import RunConfig, register_plugins

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")])
FAQ, COSTS, CHOOSING = (ROOT / "docs" / name for name in ("faq.md", "costs.md", "choosing.md"))
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
NAMED_TEST = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")
COMMAND = re.compile(r"^(?:.*\s)?-m vlmbench(?=\s|$)(.*)$")
PLUGINS = {"hydra/launcher=ray": "ray", "hydra/launcher=submitit": "submitit", "experiment=tune": "optuna"}
FLAGS = {"-m", "--multirun", "--help"}
GPU = re.compile(r"H\d00(?: \d+ GB)?")


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _commands(page: Path) -> Iterator[list[str]]:
    """The arguments of each command of the page: lines of code blocks, and code within sentences."""
    text = _text(page)
    lines = [line for block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines += [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    for line in lines:
        found = COMMAND.match(line)
        if found and "..." not in line:
            yield [word for word in shlex.split(found[1], comments=True) if word not in FLAGS]


def _cells(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Cells of a command's sweep that have each of its values between them."""
    values = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [str(one.input_line)]
        for one in OverridesParser.create().parse_overrides(list(overrides))
    ]
    for number in range(max(map(len, values), default=1)):
        yield [choices[number % len(choices)] for choices in values]


COMMANDS = {page.name: list(_commands(page)) for page in PAGES}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register_plugins()


@pytest.mark.parametrize("command", dict.fromkeys(map(tuple, itertools.chain(*COMMANDS.values()))), ids=" ".join)
def test_every_command_composes(command: tuple[str, ...]) -> None:
    for setting, plugin in PLUGINS.items():
        if any(word.startswith(setting) for word in command):
            pytest.importorskip(f"hydra_plugins.hydra_{plugin}_{'sweeper' if plugin == 'optuna' else 'launcher'}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for cell in _cells(command):
            config = OmegaConf.to_object(compose("config", overrides=["cell=x", *cell]))
            assert isinstance(config, RunConfig)


def test_every_page_with_commands_was_read() -> None:
    assert all(COMMANDS.values()), [name for name, commands in COMMANDS.items() if not commands]
    assert ["data=without_comparison,with_comparison,matched_control", "seed=0,1,2"] in COMMANDS["README.md"]
    assert COMMANDS["choosing.md"][0][:2] == ["stage=check", "model=phi3"]  # stands within a sentence


def test_a_sweep_is_tried_with_each_of_its_values() -> None:
    assert list(_cells(["data=single,with_views", "images=[a,b]", "seed=0,1,2"])) == [
        ["data=single", "images=[a,b]", "seed=0"],
        ["data=with_views", "images=[a,b]", "seed=1"],
        ["data=single", "images=[a,b]", "seed=2"],
    ]
    assert list(_cells([])) == [[]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    links = [link for link in LINK.findall(FENCE.sub("", _text(page))) if "://" not in link]
    assert links, f"{page.name} links to nothing"
    for link in links:
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT), f"{page.name}: {link}"
        assert not heading or heading in _headings(target), f"{page.name}: {link}"


def _headings(page: Path) -> list[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", _text(page)), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_every_test_that_the_questions_name_exists() -> None:
    named = NAMED_TEST.findall(_text(FAQ))
    assert len(named) > 25
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in defined, f"{file} has no {name}"


def test_every_question_names_a_test_or_says_that_there_is_none() -> None:
    questions = re.split(r"^## ", _text(FAQ), flags=re.MULTILINE)[1:]
    assert len(questions) == 25
    for question in questions:
        assert NAMED_TEST.search(question) or "No test" in question, question.splitlines()[0]


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def _cost_rows() -> list[tuple[Path, list[str]]]:
    """The rows of the page's tables that link a result: the result, and the row's other cells."""
    rows = []
    for line in _text(COSTS).splitlines():
        linked = [link for link in LINK.findall(line) if link.endswith(".json")] if line.startswith("|") else []
        if linked:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows.append(
                ((COSTS.parent / linked[0]).resolve(), [GPU.sub("", cell) for cell in cells if ".json" not in cell])
            )
    return rows


def test_every_cost_is_a_figure_of_the_result_that_it_links() -> None:
    rows = _cost_rows()
    assert len(rows) > 10
    for path, cells in rows:
        known = list(_numbers(json.loads(path.read_text(encoding="utf-8"))))
        for cell in cells:
            for figure in re.findall(r"([\d,]*\.?\d+) (?:a second|GB|s|min)\b", cell):
                digits, unit = len(figure.partition(".")[2]), 60 if f"{figure} min" in cell else 1
                wanted = float(figure.replace(",", ""))
                assert any(round(one / unit, digits) == wanted for one in known), f"{path.name}: {cell}"


def test_tokens_of_phi3_are_those_that_the_page_says() -> None:
    from vlmbench.models.phi3_v import Phi3VImageProcessor

    rows = re.findall(r"^\| (\d+) x (\d+)[^|]*\|([^\n]*)\|$", _text(CHOOSING), re.MULTILINE)
    assert len(rows) == 4
    for width, height, cells in rows:
        for crops, cell in zip((1, 4, 9, 16), cells.split("|"), strict=True):
            said = int(cell.split("(")[0].strip().replace(",", ""))
            assert said == Phi3VImageProcessor(num_crops=crops).get_num_img_tokens(int(height), int(width)), (
                width,
                cell,
            )
