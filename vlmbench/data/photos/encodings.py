"""The text of a table in any encoding: UTF-8, UTF-16, Shift-JIS, or the one that the user names."""

from __future__ import annotations

import codecs
import logging
import re
from pathlib import Path

from vlmbench.types import UserError

log = logging.getLogger(__name__)

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16: its mark begins with that of UTF-16
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
TITLES = {"cp932": "Shift-JIS (cp932)", "euc_jp": "EUC-JP", "cp1252": "Western European (cp1252)"}
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
HALF_WIDTH = re.compile(r"[\uff61-\uff9f]")  # what wrong guesses of Japanese are full of
SAMPLE = 4000  # bytes that show UTF-16 without a mark
ZEROS = 0.3  # share of zero bytes in such a sample


def decode_table(path: Path, content: bytes, encoding: str | None) -> str:
    """Return the text of a table. Log an encoding that is guessed.

    Raise UserError for an encoding that does not exist or does not fit.
    """
    if encoding is not None:
        return _decode(path, content, encoding)
    for mark, name in MARKS.items():
        if content.startswith(mark):
            return _decode(path, content, name)

    try:
        if content.count(0, 0, SAMPLE) < ZEROS * min(len(content), SAMPLE) or not content:
            return content.decode("utf-8")
    except UnicodeDecodeError:
        pass

    guess = _guess(content)
    log.warning(
        "%s: the file is not UTF-8; it is read as %s. Set source.encoding=%s to say so, or another "
        "encoding if words look wrong",
        path,
        TITLES.get(guess, guess),
        guess,
    )
    return content.decode(guess, errors="replace")


def _decode(path: Path, content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise UserError(
            f"source.encoding={encoding}: no such encoding; set source.encoding=cp932 for Shift-JIS"
        ) from error
    except UnicodeError as error:
        position = getattr(error, "start", 0)
        raise UserError(
            f"{path}: byte {position} is not {encoding}; set source.encoding=null to guess the "
            "encoding"
        ) from error


def _guess(content: bytes) -> str:
    """Return the likeliest encoding of bytes that are not UTF-8."""
    sample = content[:SAMPLE]
    if sample.count(0) >= ZEROS * len(sample):
        return "utf-16-le" if sample[1::2].count(0) >= sample[0::2].count(0) else "utf-16-be"

    scores = {name: _count_japanese(content, name) for name in ("cp932", "euc_jp")}
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] > 0 else "cp1252"


def _count_japanese(content: bytes, encoding: str) -> int:
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        return 0
    return len(JAPANESE.findall(text)) - len(HALF_WIDTH.findall(text))
