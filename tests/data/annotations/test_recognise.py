"""A folder without a source: its layout is named, and the printed command prepares it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome
from tests.helpers import layouts
from tests.helpers.mvtec import mvtec
from vlmbench.data.annotations.recognise import recognise

Cli = Callable[..., Outcome]
NAMES = {
    "voc": "Pascal VOC",
    "yolo": "YOLO",
    "coco": "COCO",
    "kolektor": "KolektorSDD",
    "magnetic_tile": "magnetic tiles",
    "deeppcb": "DeepPCB",
    "elpv": "ELPV",
    "visa": "VisA",
    "plain": "folders of good and bad photos",
    "mvtec": "MVTec AD",
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", NAMES)
def test_the_printed_command_prepares_the_folder(cli: Cli, tmp_path: Path, layout: str) -> None:
    if layout == "mvtec":
        mvtec(tmp_path / "set")
    else:
        layouts.LAYOUTS[layout](tmp_path / "set")

    refused = cli("stage=prepare", "source.path=set", "view=rt")
    assert refused.code == 2
    assert f"set looks like {NAMES[layout]}" in refused.err

    command = shlex.split(refused.err.strip().splitlines()[-1])
    assert command[:3] == ["python", "-m", "vlmbench"]
    prepared = cli(*command[3:])
    assert prepared.code == 0, prepared.err

    manifest = tmp_path / prepared.out.strip().splitlines()[-1]
    records = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert {record["label"] for record in records if record["task"] == "judge_pair"} == {
        "normal",
        "abnormal",
    }
    if layout not in ("plain", "elpv"):
        answers = {record["answer"] for record in records}
        assert any("upper left" in answer for answer in answers), answers


@pytest.mark.slow
def test_pairs_by_name_keep_their_template(cli: Cli, tmp_path: Path) -> None:
    layouts.deeppcb(tmp_path / "set")
    prepared = cli(
        "stage=prepare",
        "source=folder",
        "source.path=set",
        "source.annotations=deeppcb",
        "source.pairs.policy=name",
    )
    manifest = tmp_path / prepared.out.strip().splitlines()[-1]
    records = [json.loads(line) for line in manifest.read_text().splitlines()]
    pairs = [record for record in records if record["task"] == "judge_pair"]
    assert len(pairs) == 2 * 24
    for pair in pairs:
        reference, query = (image["path"] for image in pair["images"])
        assert reference == query.replace("_test", "_temp")
    assert {pair["answer"] for pair in pairs} == {"normal", "abnormal: short, upper left"}
    assert len({pair["group"] for pair in pairs}) == 24


@pytest.mark.slow
def test_pairs_in_two_folders(cli: Cli, tmp_path: Path) -> None:
    for i in range(24):
        layouts.photo(tmp_path / "set" / "golden" / f"{i}.png", i)
        label = "ng" if i % 3 == 0 else "ok"
        layouts.photo(tmp_path / "set" / "shot" / label / f"{i}.png", 100 + i)
    arguments = [
        *("stage=prepare", "source=folder", "source.path=set", "source.pairs.policy=name"),
        *("source.pairs.reference_name=golden/*", "source.pairs.query_name=shot/*/*"),
    ]
    refused = cli(*arguments)
    assert "source.pairs.query_name must have one *" in refused.err
    arguments[-1] = "source.pairs.query_name=photo/*"
    assert "no two photos are named as a pair" in cli(*arguments).err
    arguments[-1] = "source.pairs.query_name=shot/*"
    prepared = cli(*arguments)
    assert "24 lots" in prepared.out, prepared.err


def test_an_unknown_layout_is_not_guessed(tmp_path: Path) -> None:
    for i in range(4):
        layouts.photo(tmp_path / "set" / f"lot{i % 2}" / f"{i}.png", i)
    assert recognise(tmp_path / "set") is None


def test_a_source_that_is_named_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    layouts.plain(tmp_path / "set")
    refused = cli("stage=prepare", "source=parts", "source.path=set")
    assert re.search("setting source.path does not exist; set source=", refused.err)


def test_a_tree_of_mvtec_as_a_folder_names_its_source(cli: Cli, tmp_path: Path) -> None:
    mvtec(tmp_path / "set")
    refused = cli("stage=prepare", "source=folder", "source.path=set")
    assert "The folder looks like MVTec AD (train/good, test/<defect>); set source=mvtec" in (
        refused.err
    )


@pytest.mark.parametrize(
    ("header", "words", "settings"),
    [
        ("path,label", ("normal", "abnormal"), ()),
        ("path;label", ("0", "1"), ("'source.labels={0: normal, 1: abnormal}'",)),
        ("ID,file name,no", ("a", "b"), None),
        (
            "filename,class",
            ("OK", "NG"),
            (
                "'source.columns={image: filename, label: class}'",
                "'source.labels={OK: normal, NG: abnormal}'",
            ),
        ),
        (
            "画像,判定",
            ("良", "不良"),
            (
                "'source.columns={image: 画像, label: 判定}'",
                "'source.labels={良: normal, 不良: abnormal}'",
            ),
        ),
    ],
)
def test_a_table_is_recognised(
    tmp_path: Path, header: str, words: tuple[str, str], settings: tuple[str, ...] | None
) -> None:
    delimiter = ";" if ";" in header else ","
    lines = [header]
    for i in range(4):
        layouts.photo(tmp_path / "set" / f"{i}.png", i)
        lines.append(delimiter.join([f"{i}.png", words[i % 2]]))
    (tmp_path / "set" / "list.csv").write_text("\n".join(lines), encoding="utf-8")

    layout = recognise(tmp_path / "set")
    expected = settings and ("source=folder", "source.table=list.csv", *settings)
    if settings == ():
        expected = ("source=folder", "source.table=list.csv")
    assert (layout and layout.settings) == expected
