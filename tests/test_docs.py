"""The documents are true: commands compose, links lead somewhere, figures are measured."""

from __future__ import annotations

import ast
import difflib
import itertools
import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from tests.helpers.prose import FENCE, RIDDLE, sentences_of
from tests.helpers.skeletons import read_skeletons
from vlmbench.cli.arguments import read_settings
from vlmbench.config import RunConfig, describe_settings, register_plugins
from vlmbench.runs.folder import State

ROOT = Path(__file__).resolve().parent.parent
DOCS, CONF = ROOT / "docs", ROOT / "conf"
sys.path.insert(0, str(DOCS / "_ext"))

import benchmarks  # noqa: E402
import docstrings  # noqa: E402
import figures  # noqa: E402
import generate  # noqa: E402
import results  # noqa: E402
import schemas  # noqa: E402

SITE = sorted(
    path
    for path in DOCS.rglob("*.md")
    if not {"_build", "_generated"} & set(path.relative_to(DOCS).parts)
)
PAGES = [
    *(ROOT / name for name in ("README.md", "README.ja.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *SITE,
]
ENGLISH = [page for page in PAGES if page.name != "README.ja.md" and page.parent.name != "ja"]
FAQ, CHOOSING = DOCS / "faq.md", DOCS / "how-to" / "choose-settings.md"

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FIGURE = re.compile(r"\{\{ (\w+) \}\}")
NAMED_TEST = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")
COMMAND = re.compile(r"^(?:.*\s)?-m vlmbench(?=\s|$)(.*)$")
PLUGINS = {
    "hydra/launcher=ray": "ray_launcher",
    "hydra/launcher=submitit": "submitit_launcher",
    "experiment=tune": "optuna_sweeper",
}
FLAGS = {"-m", "--multirun", "--help", "--version", "--cfg", "job"}


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# Commands


def commands_of(page: Path) -> Iterator[list[str]]:
    """Return the arguments of each command: lines of code blocks, and code within sentences."""
    text = read(page)
    blocks = [match[0] for match in FENCE.finditer(text)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", FENCE.sub("", text))]

    for line in lines:
        match = COMMAND.match(line)
        if match and "..." not in line:
            words = shlex.split(match[1], comments=True)
            yield [word for word in words if word not in FLAGS]


def runs_of(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Return runs of a command's sweep that have each of its values between them."""
    values = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [str(override.input_line)]
        for override in OverridesParser.create().parse_overrides(
            read_settings(overrides, is_sweep=True)
        )
    ]
    for number in range(max(map(len, values), default=1)):
        yield [choices[number % len(choices)] for choices in values]


def resolved(config: DictConfig) -> Any:
    """Return the settings as objects. What only a started Hydra knows is replaced."""
    for key, value in OmegaConf.to_container(config, resolve=False).items():
        if isinstance(value, str) and "${hydra:" in value:
            config[key] = "x"
    return OmegaConf.to_object(config)


COMMANDS = {page_name(page): list(commands_of(page)) for page in PAGES}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register_plugins()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", dict.fromkeys(map(tuple, itertools.chain(*COMMANDS.values()))), ids=" ".join
)
def test_every_command_composes(command: tuple[str, ...]) -> None:
    for setting, plugin in PLUGINS.items():
        if any(word.startswith(setting) for word in command):
            pytest.importorskip(f"hydra_plugins.hydra_{plugin}")

    with initialize_config_dir(str(CONF), version_base="1.3"):
        for run in runs_of(command):
            assert isinstance(resolved(compose("config", overrides=run)), RunConfig)


def test_commands_of_the_pages_are_found() -> None:
    sweep = ["data=without_comparison,with_comparison,matched_control", "seed=0,1,2"]
    assert sweep in COMMANDS["docs/concepts.md"]
    for name in ("README.md", "README.ja.md", "docs/tutorial.md", "docs/faq.md"):
        assert COMMANDS[name], name
    # This one stands within a sentence.
    within_a_sentence = ["experiment=tune", "model=llama32"]
    assert within_a_sentence in COMMANDS["docs/how-to/choose-settings.md"]


def test_a_sweep_is_tried_with_each_of_its_values() -> None:
    assert list(runs_of(["data=single,with_views", "images=[a,b]", "seed=0,1,2"])) == [
        ["data=single", "images=[a,b]", "seed=0"],
        ["data=with_views", "images=[a,b]", "seed=1"],
        ["data=single", "images=[a,b]", "seed=2"],
    ]
    assert list(runs_of([])) == [[]]


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", read(ROOT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z]+)\b", read(page), re.MULTILINE))
        assert named <= targets, f"{page_name(page)}: {named - targets}"


