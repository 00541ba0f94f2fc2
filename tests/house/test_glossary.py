"""One word for each idea: names, settings, file names and sentences use the glossary.

The glossary: docs/concepts.md. To use a forbidden word for good reason, add it to an ALLOWED table
with the reason.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from tests.helpers.source import REPOSITORY, location, name_of, parse, python_files

# A forbidden word in a name, and the word to use.
WORDS = {
    "cell": "run",
    "picture": "image",
    "side": "split (train, val, test), or edge",
    "place": "slot, path, task_view, position, or location",
    "keyed": "a verb: key_of",
    "opened": "a verb: open_image",
    "heeded": "a verb: handle_signals",
    "told": "a verb: report_rows",
    "adapted": "a verb: add_adapters",
}
NAMES = {
    "content_hash": "config_hash, weights_hash, or data_hash",
    "may_look": "attention_mask",
    "rundir": "run_folder",
}

# Names of other libraries, and words that mean something else here: (files, name) and the reason.
ALLOWED_NAMES = {
    ("*", "padding_side"): "the word of transformers for the edge where padding goes",
    ("vlmbench/*", "PaddingSide"): "the type of padding_side",
    ("vlmbench/data/splits.py", "side"): "an argument of numpy.searchsorted",
    ("vlmbench/models/smol/modeling_smol.py", "picture"): "a key of projector.safetensors",
    ("docs/_ext/*", "side"): "a key of the recorded results of benchmarks",
    ("tests/test_docs.py", "cell"): "a cell of a table",
    ("tests/test_docs.py", "cells"): "cells of a table",
    ("tests/models/*", "side"): "a value of padding_side",
}
# A test's name is a sentence: participles may stand in it, and these words in these tests.
ALLOWED_TESTS = {
    "test_no_cell_of_the_spreadsheet_is_a_formula": "a cell of a spreadsheet",
    "test_a_batch_is_padded_on_the_given_side": "padding_side",
    "test_the_padding_side_changes_nothing": "padding_side",
    "test_two_runs_are_side_by_side_on_the_same_record": "side by side",
}

# Words in a sentence where the glossary has another, unless a phrase of ALLOWED_PHRASES holds it.
SENTENCE_WORDS = {
    r"cells?": "run",
    r"pictures?": "image",
    r"sides?": "split, edge, or variant",
    r"places?": "location, path, slot, or position",
    r"judge\.(?:folder|reference|cost_\w+|out)": "predict.<setting>",
}
ALLOWED_PHRASES = {
    r"in (?:its |their )?place\b": "instead of, or without a copy",
    r"in several places": "the answer about a defect, in the words of data sets",
    r"side by side": "next to each other",
    r"side[- ]faces?": "faces of a part: geometry",
    r"places it once": "a verb",
    r"table's cells?": "a cell of a table",
    r'"side" is the key': "a key of the recorded results of benchmarks",
    r"`picture`": "a key of projector.safetensors",
}
ALLOWED_TEXTS = {
    ("vlmbench/models/smol/align.py", " cells"): "a caption of an example image of scikit-image",
    ("conf/prompt/en.yaml", "Do both pictures show the same part?"): "a question to the model",
}

FOLDERS = ("vlmbench", "bench", "examples", "docs/_ext", "tests")
SENTENCE_FOLDERS = ("vlmbench", "bench", "examples", "docs/_ext")
TEXT_FILES = ("vlmbench/**/*.j2", "conf/**/*.yaml", "examples/**/*.md", "examples/**/*.yaml")
OLD_JUDGE = ("vlmbench/judge", "conf/judge", "tests/judge")


@pytest.mark.slow
def test_names_use_the_glossary() -> None:
    problems = []
    for path in python_files(*FOLDERS):
        if "house" in path.parts:  # names of the rules themselves
            continue
        for name, node in names_in(parse(path)):
            if (word := forbidden_word(name)) and not is_allowed(path, name):
                problems.append(f"{location(path, node)} {name}: write {word}")
    assert not problems, "\n".join(sorted(set(problems)))


def test_settings_use_the_glossary() -> None:
    problems = []
    for path in sorted((REPOSITORY / "conf").rglob("*.yaml")):
        for key in keys_of(yaml.safe_load(path.read_text(encoding="utf-8"))):
            if key.isidentifier() and (word := forbidden_word(key)):
                problems.append(f"{name_of(path)}: {key}: write {word}")
    assert not problems, "\n".join(problems)


def test_file_names_use_the_glossary() -> None:
    problems = []
    for folder in (*FOLDERS, "conf", "docs"):
        for path in (REPOSITORY / folder).rglob("*"):
            is_made = {"__pycache__", "_build", "_generated", "html"} & set(path.parts)
            if path.is_file() and not is_made and (word := forbidden_word(path.stem)):
                problems.append(f"{name_of(path)}: write {word}")
    for folder in OLD_JUDGE:
        if any((REPOSITORY / folder).rglob("*.[py]*[yaml]")):
            problems.append(f"{folder}: use deploy, predict, export or serve")
    assert not problems, "\n".join(problems)


@pytest.mark.slow
def test_sentences_use_the_glossary() -> None:
    texts = [
        *((path, text) for path in python_files(*SENTENCE_FOLDERS) for text in sentences_in(path)),
        *(
            (path, path.read_text(encoding="utf-8"))
            for pattern in TEXT_FILES
            for path in REPOSITORY.glob(pattern)
        ),
    ]
    problems = []
    for path, text in texts:
        for match, word in forbidden_phrases(path, text):
            around = " ".join(text[max(0, match.start() - 40) : match.end() + 40].split())
            problems.append(f"{name_of(path)}: {match[0]!r} in {around!r}: write {word}")
    assert not problems, "\n".join(problems)


def test_every_exception_is_needed() -> None:
    used = {
        (pattern, name)
        for path in python_files(*FOLDERS)
        for name, _ in names_in(parse(path))
        for pattern, allowed in ALLOWED_NAMES
        if name == allowed and fnmatch(name_of(path), pattern)
    }
    tests = {name for path in python_files("tests") for name, _ in names_in(parse(path))}
    texts = {
        (file, text)
        for file, text in ALLOWED_TEXTS
        if text in (REPOSITORY / file).read_text(encoding="utf-8")
    }

    assert used == set(ALLOWED_NAMES), "remove what no file uses any more"
    assert set(ALLOWED_TESTS) <= tests, "remove the names of tests that are gone"
    assert texts == set(ALLOWED_TEXTS), "remove the texts that are gone"


@pytest.mark.parametrize(
    ("name", "is_forbidden"),
    [
        *(("cell", True), ("run_cells", True), ("ReadPictures", True), ("TrainSide", True)),
        *(("content_hash", True), ("placeholder", False), ("inside", False), ("cancelled", False)),
        *(("replace", False), ("considered", False), ("excellent", False)),
    ],
)
def test_a_name_is_split_into_its_words(name: str, is_forbidden: bool) -> None:
    assert bool(forbidden_word(name)) is is_forbidden


def test_a_phrase_may_hold_a_forbidden_word() -> None:
    path = REPOSITORY / "vlmbench" / "types.py"
    text = "Two images side by side. The train side has no cell; a picture is changed in place."
    assert [match[0] for match, _ in forbidden_phrases(path, text)] == ["cell", "picture", "side"]


def forbidden_word(name: str) -> str:
    """Return the glossary's word for a name that has a forbidden one; "" for other names."""
    if name in NAMES:
        return NAMES[name]

    for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name):
        word = part.lower()
        if right := WORDS.get(word) or WORDS.get(word.removesuffix("s")):
            return right
    return ""


