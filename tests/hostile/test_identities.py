"""Names and paths in many spellings: one identity has one spelling, and is never two in silence."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import ManifestBuilder, image
from tests.helpers import layouts
from tests.helpers.photos import photos_in
from vlmbench.config import Pairing, PredictConfig
from vlmbench.data.annotations.read import Format
from vlmbench.data.load import load_data
from vlmbench.data.manifest import open_manifest
from vlmbench.data.paths import find_path, look_alikes, normal_name, normal_path
from vlmbench.data.photos.pairs import PairsConfig
from vlmbench.data.photos.photo import PartRule, part_of
from vlmbench.data.photos.source import label_of
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.data.sources.llava import LlavaConfig
from vlmbench.data.splits import component_names, find_leaks
from vlmbench.deploy.requests import _read_folder
from vlmbench.types import Split, Task, UserError

SHARES = {Split.TRAIN: 0.6, Split.VAL: 0.0, Split.TEST: 0.4}
GA = "ガ"  # one character in NFC, two in NFD
NFC, NFD = (unicodedata.normalize(form, f"{GA}スケットé") for form in ("NFC", "NFD"))

# Spellings of the path "img/a.png".
SPELLINGS = {
    "dot": "./img/a.png",
    "two dots": "././img/a.png",
    "dot inside": "img/./a.png",
    "double slash": "img//a.png",
    "many slashes": "img////a.png",
    "up and down": "img/../img/a.png",
    "up and down twice": "img/x/../../img/a.png",
    "unknown folder and up": "nowhere/../img/a.png",
    "slash at the end": "img/a.png/",
    "dot at the end": "img/a.png/.",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_path_has_one_spelling(spelling: str) -> None:
    assert normal_path(SPELLINGS[spelling]) == "img/a.png"


@pytest.mark.parametrize("path", ["../a.png", "img/../../a.png", "./../a.png", "a/../../b"])
def test_a_path_out_of_its_folder_stays_one(path: str) -> None:
    assert normal_path(path).startswith("../")


@pytest.mark.parametrize("path", ["/etc/passwd", "//etc/passwd", "/./etc/passwd"])
def test_an_absolute_path_stays_absolute(path: str) -> None:
    assert normal_path(path).startswith("/")


def leaky(folder: Path, respell: Callable[[str, int], str]) -> Path:
    """Write rows in which each part's query is a copy of another part's, in other words.

    `respell(path, number of the row)` is the path that a row writes.
    """
    (folder / "img").mkdir(parents=True)
    lines = []
    for number in range(12):
        split = ("train", "test")[number % 2]
        image(number // 2).save(folder / "img" / f"{number}.png")
        for kind, label in enumerate(("normal", "abnormal")):
            image(100 + 2 * number + kind).save(folder / "img" / f"{number}-{kind}.png")
            row = {
                "id": f"{number}-{kind}",
                "task": "judge_pair",
                "group": f"g{number}",
                "label": label,
                "split": split,
                "images": [
                    {"path": respell(f"img/{number}.png", number), "role": "reference"},
                    {"path": respell(f"img/{number}-{kind}.png", number), "role": "query"},
                ],
            }
            lines.append(json.dumps(row))
    path = folder / "mine.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


RESPELL: dict[str, Callable[[str, int], str]] = {
    "plain": lambda path, number: path,
    "dot": lambda path, number: f"./{path}",
    "dots in every second row": lambda path, number: path if number % 2 else f"./{path}",
    "double slash": lambda path, number: path.replace("/", "//"),
    "up and down": lambda path, number: f"img/../{path}",
    "mixed": lambda path, number: ("./", "img/../", ".//", "")[number % 4] + path,
}


@pytest.mark.parametrize("how", RESPELL)
def test_leaks_are_found_in_every_spelling(tmp_path: Path, how: str) -> None:
    path = leaky(tmp_path / "data", RESPELL[how])
    with pytest.raises(UserError, match="the same image content") as raised:
        load_data(
            open_manifest(path),
            SHARES,
            split_seed=0,
            allow_leak=False,
            cache_dir=tmp_path / "cache",
        )
    leaks = [line for line in str(raised.value).splitlines() if "image content" in line]
    assert len(leaks) == 6


@pytest.mark.parametrize("link", [os.link, os.symlink], ids=["hard link", "symbolic link"])
def test_two_names_of_one_file_are_one_image(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    path = leaky(tmp_path / "data", RESPELL["plain"])
    folder = path.parent / "img"
    for number in range(1, 12, 2):
        (folder / f"{number}.png").unlink()
        link(folder / f"{number - 1}.png", folder / f"{number}.png")

    with pytest.raises(UserError, match="the same image content"):
        load_data(
            open_manifest(path),
            SHARES,
            split_seed=0,
            allow_leak=False,
            cache_dir=tmp_path / "cache",
        )


def test_parts_with_copies_of_one_image_are_one_cluster(manifest: ManifestBuilder) -> None:
    first, second = (manifest.folder / "img" / f"{number}-ref.png" for number in (0, 1))
    second.write_bytes(first.read_bytes())
    records = open_manifest(manifest.write())

    from vlmbench.data.load import read_images

    names = component_names(records, read_images(records, manifest.folder / "cache"))
    assert len({name for (task, _), name in names.items() if task is Task.JUDGE_PAIR}) == 1
    assert len([key for key in names if key[0] is Task.JUDGE_PAIR]) == 2


def test_leaks_of_images_that_were_not_read_are_an_error(manifest: ManifestBuilder) -> None:
    records = open_manifest(manifest.write())
    with pytest.raises(UserError, match="was not read, so leaks cannot be found"):
        find_leaks(records, records.splits * 0, {})


# Pairs of spellings of one group.
GROUPS = {
    "NFC and NFD": (NFC, NFD),
    "Latin": ("Gehäuse", unicodedata.normalize("NFD", "Gehäuse")),
    "Korean": ("부품", unicodedata.normalize("NFD", "부품")),
    "Vietnamese": ("lỗi", unicodedata.normalize("NFD", "lỗi")),
    "order of marks": ("a\u0323\u0307", "a\u0307\u0323"),
    "a singleton": ("Å", "\u212b"),
    "a compatible ideograph": ("豈", "\uf900"),
    "space at the end": ("part1", "part1 "),
    "space at the start": ("part1", " part1"),
    "spaces": ("part1", "  part1   "),
}


@pytest.mark.parametrize("pair", GROUPS)
def test_a_group_has_one_spelling(manifest: ManifestBuilder, pair: str) -> None:
    for index, row in enumerate(manifest.rows):
        if row["group"] in ("part-0", "part-1"):
            row["group"] = GROUPS[pair][index % 2]
    records = open_manifest(manifest.write())

    assert len({record.group for record in records}) == 9
    assert len(set(records.groups.tolist())) == 9
    assert records.warnings == ()


LOOK_ALIKES = {
    "capital letters": ("Part1", "part1"),
    "full width": ("ｐａｒｔ１", "part1"),
    "half width": ("ｶﾞｽｹｯﾄ", "ガスケット"),
    "circled digit": ("part①", "part1"),
    "ligature": ("oﬃce", "office"),
    "blanks inside": ("part 1", "part1"),
    "sharp s": ("Maß", "mass"),
    "variants": ("葛\ufe00", "葛"),
}


@pytest.mark.parametrize("pair", LOOK_ALIKES)
def test_groups_that_look_alike_are_two_parts_with_a_warning(
    manifest: ManifestBuilder, pair: str
) -> None:
    first, second = LOOK_ALIKES[pair]
    for row in manifest.rows:
        row["group"] = {"part-0": first, "part-1": second}.get(row["group"], row["group"])
    records = open_manifest(manifest.write())

    assert len({record.group for record in records}) == 10
    assert [f"{second!r} looks like" in warning for warning in records.warnings] == [True]
    assert look_alikes([first, second, first]) == [(first, second)]


@pytest.mark.parametrize("second", ["0-good ", unicodedata.normalize("NFD", "id-é")])
def test_an_id_in_another_spelling_is_the_same_id(manifest: ManifestBuilder, second: str) -> None:
    manifest.rows[0]["id"] = normal_name(second)
    manifest.rows[1]["id"] = second
    with pytest.raises(UserError, match="is already in line 1"):
        open_manifest(manifest.write())


@pytest.mark.parametrize("on_disk", [NFC, NFD])
@pytest.mark.parametrize("written", [NFC, NFD])
def test_a_photo_is_found_in_both_unicode_forms(tmp_path: Path, on_disk: str, written: str) -> None:
    photos = tmp_path / "photos" / on_disk
    photos.mkdir(parents=True)
    lines = ["path,label,group"]
    for number in range(24):
        name = f"{on_disk}{number}.png"
        image(number).save(photos / name)
        label = "abnormal" if number % 3 == 0 else "normal"
        part = (NFC, NFD)[number % 2] + str(number // 2)
        lines.append(f"{written}/{written}{number}.png,{label},{part}")
    (tmp_path / "photos" / "l.csv").write_text("\n".join(lines), encoding="utf-8")

    config = FolderConfig(path=str(tmp_path / "photos"), table="l.csv", pairs=PairsConfig(lots=3))
    found = config.photos()
    assert len({photo.name for photo in found}) == 24
    assert len({photo.part for photo in found}) == 12
    assert all(photo.path.is_file() and photo.name == normal_path(photo.name) for photo in found)
    assert len(open_manifest(config.prepare(tmp_path / "data"), views={"raw", "rt"})) > 0


@pytest.mark.parametrize("written", [NFC, NFD])
@pytest.mark.parametrize("typed", [NFC, NFD])
def test_words_of_settings_are_found_in_both_unicode_forms(
    tmp_path: Path, written: str, typed: str
) -> None:
    photos = layouts.voc(tmp_path / "voc")
    xml = photos / "Annotations" / "p0.xml"
    xml.write_text(layouts.voc_xml("p0.jpg", written), encoding="utf-8")
    config = FolderConfig(path=str(photos), annotations=Format.voc, labels={typed: "normal"})
    assert {photo.name: photo.answer for photo in config.photos()}["JPEGImages/p0.jpg"] == "normal"

    (photos / "l.csv").write_text(f"{written},label\nJPEGImages/p0.jpg,normal\n", encoding="utf-8")
    config = FolderConfig(path=str(photos), table="l.csv", columns={"image": typed})
    assert [photo.name for photo in config._photos_of_table(photos)] == ["JPEGImages/p0.jpg"]


@pytest.mark.parametrize("name", ["labels", "folders", "columns"])
def test_one_word_with_two_meanings_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"source.{name} maps .* in another Unicode form"):
        FolderConfig(path=str(tmp_path), **{name: {NFC: "normal", NFD: "abnormal"}})


@pytest.mark.parametrize("query", [NFC, NFD])
@pytest.mark.parametrize("reference", [NFC, NFD])
def test_a_reference_is_found_by_its_name_in_both_forms(
    tmp_path: Path, query: str, reference: str
) -> None:
    for folder, name in (("q", query), ("r", reference)):
        (tmp_path / folder).mkdir()
        image(len(name)).save(tmp_path / folder / f"{name}.png")
    settings = PredictConfig(
        folder=str(tmp_path / "q"), reference=str(tmp_path / "r"), pairing=Pairing.name
    )
    (record,) = _read_folder(settings)
    assert [each.path.stem for each in record.images] == [reference, query]

    image(9).save(tmp_path / "r" / f"{NFC}.bmp")
    with pytest.raises(UserError, match="have one name; remove one of them"):
        _read_folder(settings)


@pytest.mark.parametrize("written", [NFC, NFD])
def test_a_manifest_finds_its_images_in_both_unicode_forms(tmp_path: Path, written: str) -> None:
    def respell(path: str, number: int) -> str:
        return path.replace("img", written)

    path = leaky(tmp_path / "data", respell)
    (path.parent / "img").rename(path.parent / NFD)

    records = open_manifest(path)
    assert all(each.path.is_file() for record in records for each in record.images)
    names = {records.image_name(each.path) for record in records for each in record.images}
    assert all(name.startswith(f"{NFC}/") for name in names)


def test_two_files_that_differ_only_in_their_unicode_form_are_refused(tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos")
    for name in (NFC, NFD):
        image(len(name)).save(photos / "good" / f"{name}.png")

    with pytest.raises(UserError, match="differ only in their Unicode form") as raised:
        FolderConfig(path=str(photos)).photos()
    assert "\\u" in str(raised.value)
    with pytest.raises(UserError, match="differ only in their Unicode form"):
        find_path(photos / "good", f"{NFC}.png")


def test_a_row_that_names_one_of_two_such_files_is_refused_by_line(tmp_path: Path) -> None:
    path = leaky(tmp_path / "data", RESPELL["plain"])
    for name in (NFC, NFD):
        image(len(name)).save(path.parent / "img" / f"{name}.png")
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[1] = lines[1].replace("img/0-1.png", f"img/{NFC}.png")
    path.write_text("\n".join(lines), encoding="utf-8")

    records = open_manifest(path)
    with pytest.raises(UserError, match=r"mine\.jsonl:2: .*differ only in their Unicode form"):
        list(records)


def test_photos_that_differ_in_capital_letters_stay_apart(tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos")
    for number, name in enumerate(("Case.png", "case.png")):
        image(500 + number).save(photos / "good" / name)
    config = FolderConfig(path=str(photos), pairs=PairsConfig(lots=3))
    names = {photo.name for photo in config.photos()}
    assert {"good/Case.png", "good/case.png"} <= names


def test_a_copy_never_replaces_another_copy(tmp_path: Path) -> None:
    from vlmbench.data.photos.photo import copy_image

    (tmp_path / "a").mkdir()
    for name in ("x.png", "y.png"):
        image(len(name)).save(tmp_path / "a" / name)
    target = tmp_path / "b"
    copy_image("p.png", tmp_path / "a" / "x.png", root=tmp_path / "a", folder=target)
    with pytest.raises(UserError, match="rename one of them"):
        copy_image("p.png", tmp_path / "a" / "y.png", root=tmp_path / "a", folder=target)


@pytest.mark.parametrize("word", [f"不良{GA}", unicodedata.normalize("NFD", f"不良{GA}"), " ng "])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_label_is_found_in_both_unicode_forms(word: str, form: Any) -> None:
    labels = {unicodedata.normalize(form, f"不良{GA}"): "abnormal", "ng": "abnormal"}
    assert label_of(word, labels) == "abnormal"


def test_rows_name_one_image_in_many_spellings(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    image(1).save(tmp_path / "img" / "a.png")
    rows = [
        {
            "id": str(number),
            "image": spelling,
            "conversations": [
                {"from": "human", "value": "<image>\nGood?"},
                {"from": "gpt", "value": "normal"},
            ],
        }
        for number, spelling in enumerate(SPELLINGS.values())
        if not spelling.endswith(("/", "."))
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    records = open_manifest(
        LlavaConfig(path=str(tmp_path / "rows.json")).prepare(tmp_path / "data")
    )

    assert {record.group for record in records} == {"img/a.png"}
    assert len({record.images[0].path for record in records}) == 1


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="a./é\u0301ガ\u3099 b", max_size=12))
def test_the_normal_form_of_a_normal_form_is_itself(text: str) -> None:
    for normal in (normal_path, normal_name):
        once = normal(text)
        assert normal(once) == once
        assert normal(unicodedata.normalize("NFD", text)) == once


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(alphabet="aéガ①ｶﾞ", min_size=1, max_size=6))
def test_any_name_is_found_as_the_disk_spells_it(tmp_path: Path, name: str) -> None:
    folder = tmp_path / f"f{abs(hash(name))}"
    folder.mkdir(exist_ok=True)
    path = folder / unicodedata.normalize("NFD", name)
    path.write_bytes(b"x")

    assert find_path(folder, normal_path(name)).read_bytes() == b"x"


@pytest.mark.parametrize("name", ["part1_2.png", "part1 _2.png", " part1_2.png", "x/part1_3.png"])
def test_a_part_in_a_file_name_has_one_spelling(name: str) -> None:
    assert part_of(name, PartRule.name) == "part1"


@pytest.mark.parametrize("groups", [[None, None], [float("nan"), float("nan")], ["", " "]])
def test_rows_without_a_part_are_parts_of_their_own(tmp_path: Path, groups: list[Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vlmbench.data.sources.huggingface import HuggingFaceConfig

    photos = photos_in(tmp_path / "photos", 16, 8)
    paths = sorted(photos.rglob("*.png"))
    (tmp_path / "hf").mkdir()
    columns = {
        "image": [path.read_bytes() for path in paths],
        "label": ["normal" if path.parent.name == "good" else "abnormal" for path in paths],
        "part": groups * 12,
    }
    pq.write_table(pa.table(columns), tmp_path / "hf" / "train.parquet")
    config = HuggingFaceConfig(path=str(tmp_path / "hf"), group="part", pairs=PairsConfig(lots=3))
    records = open_manifest(config.prepare(tmp_path / "data"), views={"raw", "rt"})
    assert len({record.group for record in records}) == 3  # one part would make one lot
