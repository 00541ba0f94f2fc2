"""CSV files of labels: any delimiter, every bad line named."""

from __future__ import annotations

import csv
import logging
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import image
from vlmbench.data.invalid_rows import InvalidRow, invalid_rows_error
from vlmbench.data.paths import normal_text
from vlmbench.data.photos.columns import TableShape
from vlmbench.data.photos.photo import Photo
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("cp932", "Shift-JIS"),
        ("euc_jp", "EUC-JP"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16", ""),
        ("utf-8", ""),
    ],
)
def test_an_encoding_is_guessed_and_told(
    tmp_path: Path, encoding: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = "path,label\n部品.png,良\n" + "ネジ.png,不良\n" * 9
    (tmp_path / "l.csv").write_bytes(text.encode(encoding))
    with caplog.at_level(logging.WARNING):
        assert rows_of(tmp_path / "l.csv")[0] == {"path": "部品.png", "label": "良"}
    assert name in caplog.text
    assert bool(caplog.text) is bool(name)


def test_an_encoding_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes("path,label\nä.png,gut\n".encode("cp1252"))
    rows = read_table(
        tmp_path / "l.csv",
        required=("path", "label"),
        invalid_rows=[],
        shape=TableShape(encoding="cp1252"),
    )
    assert [fields["path"] for _, fields in rows] == ["ä.png"]

    for encoding, message in (
        ("ascii", "is not ascii; set source.encoding=null"),
        ("nonsense", "no such encoding; set source.encoding=cp932"),
        ("zip", "no such encoding"),
        ("utf-16", "is not utf-16|no column"),
    ):
        shape = TableShape(encoding=encoding)
        with pytest.raises(UserError, match=message):
            list(read_table(tmp_path / "l.csv", required=("path",), invalid_rows=[], shape=shape))


def photos_of_table(folder: Path, text: str, **settings: Any) -> list[Photo]:
    for i in range(6):
        (folder / "img").mkdir(exist_ok=True)
        image(i).save(folder / "img" / f"{i}.png")
    (folder / "labels.csv").write_text(text)
    return FolderConfig(path=str(folder), table="labels.csv", **settings).photos()


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    text = "No,Filename,Class,label\n1,img\\0.png,OK,x\n2,img\\1.png,NG,y\n"
    labels = {"OK": "normal", "NG": "abnormal"}
    with pytest.raises(UserError, match=r"or set 'source.columns=.image: Filename, label: label."):
        photos_of_table(tmp_path, text, labels=labels)
    columns = {"image": "filename", "label": "Class"}
    photos = photos_of_table(tmp_path, text, labels=labels, columns=columns)
    assert [(photo.name, photo.label) for photo in photos] == [
        ("img/0.png", "normal"),
        ("img/1.png", "abnormal"),
    ]
    with pytest.raises(UserError, match="names the column 'gone', which is not among No, Filename"):
        photos_of_table(tmp_path, text, columns={"image": "gone"})


def test_a_table_without_header_has_numbered_columns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "img/0.png  0.0  mono\nimg/1.png  1.0  poly\nimg/2.png  0.6666666666666666  poly\n"
    with pytest.raises(UserError, match=r"set 'source.columns=.image: 1, label: 2.'"):
        photos_of_table(tmp_path, text)
    columns = {"image": 1, "label": 2, "category": 3}
    with caplog.at_level(logging.WARNING):
        photos = photos_of_table(tmp_path, text, columns=columns)
    assert [(photo.label, photo.category) for photo in photos] == [
        ("normal", "mono"),
        ("abnormal", "poly"),
    ]
    assert "1 file (2.png) passed over: their labels are between source.unsure" in caplog.text
    certain = photos_of_table(tmp_path, text, columns=columns, unsure=[0.0, 0.5])
    assert [photo.label for photo in certain] == ["normal", "abnormal", "abnormal"]
    with pytest.raises(UserError, match="names column 9, but the line has 3 fields"):
        photos_of_table(tmp_path, text, columns={"image": 1, "label": 9})


@pytest.mark.parametrize("unsure", [[0.5], [0.7, 0.2], [-1.0, 2.0], []])
def test_the_bounds_of_unsure_labels_are_checked(unsure: list[float]) -> None:
    with pytest.raises(UserError, match=r"set 'source.unsure=\[0.25,0.75\]'"):
        FolderConfig(path="x", unsure=unsure)


def test_whole_numbers_need_a_mapping(tmp_path: Path) -> None:
    text = "path,label\nimg/0.png,0\nimg/1.png,1\n"
    with pytest.raises(UserError, match=r"label '0' is not one of .* 'source.labels=\{0: normal\}"):
        photos_of_table(tmp_path, text)
    photos = photos_of_table(tmp_path, text, labels=["normal", "abnormal"])
    assert [photo.label for photo in photos] == ["normal", "abnormal"]


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
    assert errors[2].startswith(f"{table}:6: {tmp_path / 'img/4.png'}: the image does not exist")
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
