"""Hostile manifests: each row is refused with its line, or stays plain text.

To add one, add a line (bytes) to LINES or a path to PATHS.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vlmbench.data.load import read_images
from vlmbench.data.manifest import MAX_LINE, open_manifest
from vlmbench.types import UserError

MAX_SECONDS = 10
ROW: dict[str, Any] = {
    "id": "a",
    "task": "judge_single",
    "group": "g",
    "label": "normal",
    "images": [{"path": "a.png", "role": "query"}],
}


def line(**fields: Any) -> bytes:
    return json.dumps({**ROW, **fields}).encode()


def nested(open_: bytes, close: bytes, depth: int = 100_000) -> bytes:
    return open_ * depth + b"1" + close * depth


VALID = ""  # instead of words: the row is valid
# name -> (line, words of the error)
LINES: dict[str, tuple[bytes, str]] = {
    "lists in lists": (b'{"id":' + nested(b"[", b"]") + b"}", "Expected `str`"),
    "objects in objects": (
        b'{"id":"a","meta":{"x":' + nested(b'{"a":', b"}") + b"}}",
        "Expected `str`",
    ),
    "depth in an unknown key": (b'{"zzz":' + nested(b"[", b"]") + b"}", "unknown field"),
    "depth at the top": (nested(b"[", b"]"), "Expected `object`"),
    "not a number": (b'{"id":NaN}', "malformed"),
    "infinity": (b'{"id":-Infinity}', "malformed"),
    "a number out of range": (b'{"id":1e999999}', "out of range"),
    "a number of 100,000 digits": (b'{"id":' + b"9" * 100_000 + b"}", "out of range"),
    "a number for a text": (line(id=7), "Expected `str`"),
    "null": (b"null", "Expected `object`"),
    "a list": (b"[]", "Expected `object`"),
    "a text": (b'"x"', "Expected `object`"),
    "nothing but a brace": (b"{", "truncated"),
    "two objects": (line() + line(), "malformed"),
    "another encoding": (line().decode().encode("utf-16"), "malformed"),
    "invalid UTF-8": (line()[:-2] + b"\xff\xfe}", "malformed"),
    "invalid UTF-8 in a text": (line(id="X").replace(b"X", b"\xc3\x28"), "not UTF-8"),
    "an overlong slash": (line(id="X").replace(b"X", b"\xc0\xaf"), "not UTF-8"),
    "half a surrogate": (line(id="X").replace(b"X", b"\\ud800"), "malformed"),
    "half a surrogate in a meta": (line(meta={"a": "X"}).replace(b"X", b"\\udfff"), "malformed"),
    "zero bytes": (b"\0" * 100, "malformed"),
    "a line too long": (line(question="x" * (MAX_LINE + 1)), f"the limit is {MAX_LINE}"),
    "an id too long": (line(id="x" * 201), "1 to 200 printable characters"),
    "an empty id": (line(id=""), "1 to 200 printable characters"),
    "an id of escapes": (line(id="\x1b[2J\x1b]0;owned\x07"), "1 to 200 printable characters"),
    "an id of two lines": (line(id="a\nb"), "1 to 200 printable characters"),
    "an id that turns round": (line(id="a\u202egnp.exe"), "1 to 200 printable characters"),
    "a group of escapes": (line(group="\x9b31m"), "1 to 200 printable characters"),
    "a label of escapes": (line(label="\x1b[31m"), "is not one of"),
    "a label of code": (line(label="__import__('os').system('x')"), "is not one of"),
    "an unknown task": (line(task="rm -rf"), "Invalid enum value"),
    "an unknown key": (line(_target_="os.system"), "unknown field"),
    "a key of Python": (line(__class__="x"), "unknown field"),
    "an answer of another label": (line(answer="abnormal: x"), "does not start with the label"),
    "a question too long": (line(question="x" * 4001), "the limit is 4000"),
    "no image": (line(images=[]), "the row has 0"),
    "a thousand images": (line(images=ROW["images"] * 1000), "the row has 1000"),
    "a view of a path": (
        line(images=[{**ROW["images"][0], "view": "../raw"}]),
        "view '../raw' is not one of",
    ),
    "a key twice": (line()[:-1] + b',"id":"b"}', VALID),
    "a byte order mark": (b"\xef\xbb\xbf" + line(), VALID),
    "an interpolation": (line(question="${oc.env:HOME} ${now:%Y}"), VALID),
    "a template": (line(question="{{ 7 * 7 }} {% for x in range(9) %}{% endfor %}"), VALID),
    "a format": (line(question="{0.__class__.__mro__} %s %n"), VALID),
    "markup": (line(meta={"<script>": "<img src=x onerror=alert(1)>"}), VALID),
    "an id of a path": (line(id="../../etc/passwd"), VALID),
}
PATHS: dict[str, tuple[str, str]] = {
    "empty": ("", "is empty or has control characters"),
    "zero byte": ("a.png\0.txt", "control characters"),
    "line break": ("a\n.png", "control characters"),
    "escape": ("\x1b[31m.png", "control characters"),
    "direction": ("a\u202e.png", "control characters"),
    "absolute": ("/etc/passwd", "leaves the data's folder"),
    "absolute, twice": ("//etc/passwd", "leaves the data's folder"),
    "up": ("../secret.png", "leaves the data's folder"),
    "up, later": ("img/../../secret.png", "leaves the data's folder"),
    "up, at the end": ("img/..", "the image does not exist"),
    "another system's": ("..\\secret.png", "has backslashes"),
    "another system's drive": ("C:\\secret.png", "has backslashes"),
    "another system's host": ("\\\\host\\share\\a.png", "has backslashes"),
    "another system's device": ("\\\\.\\PhysicalDrive0", "has backslashes"),
    "host": ("//host/share/a.png", "leaves the data's folder"),
    "drive": ("C:/secret.png", "the image does not exist"),
    "stream": ("a.png:secret", "the image does not exist"),
    "home": ("~/.ssh/id_rsa", "the image does not exist"),
    "variable": ("$HOME/a.png", "the image does not exist"),
    "interpolation": ("${oc.env:HOME}/a.png", "the image does not exist"),
    "address": ("http://localhost/a.png", "the image does not exist"),
    "file address": ("file:///etc/passwd", "the image does not exist"),
    "command": ("|touch owned", "the image does not exist"),
    "itself": (".", "the image does not exist"),
    "the manifest": ("mine.jsonl", "not a readable image"),
    "deep": ("a/" * 5000 + "a.png", "longer than a path may be"),
    "long": ("a" * 300 + ".png", "longer than a path may be"),
    "long in bytes": ("\u6f22" * 100 + ".png", "longer than a path may be"),
    "percent": ("%2e%2e/secret.png", "the image does not exist"),
    "wide slash": ("..\uff0fsecret.png", "the image does not exist"),
}


def read(folder: Path, content: bytes) -> str:
    """Return the message of a UserError for a manifest and its images; "" if both are valid."""
    path = folder / "mine.jsonl"
    path.write_bytes(content + b"\n")
    try:
        manifest = open_manifest(path)
        read_images(manifest, folder / ".cache")
    except UserError as error:
        return str(error)
    return "" if len(manifest) else "nothing"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(values).save(folder / "a.png")
    Image.fromarray(values).save(tmp_path / "secret.png")
    return folder


@pytest.mark.parametrize("name", LINES)
def test_a_hostile_line_is_refused_or_text(folder: Path, name: str) -> None:
    content, words = LINES[name]
    started = time.monotonic()

    message = read(folder, content)

    assert time.monotonic() - started < MAX_SECONDS
    if words == VALID:
        assert message == ""
    else:
        assert words in message
        assert len(message) < 2000


@pytest.mark.parametrize("name", PATHS)
def test_a_hostile_path_is_refused(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    path, words = PATHS[name]
    assert words in read(folder, line(images=[{"path": path, "role": "query"}]))
    assert not (folder / "owned").exists()


def device(folder: Path) -> str:
    (folder / "mine.jsonl").symlink_to("/dev/zero")
    return "mine.jsonl"


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "mine.jsonl")
    return "mine.jsonl"


LOCATIONS: dict[str, Callable[[Path], str]] = {
    "device": device,
    "pipe": pipe,
    "folder": lambda folder: ".",
    "root": lambda folder: "/",
    "address": lambda folder: "http://127.0.0.1:9/mine.jsonl",
    "long": lambda folder: "a" * 300,
    "zero byte": lambda folder: "a\0b",
    "nothing": lambda folder: "nowhere.jsonl",
}


@pytest.mark.parametrize("name", LOCATIONS)
def test_a_path_that_is_no_file_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="the manifest does not exist"):
        open_manifest(folder / LOCATIONS[name](folder))


def test_text_of_a_manifest_stays_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "do not show")
    words = "${oc.env:SECRET_OF_MINE} {{ 1 }} %(name)s"
    path = folder / "mine.jsonl"
    path.write_bytes(line(question=words, meta={words: words}) + b"\n")
    (record,) = open_manifest(path)
    assert record.question == words
    assert dict(record.meta) == {words: words}


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
PARTS = st.dictionaries(
    st.sampled_from(
        ["id", "task", "group", "label", "images", "answer", "question", "split", "meta", "other"]
    ),
    anything
    | st.text()
    | st.just(ROW["images"])
    | st.sampled_from(["normal", "judge_single", "test"]),
)
quickly = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quickly
@given(PARTS)
def test_any_object_is_refused_or_valid(folder: Path, fields: dict[str, Any]) -> None:
    read(folder, json.dumps({**ROW, **fields}).encode("utf-8", "surrogatepass"))


@quickly
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(folder: Path, content: bytes) -> None:
    assert read(folder, content) != ""


@quickly
@given(st.integers(0, 200), st.binary(min_size=1, max_size=6))
def test_a_changed_row_is_refused_or_valid(folder: Path, offset: int, patch: bytes) -> None:
    row = line(answer="normal: fine", meta={"defect": "scratch"})
    start = offset % len(row)

    read(folder, row[:start] + patch + row[start + len(patch) :])
