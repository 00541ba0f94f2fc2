"""The code stays easy to read: short functions with air, and short sentences.

Each limit is a measured figure of well-known code bases.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.helpers.prose import RIDDLE, Sentences, sentences_of
from tests.helpers.source import location, name_of, parse, python_files

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 350
MAX_PARAMETERS = 8
MIN_BLANK_SHARE = 0.06  # of the lines inside functions
MAX_TOKENS_A_LINE = 8.5
MAX_MEAN_WORDS, MAX_P90_WORDS = 15, 25

# Functions that another library calls: it decides their parameters.
THEIR_SIGNATURES = {"forward": "transformers calls it with these parameters"}

LAYOUT_TOKENS = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENDMARKER, tokenize.ENCODING),
}
LOG_METHODS = {"debug", "info", "warning", "error", "exception"}
LABEL_COMMENT = re.compile(r"#\s*(noqa|type:|fmt:|pragma|TODO)|#!")

FILES = python_files("vlmbench")
Function = ast.FunctionDef | ast.AsyncFunctionDef
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLines:
    """Lines of one file: `tokens` on `code` lines; `blank` of the lines `inside` functions."""

    tokens: int
    code: int
    blank: int
    inside: int


def test_functions_and_files_are_short() -> None:
    problems = []
    for path in FILES:
        num_lines = len(lines_of(path))
        if num_lines > MAX_FILE_LINES:
            problems.append(
                f"{name_of(path)} has {num_lines} lines, at most {MAX_FILE_LINES}; split the file"
            )
        for function in functions_of(path):
            length = function.end_lineno - function.lineno + 1
            if length > MAX_FUNCTION_LINES:
                problems.append(
                    f"{location(path, function)} {function.name} has {length} lines, at most "
                    f"{MAX_FUNCTION_LINES}; move a step of it into a function of its own"
                )
    assert not problems, "\n".join(problems)


def test_functions_have_few_parameters() -> None:
    problems = []
    for path in FILES:
        for function in functions_of(path):
            number = count_parameters(function)
            is_theirs = function.name in THEIR_SIGNATURES and "/models/" in path.as_posix()
            if number > MAX_PARAMETERS and not is_theirs:
                problems.append(
                    f"{location(path, function)} {function.name} has {number} parameters, at most "
                    f"{MAX_PARAMETERS}; put those that belong together into a dataclass"
                )
    assert not problems, "\n".join(problems)


def test_steps_of_functions_are_apart() -> None:
    counts = {path: count_lines(path) for path in FILES}
    inside = sum(count.inside for count in counts.values())
    share = sum(count.blank for count in counts.values()) / inside

    densest = sorted(
        (path for path in FILES if counts[path].inside > 40),
        key=lambda path: counts[path].blank / counts[path].inside,
    )
    assert share >= MIN_BLANK_SHARE, (
        f"{share:.1%} of the lines inside functions are blank, at least {MIN_BLANK_SHARE:.0%} have "
        f"to be; put a blank line between the steps of {', '.join(map(name_of, densest[:10]))}"
    )


def test_lines_are_simple() -> None:
    counts = {path: count_lines(path) for path in FILES}
    mean = sum(count.tokens for count in counts.values()) / sum(
        count.code for count in counts.values()
    )

    densest = sorted(
        (path for path in FILES if counts[path].code > 20),
        key=lambda path: -counts[path].tokens / counts[path].code,
    )
    assert mean <= MAX_TOKENS_A_LINE, (
        f"a code line has {mean:.2f} tokens, at most {MAX_TOKENS_A_LINE} on average; name the "
        f"intermediate values in {', '.join(map(name_of, densest[:10]))}"
    )


def test_docstrings_have_short_sentences() -> None:
    require_short(sentences_of(text for path in FILES for text in docstrings_of(path)))


def test_comments_have_short_sentences() -> None:
    require_short(sentences_of(text for path in FILES for text in comments_of(path)))


def test_messages_have_short_sentences() -> None:
    messages = [text for path in FILES for text in messages_of(path)]
    assert len(messages) > 200
    require_short(sentences_of(clause for text in messages for clause in text.split("; ")))


def test_no_sentence_begins_with_a_riddle() -> None:
    problems = [
        f"{name_of(path)}: {sentence!r} begins with {sentence.split()[0]!r}; begin with the subject"
        for path in FILES
        for texts in (docstrings_of(path), comments_of(path), messages_of(path))
        for sentence in sentences_of(texts).texts
        if RIDDLE.match(sentence)
    ]
    assert not problems, "\n".join(problems)


def test_a_messages_values_count_as_one_word() -> None:
    source = (
        'raise UserError(f"{a} must be {b:.2f}, got {c.d[0]}; set x=1")\nlog.info("%s of %d", 1)'
    )
    assert list(messages_in(ast.parse(source))) == ["X must be X, got X; set x=1", "X of X"]


def test_a_comment_over_several_lines_is_one_text(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("# First half\n# of a sentence.\n\nx = 1  # because\n# noqa: A001\n")
    assert list(comments_of(path)) == ["First half of a sentence.", "because"]


def require_short(sentences: Sentences) -> None:
    longest = "\n".join(f"{words} words: {text}" for words, text in sentences.longest)
    assert sentences.mean <= MAX_MEAN_WORDS, (
        f"sentences have {sentences.mean:.1f} words on average, at most {MAX_MEAN_WORDS}; "
        f"shorten these:\n{longest}"
    )
    assert sentences.p90 <= MAX_P90_WORDS, (
        f"a tenth of the sentences has more than {sentences.p90} words, at most {MAX_P90_WORDS}; "
        f"shorten these:\n{longest}"
    )


@cache
def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def functions_of(path: Path) -> Iterator[Function]:
    yield from (node for node in ast.walk(parse(path)) if isinstance(node, Function))


def count_parameters(function: Function) -> int:
    """Return the number of parameters without self and cls."""
    names = function.args
    positional = [*names.posonlyargs, *names.args]
    is_method = bool(positional) and positional[0].arg in ("self", "cls")
    return len(positional) + len(names.kwonlyargs) - is_method


@cache
def count_lines(path: Path) -> FileLines:
    """Return the counts of one file. Docstrings count neither as code nor as lines inside."""
    documentation = docstring_lines(path)
    lines = lines_of(path)
    inside = [
        number
        for function in functions_of(path)
        for number in range(function.lineno + 1, function.end_lineno + 1)
        if number not in documentation
    ]

    tokens, code = 0, set()
    for token in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
        if token.type not in LAYOUT_TOKENS and token.start[0] not in documentation:
            tokens += 1
            code.update(range(token.start[0], token.end[0] + 1))

    return FileLines(
        tokens=tokens,
        code=len(code),
        blank=sum(not lines[number - 1].strip() for number in inside),
        inside=len(inside),
    )


def docstring_lines(path: Path) -> set[int]:
    """Return the numbers of all lines of docstrings."""
    numbers: set[int] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node):
            numbers |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return numbers


def docstrings_of(path: Path) -> Iterator[str]:
    for node in ast.walk(parse(path)):
        if isinstance(node, DOCUMENTED):
            yield ast.get_docstring(node) or ""


def comments_of(path: Path) -> Iterator[str]:
    """Yield the comments of a file. Neighbouring lines of their own are one comment."""
    block: list[str] = []
    last_line = 0
    with path.open(encoding="utf-8") as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type != tokenize.COMMENT or LABEL_COMMENT.match(token.string):
                continue

            is_alone = token.line.lstrip().startswith("#")
            if block and not (is_alone and token.start[0] == last_line + 1):
                yield " ".join(block)
                block = []
            block.append(token.string.lstrip("# ").rstrip())
            last_line = token.start[0] if is_alone else 0
    if block:
        yield " ".join(block)


def messages_of(path: Path) -> Iterator[str]:
    yield from messages_in(parse(path))


def messages_in(tree: ast.Module) -> Iterator[str]:
    """Yield the texts of `raise UserError(...)` and of log calls; a value is one word, "X"."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and node.args):
            continue

        function = node.func
        is_error = isinstance(function, ast.Name) and function.id == "UserError"
        is_log = (
            isinstance(function, ast.Attribute)
            and function.attr in LOG_METHODS
            and isinstance(function.value, ast.Name)
            and function.value.id == "log"
        )
        if is_error or is_log:
            yield re.sub(r"%[-.\d]*[sdrfg]", "X", text_of(node.args[0]))


def text_of(node: ast.expr) -> str:
    """Return the text of a string, an f-string or a sum of them; "" for other expressions."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            "X" if isinstance(part, ast.FormattedValue) else text_of(part) for part in node.values
        )
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return ""
