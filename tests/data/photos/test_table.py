"""CSV files of labels: any delimiter, every bad line named."""

from __future__ import annotations

import csv
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import image
from vlmbench.data.invalid_rows import InvalidRow, invalid_rows_error
from vlmbench.data.paths import normal_text
from vlmbench.data.photos.table import DELIMITERS, read_table
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.types import Split, UserError

FIELD = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20
)


def rows_of(path: Path) -> list[dict[str, str]]:
    invalid_rows: list[InvalidRow] = []
    rows = [
        fields
        for _, fields in read_table(path, required=("path", "label"), invalid_rows=invalid_rows)
    ]
    if invalid_rows:
        raise invalid_rows_error(invalid_rows)
    return rows


@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_delimiter_is_detected(tmp_path: Path, delimiter: str, mark: str) -> None:
    lines = [
        ["Path", "label", "defect"],
        ["a.png", "normal", ""],
        ["b.png", "abnormal", 'a "long" scratch, twice'],
    ]
    target = StringIO()
    csv.writer(target, delimiter=delimiter).writerows(lines)
    (tmp_path / "l.csv").write_text(mark + target.getvalue(), encoding="utf-8")
    assert rows_of(tmp_path / "l.csv") == [
        {"path": "a.png", "label": "normal", "defect": ""},
        {"path": "b.png", "label": "abnormal", "defect": 'a "long" scratch, twice'},
    ]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=8))
def test_rows_written_by_csv_are_read_back(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    target = StringIO()
    csv.writer(target).writerows([("path", "label"), *rows])
    (tmp_path / "l.csv").write_text(target.getvalue(), encoding="utf-8", newline="")
    expected = [tuple(map(normal_text, row)) for row in rows]
    assert [tuple(fields.values()) for fields in rows_of(tmp_path / "l.csv")] == expected


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_a_named_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "l.csv").write_bytes(b"path,label\n" + content)
    try:
        rows = rows_of(tmp_path / "l.csv")
    except UserError as error:
        assert "l.csv" in str(error)  # noqa: PT017 - either way is right, a traceback is not
    else:
        assert all(set(row) == {"path", "label"} for row in rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("path,label\n", "no line follows the header; write one line for each photo"),
        ("path;other\na;b\n", r"l.csv:1: no column 'label' among path, other"),
        ("path,label,label\n", r"l.csv:1: column 'label' occurs twice"),
        ("path,label\na.png,normal\nb.png\n", r"l.csv:3: the line has 1 fields, the header has 2"),
        ("path,label\na.png,normal,more\n", r"l.csv:2: the line has 3 fields"),
        ('path,label\n"a.png,normal\n', r"l.csv:2: unexpected end of data"),
        ("path,label\na.png,\x1b[31mnormal\n", r"l.csv:2: label .* has control characters"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "l.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        rows_of(tmp_path / "l.csv")


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes("path,label\n部品.png,良\n".encode("cp932"))
    with pytest.raises(UserError, match="not UTF-8; save the file as 'CSV UTF-8'"):
        rows_of(tmp_path / "l.csv")


def source_of(tmp_path: Path, *lines: str) -> FolderConfig:
    """Return the source of six photos and a table with one valid line and the given lines."""
    for i in range(6):
        image(i).save(tmp_path / f"{i}.png")
    head = ["path;label;group;defect;category;split;camera", "0.png;ok;p0;;bolt;train;left"]
    (tmp_path / "labels.csv").write_text("\n".join([*head, *lines]))
    return FolderConfig(
        path=str(tmp_path), table="labels.csv", labels={"ok": "normal", "ng": "abnormal"}
    )


def test_the_columns_become_fields_of_a_photo(tmp_path: Path) -> None:
    first, second = source_of(tmp_path, "1.png;ng;;a <b>scratch</b>;bolt;;").photos()
    assert (first.label, first.part, first.category, first.split) == (
        "normal",
        "p0",
        "bolt",
        Split.TRAIN,
    )
    assert dict(first.meta) == {"camera": "left"}
    assert (second.answer, second.part, second.split) == ("abnormal: a <b>scratch</b>", "1", None)
    assert dict(second.meta) == {"defect": "a <b>scratch</b>"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "1.png;bad;;;;;",
            "label 'bad' is not one of 'ok', 'ng', 'normal', 'abnormal'; map it, as in",
        ),
        ("9.png;ok;;;;;", "9.png: the image does not exist"),
        ("1.JPG;ok;;;;;", r"1.JPG: the image does not exist; did you mean 1.png\?"),
        ("1;ok;;;;;", r"1: the image does not exist; did you mean 1.png\?"),
        ("../x.png;ok;;;;;", "leaves the data's folder"),
        ("/etc/passwd;ok;;;;;", "leaves the data's folder"),
        ("0.png;ok;;;;;", "0.png is in .*labels.csv:2 already"),
        ("1.png;ok;;;;dev;", "split 'dev' is not one of train, val, test; write one of these"),
        ("1.png;ok;;scratch;;;", "the photo is normal, but defect is 'scratch'"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        source_of(tmp_path, line).photos()
    assert str(raised.value).startswith(f"{tmp_path / 'labels.csv'}:3: ")


@pytest.mark.parametrize("word", ["bad", "不良"])
def test_the_cure_for_an_unmapped_label_is_accepted(tmp_path: Path, word: str) -> None:
    config = source_of(tmp_path, f"1.png;{word};;;;;")
    with pytest.raises(UserError) as raised:
        config.photos()

    cure = str(raised.value).rpartition("'source.labels=")[2].removesuffix("'")
    config = replace(config, labels=yaml.safe_load(cure))
    assert [photo.label for photo in config.photos()] == ["normal", "abnormal"]


def test_all_invalid_rows_are_named_in_one_error(tmp_path: Path) -> None:
    lines = ["1.png;bad;;;;;", "2.png;bad;;;;;", "3.png;ok", "img\\4.png;ok;;;;;", "5.png;bad;;;;;"]
    lines += [f"gone{i}.png;ok;;;;;" for i in range(12)]
    with pytest.raises(UserError) as raised:
        source_of(tmp_path, *lines).photos()
    table = tmp_path / "labels.csv"
    errors = str(raised.value).splitlines()
    assert len(errors) == 11
    assert errors[0].startswith(f"{table}:3: label 'bad' is not one of")
    assert errors[0].endswith("(also in 2 more rows)")
    assert errors[1].startswith(
        f"{table}:5: the line has 2 fields, the header has 7; add the missing"
    )
    assert errors[2].startswith(
        f"{table}:6: image path 'img\\\\4.png' has backslashes; give a path relative to"
    )
    assert errors[3].startswith(f"{table}:8: {tmp_path / 'gone0.png'}: the image does not exist")
    assert errors[-1] == "... and 5 more rows"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "source.path=.*mine: the folder does not exist; put photos into .*mine/good and"),
        (
            ["ok/", "ng/", "list.csv"],
            r"good/ .*. It has ng/, ok/, list.csv; .* set source.table=list.csv",
        ),
        (["good/"], r"or bad/. It has good/; put photos into good/ and bad/"),
    ],
)
def test_the_missing_folder_of_another_layout_is_named(
    tmp_path: Path, made: list[str], message: str
) -> None:
    for name in made:
        path = tmp_path / "mine" / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
    with pytest.raises(UserError, match=message):
        FolderConfig(path=str(tmp_path / "mine")).photos()
