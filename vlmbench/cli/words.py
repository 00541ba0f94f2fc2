"""Texts of the command line in the words of Hydra's grammar, which would change or refuse them.

Hydra reads 3.10 as 3.1 and 1_000 as 1000, refuses what is not ASCII, and gives a meaning to
brackets, commas and equals signs.
"""

from __future__ import annotations

import json
import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException

from vlmbench.config.texts import Kind, TextSetting
from vlmbench.system.text import in_quotes
from vlmbench.types import UserError

# Hydra reads such a text as it stands: it begins like a name or a path, and never like a number.
PLAIN = re.compile(r"(?:[A-Za-z_]|\.{0,2}/)[\w./:-]*", re.ASCII)
RESERVED = frozenset({"null", "true", "false", "inf", "nan"})
PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)
ESCAPED_IN_KEYS = re.compile(r"([\\()\[\]{}:=, \t])")
CHOICE = re.compile(r"choice\((.*)\)", re.DOTALL)
INSTANTIATE_KEYS = frozenset(
    {"_target_", "_args_", "_partial_", "_recursive_", "_convert_", "_defaults_"}
)
OPENING, CLOSING = "([{", ")]}"
QUOTES = ("'", '"')


def hydra_value(name: str, value: str, setting: TextSetting) -> str:
    """Return one value of a text setting so that Hydra reads it as it was typed.

    A value in quotes is Hydra's already. Raise UserError for a mapping that cannot be read.
    """
    if setting.is_optional and value == "null":
        return value

    inner = value.strip()
    if setting.kind in (Kind.texts, Kind.quoted_mapping) and _has_ends(inner, "[]"):
        items = [_text(item) for item in split_commas(inner[1:-1]) if item]
        return f"[{','.join(items)}]"
    if setting.kind in (Kind.mapping, Kind.quoted_mapping) and _has_ends(inner, "{}"):
        return _mapping(name, inner, setting.kind)
    return _text(value)


def hydra_sweep(name: str, value: str, setting: TextSetting) -> str:
    """Return the values of a text setting in a sweep, which commas or `choice(a,b)` separate."""
    is_list = setting.kind is not Kind.text and value[:1] in ("[", "{")
    if is_list and not _split(value, heeds_brackets=True):  # as of a file that is named a[1.png
        return hydra_value(name, value, setting)

    chosen = CHOICE.fullmatch(value)
    pieces = split_commas(chosen[1] if chosen else value)
    if len(pieces) > 1 and "" in pieces:
        right = ",".join(piece for piece in pieces if piece)
        raise UserError(f"{name}={value}: a value between two commas is empty; set {name}={right}")

    if len(pieces) == 1 and not chosen:
        return hydra_value(name, value, setting)

    # Without `choice`, which would drop the quotes.
    return ",".join(hydra_value(name, piece, setting) for piece in pieces)


def split_commas(text: str) -> list[str]:
    """Return what commas separate, without spaces around it; quotes and brackets keep theirs.

    Brackets that do not close are plain characters.
    """
    return _split(text, heeds_brackets=True) or _split(text, heeds_brackets=False)


def read_quoted(value: str) -> str | None:
    """Return the text of a value that is in quotes as a whole; None for another value."""
    if not value.startswith(QUOTES) or len(value) < 2 or value[-1] != value[0]:
        return None

    try:
        parsed = OverridesParser.create().parse_override(f"x={value}")._value
    except HydraException:
        return None
    return parsed.text if isinstance(parsed, QuotedString) else None


def as_typed(override: str) -> str:
    """Return a setting as a user types it: without the quotes that only Hydra needs."""
    name, equals, value = override.partition("=")
    text = read_quoted(value)
    if text is None or text == "null" or text != text.strip():
        return override

    is_read_again = read_quoted(text) is None and split_commas(text) == [text]
    return f"{name}{equals}{text}" if is_read_again else override


def _text(value: str) -> str:
    is_plain = PLAIN.fullmatch(value) and value.lower() not in RESERVED
    return value if is_plain or read_quoted(value) is not None else in_quotes(value)


