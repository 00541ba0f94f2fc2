"""Chat templates come with a model's files: they are rendered in transformers' sandbox, and not for ever."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from types import FrameType
from typing import Any

from vlmbench.types import UserError

MOST_LINES = 100_000  # of the template's compiled code: a template takes some hundred
COMPILED = "<template>"  # what Jinja calls the file of a template's code
PRODUCTS = frozenset({"*", "**"})  # a single one can take for ever, or all of the memory
WRONG = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, MemoryError, RecursionError)


class _TooLongError(Exception):
    """A template that does not end in reasonable time."""


def rendered(processor: Any, messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of a conversation. Raises UserError where the template does what the sandbox refuses, does not end, or
    could fill the memory with one product."""
    from jinja2 import TemplateError

    for source in _sources(processor):
        _refuse_products(source)
    try:
        with _limited():
            return str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    except (TemplateError, _TooLongError, *WRONG) as error:
        raise UserError(
            f"the model's chat template cannot be used ({type(error).__name__}: {error}); take the publisher's files"
        ) from error


def _sources(processor: Any) -> list[str]:
    """Templates of the processor and of its tokenizer, one each or several by name."""
    found: list[str] = []
    for owner in (processor, getattr(processor, "tokenizer", None)):
        template = getattr(owner, "chat_template", None)
        found += [template] if isinstance(template, str) else list((template or {}).values())
    return found


@lru_cache
def _refuse_products(source: str) -> None:
    from jinja2 import Environment, TemplateSyntaxError

    try:
        operators = {value for _, kind, value in Environment().lex(source) if kind == "operator"}  # noqa: S701
    except TemplateSyntaxError as error:
        raise UserError(f"the model's chat template is none ({error}); take the publisher's files") from error
    if operators & PRODUCTS:
        raise UserError("the model's chat template multiplies, which none has to; take the publisher's files")


@contextmanager
def _limited() -> Iterator[None]:
    """Count the lines that templates run in this thread, and end what takes too many."""
    lines = count()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != COMPILED:
            return None
        if next(lines) > MOST_LINES:
            raise _TooLongError(f"more than {MOST_LINES} lines were run")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