def is_allowed(path: Path, name: str) -> bool:
    if name.startswith("test_"):
        nouns = [part for part in ("cell", "picture", "side", "place") if part in name.split("_")]
        plurals = [part for part in ("cells", "pictures", "sides", "places") if part in name]
        return name in ALLOWED_TESTS or not (nouns or plurals)
    return any(name == n and fnmatch(name_of(path), pattern) for pattern, n in ALLOWED_NAMES)


def names_in(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Yield every name that code gives or uses, with its node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, node
        elif isinstance(node, ast.arg):
            yield node.arg, node
        elif isinstance(node, ast.Attribute):
            yield node.attr, node
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg, node
        elif isinstance(node, ast.alias):
            yield from ((part, node) for part in f"{node.name}.{node.asname or ''}".split("."))


def keys_of(values: object) -> Iterator[str]:
    """Yield the keys of nested mappings."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield str(key)
            yield from keys_of(value)


def sentences_in(path: Path) -> Iterator[str]:
    """Yield the strings with a space, docstrings among them, and the comments of a file."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value
    with path.open(encoding="utf-8") as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.string


def forbidden_phrases(path: Path, text: str) -> Iterable[tuple[re.Match[str], str]]:
    """Return each forbidden word of a text with the glossary's word."""
    for file, allowed in ALLOWED_TEXTS:
        if name_of(path) == file:
            text = text.replace(allowed, "x" * len(allowed))
    for phrase in ALLOWED_PHRASES:
        text = re.sub(phrase, lambda match: "x" * len(match[0]), text, flags=re.IGNORECASE)

    return [
        (match, right)
        for word, right in SENTENCE_WORDS.items()
        for match in re.finditer(rf"(?<![-\w./]){word}(?![-\w/])", text, re.IGNORECASE)
    ]
