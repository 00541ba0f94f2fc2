"""Data sets in the layouts of MVTec AD, LOCO, AD 2 and VisA."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import image
from tests.helpers.mvtec import mvtec, save, save_mask
from vlmbench.data.images import open_image, open_mask, turn_upright
from vlmbench.data.manifest import open_manifest
from vlmbench.data.sources.mvtec import MvtecConfig
from vlmbench.types import UserError


def answers(config: MvtecConfig) -> dict[str, str]:
    return {photo.name: photo.answer for photo in config.photos()}


def test_folders_and_masks_become_labels_and_words(tmp_path: Path) -> None:
    answer_of = answers(MvtecConfig(path=str(mvtec(tmp_path))))
    assert len(answer_of) == 24
    assert answer_of["bolt/train/good/000.png"] == answer_of["bolt/test/good/003.png"] == "normal"
    assert answer_of["bolt/test/scratch_big/002.png"] == "abnormal: scratch big, upper left"
    assert answer_of["bolt/test/dent/000.png"] == "abnormal: dent"


def test_the_folder_of_one_category_is_read_and_regions_can_be_left_out(tmp_path: Path) -> None:
    answer_of = answers(MvtecConfig(path=str(mvtec(tmp_path) / "bolt"), regions=False))
    assert answer_of["test/scratch_big/002.png"] == "abnormal: scratch big"


def test_pairs_stay_within_a_category(tmp_path: Path) -> None:
    mvtec(mvtec(tmp_path / "tree"), "nut", 5000)
    manifest = open_manifest(
        MvtecConfig(path=str(tmp_path / "tree")).prepare(tmp_path / "data"), views={"raw", "rt"}
    )
    for record in manifest:
        paths = [image.path.relative_to(manifest.folder) for image in record.images]
        assert len({path.parts[1] for path in paths}) == 1
    assert {record.meta["category"] for record in manifest} == {"bolt", "nut"}
    expected = {"defect": "scratch big", "region": "upper left", "category": "nut"}
    assert any(dict(record.meta) == expected for record in manifest)


def test_a_category_is_chosen_by_name(tmp_path: Path) -> None:
    mvtec(mvtec(tmp_path), "nut", 5000)
    names = answers(MvtecConfig(path=str(tmp_path), categories=["nut"]))
    assert all(name.startswith("nut/") for name in names)

    with pytest.raises(UserError, match=r"'screw' is not one of bolt, nut; .*=\[bolt\]"):
        MvtecConfig(path=str(tmp_path), categories=["screw"]).photos()


def test_the_masks_of_loco_s_folders_are_united(tmp_path: Path) -> None:
    mvtec(tmp_path)
    for number, rows in enumerate((slice(0, 9), slice(50, 59))):
        save_mask(
            tmp_path / "bolt/ground_truth/dent/000" / f"{number:03d}.png", rows, slice(50, 59)
        )
    answer_of = answers(MvtecConfig(path=str(tmp_path)))["bolt/test/dent/000.png"]
    assert answer_of == "abnormal: dent, upper right"  # half of it in each corner: the first


def test_ad_2_has_its_masks_in_the_test_folder(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "can/train/good" / f"{i}.png", i)
        save(tmp_path / "can/test_public/bad" / f"{i}.png", 100 + i)
    save_mask(tmp_path / "can/test_public/ground_truth/bad/0_mask.png", slice(50, 59), slice(0, 9))
    answer_of = answers(MvtecConfig(path=str(tmp_path)))
    assert answer_of["can/test_public/bad/0.png"] == "abnormal: bad, lower left"
    assert len(answer_of) == 8


def test_visa_is_read_as_published(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "candle/Data/Images/Normal" / f"{i:04d}.JPG", i)
        save(tmp_path / "candle/Data/Images/Anomaly" / f"{i:03d}.JPG", 100 + i)
    save_mask(tmp_path / "candle/Data/Masks/Anomaly/000.png", slice(25, 34), slice(25, 34))
    lines = [
        "image,label,mask",
        'candle/Data/Images/Anomaly/000.JPG,"chunk,scratch",candle/Data/Masks/Anomaly/000.png',
    ]
    (tmp_path / "candle/image_anno.csv").write_text("\n".join(lines))
    answer_of = answers(MvtecConfig(path=str(tmp_path)))
    assert answer_of["candle/Data/Images/Normal/0000.JPG"] == "normal"
    assert answer_of["candle/Data/Images/Anomaly/000.JPG"] == "abnormal: chunk and scratch, centre"
    assert answer_of["candle/Data/Images/Anomaly/001.JPG"] == "abnormal: defect"


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    mvtec(tmp_path)
    save_mask(
        tmp_path / "bolt/ground_truth/scratch_big/000_mask.png", slice(0, 9), slice(0, 9), (30, 20)
    )
    with pytest.raises(
        UserError,
        match=r"000_mask.png: the mask has 30 x 20 pixels, its photo has 60 x 60.*regions=false",
    ):
        MvtecConfig(path=str(tmp_path)).photos()


def turn(path: Path, orientation: int, size: tuple[int, int]) -> None:
    """Save a photo with the stored size `size` and this EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image(1, size).save(path, exif=exif)