def _mapping(name: str, value: str, kind: Kind) -> str:
    """Return a mapping in Hydra's grammar, or as JSON in quotes if its keys are not Hydra's."""
    pairs: dict[str, str] = {}
    inner = value[1:-1].strip()
    for item in split_commas(inner) if inner else []:
        key, text = _pair(name, item)
        if key in INSTANTIATE_KEYS:
            raise UserError(f"{name}: {key} is not a word that vlmbench reads; leave {key} out")
        if key in pairs:
            raise UserError(f"{name} has two values for {key}; leave one of them out")
        pairs[key] = text

    if all(PLAIN_KEY.fullmatch(key) and key.lower() not in RESERVED for key in pairs):
        return f"{{{','.join(f'{key}:{_text(text)}' for key, text in pairs.items())}}}"
    if kind is Kind.quoted_mapping:
        return in_quotes(json.dumps(pairs, ensure_ascii=False))
    return _escaped_mapping(name, pairs)


def _escaped_mapping(name: str, pairs: dict[str, str]) -> str:
    keys = [ESCAPED_IN_KEYS.sub(r"\\\1", key) for key in pairs]
    words = [f"{key}:{in_quotes(text)}" for key, text in zip(keys, pairs.values(), strict=True)]
    value = f"{{{','.join(words)}}}"
    try:
        read = OverridesParser.create().parse_override(f"x={value}").value()
    except HydraException:
        read = None
    if read == pairs:
        return value

    group = name.partition(".")[0]
    raise UserError(
        f"{name}: the command line reads names of ASCII letters only, got {', '.join(pairs)}; "
        f"write them into a file such as conf/{group}/mine.yaml, and set {group}=mine"
    )


def _pair(name: str, item: str) -> tuple[str, str]:
    """Return the key and the text of one item of a mapping, without their quotes."""
    end = _end_of_quoted(item, 0, closers=":")
    if end is not None:
        key, rest = item[:end], item[end:].lstrip()
    else:
        key, colon, rest = item.partition(": ")
        if not colon:
            key, colon, rest = item.partition(":")
        rest = f"{colon}{rest}"

    text = rest[1:].strip()
    if not rest.startswith(":"):
        example = f"{name}={{{item or 'ng'}: abnormal}}"
        raise UserError(f"{name}: {item or 'an empty item'} has no colon; set '{example}'")
    return unquoted(key.strip()), unquoted(text)


def unquoted(value: str) -> str:
    """Return the text of a value, without quotes around it as a whole."""
    text = read_quoted(value)
    return value if text is None else text


def _has_ends(value: str, ends: str) -> bool:
    return len(value) >= 2 and value[0] == ends[0] and value[-1] == ends[1]


def _split(text: str, *, heeds_brackets: bool) -> list[str]:
    """Return the pieces between commas; [] if brackets do not match."""
    pieces: list[str] = []
    open_brackets: list[str] = []
    start = position = 0
    is_at_start = True

    while position < len(text):
        character = text[position]
        end = _end_of_quoted(text, position, closers=",:)]}") if is_at_start else None
        if end is not None:
            position = end
            is_at_start = False
            continue

        if heeds_brackets and character in OPENING:
            open_brackets.append(CLOSING[OPENING.index(character)])
        elif heeds_brackets and character in CLOSING:
            if not open_brackets or open_brackets.pop() != character:
                return []
        elif character == "," and not open_brackets:
            pieces.append(text[start:position].strip())
            start = position + 1

        # Quotes begin a value only; an apostrophe within a word is a character.
        is_at_start = character in ",:" + OPENING or (is_at_start and character.isspace())
        position += 1
    return [] if open_brackets else [*pieces, text[start:].strip()]


def _end_of_quoted(text: str, start: int, *, closers: str) -> int | None:
    """Return the position after a value in quotes that begins at `start`; None if none does."""
    if not text.startswith(QUOTES, start):
        return None

    closed = re.compile(rf"(?<!\\)(?:\\\\)*{text[start]}(?=\s*(?:[{re.escape(closers)}]|\Z))")
    found = closed.search(text, start + 1)
    return None if found is None else found.end()
