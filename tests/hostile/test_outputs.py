"""Hostile texts and paths in what vlmbench writes: spreadsheets, Markdown, pages, terminals.

To add one: a line in FORMULAS, LINKS, CONTROLS or IMAGES.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.reports import make_predictions
from tests.helpers.run_folders import make_sweep
from vlmbench.cli.mistakes import print_error
from vlmbench.cli.paths import _check_folder
from vlmbench.config import Join, PredictConfig
from vlmbench.deploy.export import _check_target
from vlmbench.deploy.outputs import csv_text
from vlmbench.deploy.predict import _require_readable, target_of
from vlmbench.deploy.requests import Request, _read_folder, image_record
from vlmbench.report import write_report
from vlmbench.report.build import html_environment, markdown_environment
from vlmbench.report.escape import markdown
from vlmbench.report.images import data_folders, thumbnail_of
from vlmbench.runs.folder import RunDir, State
from vlmbench.system.text import PlainFormatter, typed_setting
from vlmbench.types import Judgement, Task, UserError

IDENTITY = ("model", "data", "seed", "overrides")
FORMULAS = (
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "  =1", "\u00a0=1"),
    *("\u3000=1", "\u2003+1", "\u200b=1", "\ufeff=1", "\u202e=1", "\x00=1", "\x0b=1", "\u2028=1"),
    *(
        "＝1",
        "＋1",
        "－1",
        "＠x",
        "\u00a0＝1",
        "﹦1",
        "﹢1",
        "﹣1",
        "﹫x",
        "\u3000＝cmd|' /C calc'!A0",
    ),
    *("\t", "\rx", "\nx", '=HYPERLINK("http://127.0.0.1:9")', "\u180e=1", "\u2060=1", "\xad=1"),
)


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize("field", ["id", "sentence", "error", "image"])
def test_a_spreadsheet_runs_no_text(text: str, field: str) -> None:
    image = text if field == "image" else "a.png"
    given = {} if field in ("id", "image") else {field: text}
    judgement = Judgement(
        id=text if field == "id" else "r1", task=Task.JUDGE_PAIR, images=(image, image), **given
    )
    rows = list(csv.reader(io.StringIO(csv_text([judgement]).removeprefix("\ufeff"))))
    assert len(rows) == 2
    (shown,) = {value for value in rows[1] if value.startswith("'")}
    assert not re.search(r"[\t\r\n\x00]", shown)


@pytest.mark.parametrize("text", ["normal", "r-1", "部品 1", "a=b", "0.5", "'quoted'"])
def test_a_plain_text_stays_as_it_is(text: str) -> None:
    judgement = Judgement(id=text, task=Task.JUDGE_PAIR, images=("a.png",))
    rows = list(csv.reader(io.StringIO(csv_text([judgement]).removeprefix("\ufeff"))))
    assert rows[1][0] == text


LINKS = (
    *("[x](http://127.0.0.1:9)", "![x](http://127.0.0.1:9/x.png)", "<http://127.0.0.1:9>"),
    *("http://127.0.0.1:9/x", "https://127.0.0.1:9", "HTTPS://127.0.0.1:9", "ftp://127.0.0.1"),
    *("www.example.com", "mailto:a@b.example", "xmpp:a@b.example", "[x]: http://127.0.0.1:9"),
    *("[x][y]", "<img src=http://127.0.0.1:9/x.png>", "<script>alert(1)</script>", "`x`", "~~x~~"),
    *("javascript:alert(1)", "<a href='javascript:x'>", "&lt;img&gt;", "\\[x](http://127.0.0.1)"),
    *("# x", "| a | b |", "\n\n# x", "\u2028# x", "$x$", "**x**", "__x__", "<!-- x", "]]>"),
)
ACTIVE = re.compile(
    r"(?<!\\)[\[\]`*|~$!#]|<|>|(?i:https?|ftp|mailto|xmpp):|(?i:www)\.|[\n\u2028]|&(?!amp;|lt;|gt;|#)"
)


@pytest.mark.parametrize("text", LINKS)
def test_markdown_makes_nothing_of_a_text(text: str) -> None:
    shown = re.sub(r"&#\d+;", "", markdown(text).replace("\\\\", ""))
    assert not ACTIVE.search(shown)
    template = markdown_environment().from_string("{{ text }}")
    assert template.render(text=text) == markdown(text)


CONTROLS = (
    *("\x1b[31m", "\x1b]8;;http://127.0.0.1:9\x1b\\x\x1b]8;;\x1b\\", "\x1b]52;c;b3duZWQ=\x07"),
    *("\x9b31m", "\x9d52;c;x\x9c", "\x90q", "\x08\x08\x08", "\x07", "\x7f", "\x85", "\x0e", "\x0c"),
    *("\u202e", "\u2066x\u2069", "\u200f", "\u061c", "\u2028", "\u2029", "\x1bc", "\x1b[2J"),
)


@pytest.mark.parametrize("text", CONTROLS)
def test_a_page_and_a_terminal_obey_no_control_character(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = html_environment().from_string("<p title='{{ text }}'>{{ text }}</p>")
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s", (text,), None)
    print_error(UserError(f"{text}: no file; set {typed_setting('run', text)}"))
    for shown in (page.render(text=text), PlainFormatter("%(message)s").format(record)):
        assert not set(shown) & (set(text) - set("\n") - set(map(chr, range(32, 127))))
    printed = capsys.readouterr().err
    assert not set(printed) & (set(text) - set("\n") - set(map(chr, range(32, 127))))


def make_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(path)
    return path


def linked(folder: Path) -> str:
    make_image(folder / "private" / "x.png")
    link = folder / "data" / "link.png"
    link.symlink_to(folder / "private" / "x.png")
    return str(link)


def linked_folder(folder: Path) -> str:
    make_image(folder / "private" / "x.png")
    (folder / "data" / "link").symlink_to(folder / "private")
    return str(folder / "data" / "link" / "x.png")


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "data" / "pipe.png")
    return str(folder / "data" / "pipe.png")


def device(folder: Path) -> str:
    (folder / "data" / "device.png").symlink_to("/dev/zero")
    return str(folder / "data" / "device.png")


# What the path of a record's image leads to; none of them may be shown.
IMAGES: dict[str, Callable[[Path], str]] = {
    "another folder": lambda folder: str(make_image(folder / "private" / "x.png")),
    "above": lambda folder: (
        f"{folder}/data/../private/{make_image(folder / 'private' / 'x.png').name}"
    ),
    "a link": linked,
    "a linked folder": linked_folder,
    "an address": lambda folder: f"file://{make_image(folder / 'data' / 'x.png')}",
    "a web address": lambda folder: "http://127.0.0.1:9/x.png",
    "data": lambda folder: "data:image/png;base64,AAAA",
    "a hidden folder": lambda folder: str(make_image(folder / "data" / ".ssh" / "x.png")),
    "a pipe": pipe,
    "a device": device,
    "a process": lambda folder: "/proc/self/environ",
    "passwords": lambda folder: "/etc/passwd",
    "a name with zero": lambda folder: "a\0b.png",
    "a long name": lambda folder: "x" * 10_000 + ".png",
    "a folder": lambda folder: str(folder / "data"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_outside_of_the_data_is_not_shown(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    path = IMAGES[name](tmp_path)
    folders = data_folders([{"data_dir": "data", "cache_dir": ".cache"}])
    assert thumbnail_of(path, "query", folders).uri == ""
    inside = make_image(tmp_path / "data" / "right.png")
    assert thumbnail_of(str(inside), "query", folders).uri.startswith("data:image/webp")


@pytest.mark.parametrize(
    "config",
    [
        {"data_dir": "/"},
        {"cache_dir": "/"},
        {"source": {"path": "/"}},
        {"source": {"path": "/mine.jsonl"}},
        {"data_dir": ["/"]},
        {"source": "/"},
        {"data_dir": "../../../../../../../.."},
        {"data_dir": "a\0b"},
        {"data_dir": str(Path.home().parent)},
    ],
)
def test_a_run_cannot_open_the_whole_disk(config: dict[str, Any]) -> None:
    assert data_folders([config]).paths in ((), (Path("/mine.jsonl"),))


@pytest.mark.slow
def test_the_report_embeds_no_private_image(tmp_path: Path) -> None:
    private = make_image(tmp_path / "private" / "x.png")
    predictions = make_predictions([str(private)] * 12, (18, 10, 9, 8, 1, 3))
    sweep = make_sweep(tmp_path / "sweep")
    for run in sweep.runs():
        run.write_predictions(predictions)
        facts = {name: value for name, value in run.read_status().items() if name in IDENTITY}
        run.write_status(State.FINISHED, run_hash="9f8e7d", **facts)
    page = write_report(sweep).read_text(encoding="utf-8")
    assert "data:image/webp" not in page


OUT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (Path.touch, "is a file, and a folder must be there"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "a link that leads to nothing"),
    "a link to itself": (lambda path: path.symlink_to("out"), "a link that leads to nothing"),
    "a pipe": (os.mkfifo, "belongs to the operating system"),
}


@pytest.mark.parametrize("below", ["", "/a/b"])
@pytest.mark.parametrize("name", OUT)
def test_a_folder_that_cannot_be_written_is_refused_when_the_command_is_read(
    tmp_path: Path, name: str, below: str
) -> None:
    make, words = OUT[name]
    make(tmp_path / "out")
    for setting in ("predict.out", "export.out", "data_dir"):
        with pytest.raises(UserError, match=words):
            _check_folder(setting, Path(f"{tmp_path}/out{below}"))


ODD_NAMES = ["a\nb.png", "\x1b[31m.png", "a\udcff.png", "\u202ea.png"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
@pytest.mark.parametrize("folder", ["q", "q/part", "r"])
def test_names_that_cannot_be_printed_are_not_judged(
    tmp_path: Path, name: str, folder: str
) -> None:
    for path in ("q/part/1.png", "q/2.png", "r/3.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / path)
    settings = PredictConfig(
        folder=str(tmp_path / "q"), reference=str(tmp_path / "r"), join=Join.max
    )
    assert len(_read_folder(settings)) == 2

    (tmp_path / "r" / "3.png").rename(tmp_path / folder / name)
    (tmp_path / "r" / "3.png").write_bytes((tmp_path / "q" / "2.png").read_bytes())
    with pytest.raises(UserError, match="cannot be printed; rename the file") as refused:
        _read_folder(settings)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("reference", ["/dev/zero", "pipe", "gone.png"])
def test_a_reference_that_is_no_file_is_refused(tmp_path: Path, reference: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "q").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "q" / "1.png")
    settings = PredictConfig(folder=str(tmp_path / "q"), reference=str(tmp_path / reference))
    with pytest.raises(UserError, match="the image or folder does not exist"):
        _read_folder(settings)


def test_a_damaged_reference_ends_the_command(tmp_path: Path) -> None:
    records = [image_record(name, [tmp_path / "r.png", tmp_path / name], "raw") for name in "ab"]
    damaged = {tmp_path / "r.png": "r.png: the file is empty"}
    with pytest.raises(UserError, match=r"none of 2 records can be judged: r\.png"):
        _require_readable(Request(records=records), damaged)
    _require_readable(Request(records=records), {tmp_path / "a": "a: the file is empty"})


@pytest.mark.parametrize("leads_to", ["outside", "nowhere"])
def test_answers_and_exports_are_not_written_through_a_link(tmp_path: Path, leads_to: str) -> None:
    run = RunDir(tmp_path / "0_a")
    run.path.mkdir()
    (tmp_path / "outside").mkdir()
    for name in ("answers", "export"):
        (run.path / name).symlink_to(tmp_path / leads_to)
    with pytest.raises(UserError, match=r"0_a/answers: a link"):
        target_of(run, None)
    with pytest.raises(UserError, match=r"0_a/export: the folder exists already"):
        _check_target(run, run.path / "export")

    (run.path / "answers").unlink()  # the cure
    assert target_of(run, None).parent == run.path / "answers"
    assert target_of(run, "mine") == Path("mine")
