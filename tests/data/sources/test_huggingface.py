"""Data sets of Hugging Face's library: saved folders and parquet files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.conftest import image
from vlmbench.data.manifest import open_manifest
from vlmbench.data.sources.huggingface import HuggingFaceConfig
from vlmbench.types import UserError

LABELS = {"ok": "normal", "ng": "abnormal"}


def rows(count: int = 24) -> datasets.Dataset:
    """Return rows: two good photos, then a bad one, and so on. Each part has two photos."""
    labels = ["ng" if i % 3 == 2 else "ok" for i in range(count)]
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "verdict": datasets.ClassLabel(names=["ok", "ng"]),
            "serial": datasets.Value("int64"),
            "what": datasets.Value("string"),
        }
    )
    content = {
        "photo": [image(i) for i in range(count)],
        "verdict": labels,
        "serial": [i // 2 for i in range(count)],
        "what": ["a <i>dent</i>" if label == "ng" else None for label in labels],
    }
    return datasets.Dataset.from_dict(content, features=features)


def config(path: Path, **more: Any) -> HuggingFaceConfig:
    columns = {"image": "photo", "label": "verdict", "group": "serial", "defect": "what"}
    return HuggingFaceConfig(path=str(path), labels=LABELS, **{**columns, **more})


def save(folder: Path, how: str) -> Path:
    if how == "splits":
        datasets.DatasetDict({"train": rows(), "other": rows(3)}).save_to_disk(folder)
    elif how == "saved":
        rows().save_to_disk(folder)
    else:
        folder.mkdir()
        rows().to_parquet(folder / "a.parquet")
    return folder


@pytest.mark.parametrize("how", ["saved", "splits", "parquet"])
def test_rows_become_pairs(tmp_path: Path, how: str) -> None:
    manifest = open_manifest(
        config(save(tmp_path / "set", how)).prepare(tmp_path / "data"), views={"raw", "rt"}
    )
    pairs = [record for record in manifest if record.task == "judge_pair" and record.view == "raw"]
    assert {record.answer for record in pairs} == {"normal", "abnormal: a <i>dent</i>"}
    parts: dict[int, set[str]] = {}
    for record in pairs:
        for reference in record.images:
            parts.setdefault(int(reference.path.stem) // 2, set()).add(record.group)
    assert all(len(lots) == 1 for lots in parts.values())
    assert len([record for record in pairs if record.label == "abnormal"]) == 8


def test_a_limit_reads_the_first_rows_alone(tmp_path: Path) -> None:
    config_ = config(save(tmp_path / "set", "saved"), limit=15)
    manifest = open_manifest(config_.prepare(tmp_path / "data"), views={"raw", "rt"})
    assert len(list((manifest.folder / "img").iterdir())) == 15


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image": "bild"},
            "has no column 'bild', it has photo, verdict, serial, what; set source.image=",
        ),
        ({"image": "serial"}, "row 0: column 'serial' holds no bytes of an image"),
        ({"labels": {}}, "label 'ok' is not one of 'normal', 'abnormal'"),
        ({"limit": 2}, "no photo is abnormal"),
    ],
)
def test_a_wrong_column_is_named(tmp_path: Path, change: dict, message: str) -> None:
    path = save(tmp_path / "set", "saved")
    if "labels" in change:
        source = HuggingFaceConfig(path=str(path), image="photo", label="verdict")
    else:
        source = config(path, **change)

    with pytest.raises(UserError) as raised:
        source.prepare(tmp_path / "data")
    assert message in str(raised.value)


def test_a_split_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"source.split=test: .* it has train, other; set source.split=train"
    ):
        config(save(tmp_path / "set", "splits"), split="test").prepare(tmp_path / "data")


def test_a_path_in_a_row_is_not_followed(tmp_path: Path) -> None:
    """Test that a data set cannot choose which of this machine's files are read."""
    image(0).save(tmp_path / "secret.png")
    features = datasets.Features({"photo": datasets.Image(), "verdict": datasets.Value("string")})
    content = {"photo": [{"bytes": None, "path": str(tmp_path / "secret.png")}], "verdict": ["ok"]}
    (tmp_path / "set").mkdir()
    table = datasets.Dataset.from_dict(content, features=features)
    # Without the library, which would embed the file.
    table.data.table.to_pandas().to_parquet(tmp_path / "set" / "a.parquet")
    with pytest.raises(UserError, match="holds no bytes of an image"):
        config(tmp_path / "set", group=None, defect=None).prepare(tmp_path / "data")


def test_a_saved_set_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "set", "saved")
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": "../other.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"state.json: image path '../other.arrow' leaves"):
        config(folder).prepare(tmp_path / "data")


def test_a_folder_of_pickles_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(UserError, match="has neither a saved data set"):
        config(tmp_path / "set").prepare(tmp_path / "data")


@pytest.mark.parametrize("content", [b"", b"PAR1 no parquet"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"set: the data set cannot be read"):
        config(tmp_path / "set").prepare(tmp_path / "data")


def test_a_row_without_an_image_is_named(tmp_path: Path) -> None:
    features = datasets.Features({"photo": datasets.Image(), "verdict": datasets.Value("string")})
    content = {"photo": [{"bytes": b"<svg>", "path": None}], "verdict": ["ok"]}
    datasets.Dataset.from_dict(content, features=features).save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match="row 0: not a readable image"):
        config(tmp_path / "set", group=None, defect=None).prepare(tmp_path / "data")


def test_a_name_that_is_not_on_the_hub_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nobody/nothing: the data set cannot be read"):
        HuggingFaceConfig(path="nobody/nothing").prepare(tmp_path / "data")


def test_all_unmapped_words_are_named_in_one_error(tmp_path: Path) -> None:
    folder = save(tmp_path / "set", "saved")
    with pytest.raises(UserError) as raised:
        HuggingFaceConfig(path=str(folder), image="photo", label="verdict").prepare(
            tmp_path / "data"
        )
    good, bad = str(raised.value).splitlines()
    assert good.startswith(f"{folder}: row 0: label 'ok' is not one of")
    assert good.endswith("(also in 15 more rows)")
    assert bad.startswith(f"{folder}: row 2: label 'ng' is not one of")
    assert bad.endswith("(also in 7 more rows)")


def test_a_file_is_not_searched_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(
        UserError,
        match=r"source.path=.*a.parquet: this is a file, must be a folder; set source.path=",
    ):
        config(tmp_path / "a.parquet").prepare(tmp_path / "data")