# Links


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    links = [link for link in LINK.findall(FENCE.sub("", read(page))) if "://" not in link]

    for link in links:
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page_name(page)}: {link}"
        assert target.is_relative_to(ROOT), f"{page_name(page)}: {link}"
        assert not heading or heading in headings(target), f"{page_name(page)}: {link}"


def headings(page: Path) -> list[str]:
    """Return the anchors of a page's headings, those of an included page too."""
    text = read(page)
    included = re.findall(r"^```\{include\} (\S+\.md)$", text, re.MULTILINE)
    text += "".join(read(page.parent / name) for name in included if (page.parent / name).exists())
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_every_page_of_the_site_is_in_its_navigation() -> None:
    for page in SITE:
        if page.name != "index.md":
            index = read(page.parent / "index.md")
            assert re.search(rf"\b{page.stem}\b", index), page_name(page)


def test_every_image_exists() -> None:
    for page in PAGES:
        images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", read(page))
        images += re.findall(r"^```\{image\} (\S+)$", read(page), re.MULTILINE)
        for image in images:
            assert (page.parent / image).exists(), f"{page_name(page)}: {image}"


# Tests that pages name


def test_every_test_that_the_questions_name_exists() -> None:
    named = NAMED_TEST.findall(read(FAQ))
    assert len(named) > 25

    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        closest = difflib.get_close_matches(name, defined, n=1)
        assert name in defined, f"{file} has no {name}; the closest is {closest}"


def test_every_question_names_a_test_or_says_that_there_is_none() -> None:
    questions = re.split(r"^## ", read(FAQ), flags=re.MULTILINE)[1:]
    assert len(questions) == 30

    for question in questions:
        assert NAMED_TEST.search(question) or "No test" in question, question.splitlines()[0]


# Figures


