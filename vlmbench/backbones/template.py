"""Render a model's chat template: in transformers' sandbox, and with a limit on its work.

Chat templates come with a model's files, which may be hostile.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

from vlmbench.types import UserError

MAX_LINES = 100_000  # of the template's compiled code; a template runs some hundred
MAX_SECONDS = 5.0  # a template takes milliseconds
MAX_MEMORY = 512 << 20  # bytes that a template may add to the process; it adds some thousand
MAX_SOURCE = 200_000  # characters of a template
MAX_OUTPUT = 1_000_000  # characters
COMPILED = "<template>"  # Jinja's file name for the code of a template
PRODUCTS = frozenset({"*", "**"})  # a single product can fill the memory or never end
TEMPLATE_ERRORS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
)


class _TooLongError(Exception):
    """A template that does not end in reasonable time."""


def start_setting(tokenizer: Any, text: str) -> dict[str, bool]:
    """Return the setting against a second start token, if the template wrote the first."""
    start = tokenizer.bos_token
    return {"add_special_tokens": False} if start and text.startswith(start) else {}


def render_template(
    processor: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    **settings: Any,
) -> str:
    """Return the text of a conversation. `settings` are variables of the template.

    Raises UserError if the template breaks a rule of the sandbox, fails, does not end, or
    multiplies.
    """
    from jinja2 import TemplateError

    for source in _sources(processor):
        _refuse_products(source)

    try:
        with _limit_memory(), _limit_lines():
            text = processor.apply_chat_template(
                messages,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **settings,
            )
            if len(text) > MAX_OUTPUT:
                raise _TooLongError(f"it wrote more than {MAX_OUTPUT} characters")
            return str(text)
    except (TemplateError, _TooLongError, *TEMPLATE_ERRORS) as error:
        raise UserError(
            f"the model's chat template cannot be used ({type(error).__name__}: {error}); "
            "use the publisher's files"
        ) from error


def _sources(processor: Any) -> list[str]:
    """Return the templates of the processor and its tokenizer: each has one, or several by name."""
    sources: list[str] = []
    for owner in (processor, getattr(processor, "tokenizer", None)):
        template = getattr(owner, "chat_template", None)
        sources += [template] if isinstance(template, str) else list((template or {}).values())
    return sources


@lru_cache
def _refuse_products(source: str) -> None:
    from jinja2 import Environment, TemplateSyntaxError

    if len(source) > MAX_SOURCE:
        raise UserError(
            f"the model's chat template has more than {MAX_SOURCE} characters; "
            "use the publisher's files"
        )
    try:
        tokens = list(Environment().lex(source))  # noqa: S701
    except TemplateSyntaxError as error:
        raise UserError(
            f"the model's chat template is not valid Jinja ({error}); use the publisher's files"
        ) from error

    operators = {value for _, kind, value in tokens if kind == "operator"}
    if forbidden := sorted(operators & PRODUCTS):
        raise UserError(
            f"the model's chat template uses `{forbidden[0]}`; refused because it can exhaust "
            "memory; use the publisher's files"
        )


@contextmanager
def _limit_memory() -> Iterator[None]:
    """Let the process grow by at most MAX_MEMORY in the block, where Linux can tell its size.

    A single line can double a text again and again, so counting lines is not enough.
    """
    sizes = Path("/proc/self/statm")
    if not sizes.exists():
        yield
        return

    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(sizes.read_text(encoding="ascii").split()[0])
    wanted = pages * resource.getpagesize() + MAX_MEMORY
    lowest = wanted if limits[0] == resource.RLIM_INFINITY else min(wanted, limits[0])

    resource.setrlimit(resource.RLIMIT_AS, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@contextmanager
def _limit_lines() -> Iterator[None]:
    """Count the lines that templates run in this thread, and stop a template at a limit."""
    lines, end = count(), time.monotonic() + MAX_SECONDS

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != COMPILED:
            return None
        if next(lines) > MAX_LINES:
            raise _TooLongError(f"it ran more than {MAX_LINES} lines")
        if time.monotonic() > end:
            raise _TooLongError(f"it took more than {MAX_SECONDS:g} s")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