# The EXIF orientation, and the corner in which the upright photo shows the stored upper left one.
CORNERS = {
    1: "upper left",
    2: "upper right",
    3: "lower right",
    4: "lower left",
    5: "upper left",
    6: "upper right",
    7: "lower right",
    8: "lower left",
}


@pytest.mark.parametrize(("orientation", "corner"), CORNERS.items())
@pytest.mark.parametrize("size", [(60, 30), (60, 60)])
def test_a_mask_of_the_stored_pixels_is_turned_with_its_photo(
    tmp_path: Path, orientation: int, corner: str, size: tuple[int, int]
) -> None:
    mvtec(tmp_path)
    photo = tmp_path / "bolt/test/scratch_big/000.png"
    turn(photo, orientation, size)
    save_mask(
        tmp_path / "bolt/ground_truth/scratch_big/000_mask.png", slice(0, 9), slice(0, 9), size
    )
    words = answers(MvtecConfig(path=str(tmp_path)))["bolt/test/scratch_big/000.png"]
    assert words == f"abnormal: scratch big, {corner}"
    shown = turn_upright(open_mask(tmp_path / "bolt/ground_truth/scratch_big/000_mask.png"), photo)
    assert shown.shape == open_image(photo).size[::-1]


def test_a_mask_of_the_upright_photo_is_not_turned(tmp_path: Path) -> None:
    mvtec(tmp_path)
    turn(tmp_path / "bolt/test/scratch_big/000.png", 6, (60, 30))
    save_mask(
        tmp_path / "bolt/ground_truth/scratch_big/000_mask.png", slice(0, 9), slice(0, 9), (30, 60)
    )
    assert answers(MvtecConfig(path=str(tmp_path)))["bolt/test/scratch_big/000.png"].endswith(
        "upper left"
    )


def test_a_mask_that_fits_a_turned_photo_neither_way_is_refused(tmp_path: Path) -> None:
    mvtec(tmp_path)
    turn(tmp_path / "bolt/test/scratch_big/000.png", 6, (60, 30))
    message = (
        r"000_mask.png: the mask has 60 x 60 pixels, its photo has 60 x 30 \(30 x 60 upright\); "
        "replace the mask"
    )
    with pytest.raises(UserError, match=message):
        MvtecConfig(path=str(tmp_path)).photos()


def test_a_mask_outside_the_folder_is_refused(tmp_path: Path) -> None:
    mvtec(tmp_path / "tree")
    link = tmp_path / "tree/bolt/ground_truth/scratch_big/000_mask.png"
    link.rename(tmp_path / "secret.png")
    link.symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="leads out of the folder"):
        MvtecConfig(path=str(tmp_path / "tree")).photos()


def test_a_category_that_is_linked_from_elsewhere_is_refused(tmp_path: Path) -> None:
    mvtec(tmp_path / "elsewhere")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/bolt").symlink_to(tmp_path / "elsewhere/bolt")
    with pytest.raises(UserError, match="leads out of the folder"):
        MvtecConfig(path=str(tmp_path / "tree")).prepare(tmp_path / "data")


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_folder_without_categories_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"the folder does not exist|the folder has no category"):
        MvtecConfig(path=str(tmp_path / name)).photos()