def numbers_in(value: Any) -> Iterator[float]:
    """Return all numbers of a recorded result."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


@pytest.mark.parametrize("name", ["README.md", "README.ja.md"])
def test_every_speed_in_a_readme_is_in_the_result_beside_it(name: str) -> None:
    paragraphs = [part for part in read(ROOT / name).split("\n\n") if "bench/results/" in part]
    assert paragraphs

    for paragraph in paragraphs:
        (link,) = re.findall(r"\((bench/results/\S+?\.json)\)", paragraph)
        measured = list(numbers_in(json.loads(read(ROOT / link))))
        speeds = re.findall(r"(?<![\w.-])(\d+(?:\.\d+)?)(?= s | 秒)", paragraph)
        assert len(speeds) == 2, paragraph
        for speed in speeds:
            digits = len(speed.partition(".")[2])
            assert any(round(value, digits) == float(speed) for value in measured), speed


def test_every_named_figure_is_measured() -> None:
    measured = figures.all_figures()
    named = {name for page in SITE for name in FIGURE.findall(read(page))}

    assert named <= set(measured)
    assert set(measured) <= named, "figures that no page shows"


def test_no_page_types_a_measured_speed() -> None:
    for page in SITE:
        typed = re.findall(r"\d[\d.,]* (?:samples|records|images)/s", read(page))
        assert not typed, f"{page_name(page)}: {typed}; write {{{{ name }}}} and add it to figures"


def test_every_result_is_on_the_page_of_benchmarks() -> None:
    shown = "".join(benchmarks.pages().values()) + read(DOCS / "benchmarks.md")
    for path in results.RESULTS.glob("*.json"):
        assert path.stem in shown, path.name


def test_tokens_of_phi3_are_those_of_the_table() -> None:
    from vlmbench.models.phi3_v import Phi3VImageProcessor

    rows = re.findall(r"^\| (\d+) x (\d+)[^|]*\|([^\n]*)\|$", read(CHOOSING), re.MULTILINE)
    assert len(rows) == 4

    for width, height, cells in rows:
        for crops, cell in zip((1, 4, 9, 16), cells.split("|"), strict=True):
            tokens = int(cell.split("(")[0].strip().replace(",", ""))
            processor = Phi3VImageProcessor(num_crops=crops)
            counted = processor.get_num_img_tokens(int(height), int(width))
            assert tokens == counted, (width, cell)


# Generated parts


def test_every_setting_of_every_yaml_file_is_in_the_reference() -> None:
    page = generate.settings_page()
    for row in describe_settings():
        name = f"{row.group}.{row.key}" if row.group else row.key
        assert f"`{name}`" in page
        assert row.meaning, f"{name} has no meaning"


def test_every_file_and_state_of_a_run_is_on_its_page() -> None:
    page = read(DOCS / "reference" / "run-folder.md")
    names = re.findall(r'"(\w+\.(?:jsonl?|yaml))"', read(ROOT / "vlmbench/runs/folder.py"))
    assert len(set(names)) > 8
    for name in (*names, *State):
        assert f"`{name}`" in page, name


def test_every_choice_has_a_comment() -> None:
    for line in generate.choices_table().splitlines()[2:]:
        choice, meaning = (cell.strip() for cell in line.strip("|").split("|", 1))
        assert meaning.strip(" |"), choice


def test_the_committed_schemas_are_those_of_the_code(tmp_path: Path) -> None:
    schemas.write_schemas(tmp_path)
    for path in tmp_path.iterdir():
        assert read(path) == read(DOCS / "schemas" / path.name), f"run make docs: {path.name}"


def test_the_schema_of_a_record_accepts_records_and_refuses_others() -> None:
    validator = jsonschema.Draft202012Validator(schemas.record_schema())
    lines = read(ROOT / "data" / "sample" / "manifest.jsonl").splitlines()
    for line in lines:
        validator.validate(json.loads(line))

    for wrong in ({"task": "guess"}, {"colour": "red"}):
        with pytest.raises(jsonschema.ValidationError, match=r"guess|colour"):
            validator.validate(json.loads(lines[0]) | wrong)


def test_the_schema_of_the_configuration_accepts_every_yaml_file() -> None:
    validator = jsonschema.Draft202012Validator(schemas.configuration_schema())
    checked = 0

    for path in sorted(CONF.glob("*/*.yaml")):
        settings = OmegaConf.to_container(OmegaConf.load(path))
        for key in ("defaults", "hydra"):
            settings.pop(key, None)
        group = path.parent.name
        if group == "baseline":  # several are in a run, each under its own name
            settings = {path.stem: settings}
        validator.validate(settings if group == "experiment" else {group: settings})
        checked += 1
    assert checked > 30


def test_a_docstring_becomes_restructuredtext() -> None:
    text = "Return `a|b` of *args and name_.\n\nSecond `x`:\n\n    a = 1\n\n- one\n- two_"
    assert docstrings.to_rst(text) == (
        "Return ``a|b`` of \\*args and name\\_.\n\nSecond ``x``:\n\n::\n\n        a = 1\n\n"
        "- one\n- two\\_"
    )


# Language


def test_a_readme_has_at_most_500_words() -> None:
    for name in ("README.md", "README.ja.md"):
        assert len(read(ROOT / name).split()) <= 500, name


def test_installing_is_on_the_first_screen() -> None:
    lines = read(ROOT / "README.md").splitlines()
    assert "make run" in "\n".join(lines[:20])


def test_sentences_are_short() -> None:
    for pages in (ENGLISH, [ROOT / "README.md"]):
        sentences = sentences_of(map(read, pages))
        assert sentences.mean <= 15, sentences.longest
        assert sentences.p90 <= 25, sentences.longest


def test_no_sentence_begins_with_a_riddle() -> None:
    for page in ENGLISH:
        for text in sentences_of([read(page)]).texts:
            assert not RIDDLE.match(text), f"{page_name(page)}: {text}"


def test_pages_use_the_words_of_the_glossary() -> None:
    old = re.compile(
        r"\b(cells?|misfits|rundir|pictures?|judge\.(?:folder|reference|cost_\w+|out))\b",
        re.IGNORECASE,
    )
    for page in ENGLISH:
        text = NAMED_TEST.sub("", FENCE.sub("", read(page)))
        if page.name != "CHANGELOG.md":  # it says what was renamed
            assert not old.search(text), f"{page_name(page)}: {old.search(text)}"


def test_sentences_are_counted_without_code_tables_and_headings() -> None:
    text = "# A title of five words\n\n```\ncode is left out here\n```\n\n| a | b | c | d |\n\n"
    text += "Two short words. This one has `a b c` and [a link](x.md), seven.\n\n- An item of four"
    sentences = sentences_of([text])
    assert sentences.lengths == (3, 8, 4)
    assert sentences.mean == 5


def test_contributing_fits_on_two_pages() -> None:
    text = FENCE.sub("", read(ROOT / "CONTRIBUTING.md"))
    assert len(text.split()) <= 900


def test_every_decision_has_its_four_parts() -> None:
    pages = [page for page in (DOCS / "decisions").glob("*.md") if page.name != "index.md"]
    assert len(pages) >= 40

    for page in pages:
        titles = re.findall(r"^## (.+)$", read(page), re.MULTILINE)
        assert titles == ["Context", "Decision", "Why", "Consequences"], page.name


# Skeletons


def test_every_kind_of_plug_in_has_a_skeleton() -> None:
    skeletons = read_skeletons()
    in_data = ("data/sources", "data/variants", "data/views")
    for room in (*in_data, "metrics", "baselines", "backbones"):
        assert f"vlmbench/{room}/mine.py" in skeletons

    for name, text in skeletons.items():
        if name.endswith(".py"):
            assert ast.get_docstring(ast.parse(text)), name
        else:
            assert isinstance(yaml.safe_load(text), dict), name
