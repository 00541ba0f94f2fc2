import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from scipy.stats import mannwhitneyu

from vlmbench.data.generated.blemishes import KINDS, add_blemish
from vlmbench.data.sources.surfaces import MARGIN, PHOTO_SIZE, SurfacesConfig, cut_blocks
from vlmbench.types import UserError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return SurfacesConfig().prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def rows(manifest):
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def block_of(path):
    return path.removeprefix("img/").rsplit("-", 1)[0]


def test_there_are_48_blocks_and_no_pixel_is_in_two():
    squares = {}
    for block in cut_blocks(4):
        # Blocks have 512 / 4 = 128 pixels, less 4 along each edge.
        assert block.pixels.shape == (120, 120)
        top, left = (index * PHOTO_SIZE // 4 + MARGIN for index in (block.row, block.column))
        squares.setdefault(block.photo, []).append((top, left))
    assert sum(len(corners) for corners in squares.values()) == 48
    for corners in squares.values():
        assert all(
            max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= 120 + 2 * MARGIN
            for a, b in combinations(corners, 2)
        )


def test_a_block_s_name_gives_its_position():
    first, second = (
        next(block for block in cut_blocks(4) if block.name == name)
        for name in ("brick-r0-c1", "brick-r1-c1")
    )
    # Pixels 4 to 251 of the photo.
    half = next(block for block in cut_blocks(2) if block.name == "brick-r0-c0")
    # Rows 4 to 123 and columns 132 to 251 of the photo: rows 0 to 119 and columns 128 to 247.
    assert (first.pixels == half.pixels[:120, 128:]).all()
    assert (second.pixels == half.pixels[128:, 128:]).all()


def test_every_task_and_view_has_both_labels_equally_often(rows):
    counts = Counter(
        (row["task"], tuple(image["view"] for image in row["images"]), row["label"]) for row in rows
    )
    tasks = Counter(task for task, _, _ in counts)
    assert tasks == {"judge_pair": 4, "judge_single": 4, "judge_link": 2, "compare_views": 2}
    # 48 blocks have 10 queries each, half are abnormal. Other tasks have one record of each label.
    assert all(
        count == (240 if task == "judge_pair" else 48) for (task, _, _), count in counts.items()
    )


def test_every_kind_of_defect_is_planted_equally_often(rows):
    raw = [row for row in rows if row["id"].split("-")[3:5] == ["pair", "raw"]]
    assert Counter(row["meta"]["defect"] for row in raw) == {
        "none": 240,
        **dict.fromkeys(KINDS, 60),
    }


def test_records_with_two_blocks_stay_within_lots_of_two_different_photos(rows):
    partners = {}
    for row in rows:
        shown = {block_of(image["path"]) for image in row["images"]}
        if len(shown) == 2:
            first, second = shown
            assert first.split("-")[0] != second.split("-")[0]
            partners.setdefault(first, set()).add(second)
            partners.setdefault(second, set()).add(first)
        else:
            assert shown == {row["group"]}
    assert len(partners) == 48
    assert all(len(names) == 1 for names in partners.values())


def test_nothing_but_the_defect_tells_the_label(rows, manifest):
    """Test that the patches' borders, which have no defect, do not depend on the label.

    There are 240 images of each label. The bound of p is the one of test_parts.
    """
    queries = {
        row["images"][1]["path"]: row["label"] for row in rows if row["task"] == "judge_pair"
    }
    features = {"normal": [], "abnormal": []}
    for path, label in queries.items():
        pixels = np.asarray(Image.open(manifest.parent / path).convert("L"), float)
        border = np.concatenate([pixels[:4].ravel(), pixels[-4:].ravel()])
        features[label].append([border.mean(), border.std()])
    assert (mannwhitneyu(features["normal"], features["abnormal"], axis=0).pvalue > 0.001).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_defect_shows_and_leaves_most_of_the_patch_alone(kind):
    for number, block in enumerate(cut_blocks(4)):
        patch = block.pixels[:96, :96]
        changed = np.abs(add_blemish(kind, patch, np.random.default_rng(number))[0] - patch) > 15
        assert 15 <= changed.sum() <= 0.4 * patch.size, (block.name, changed.sum())


def test_the_same_configuration_gives_the_same_bytes(tmp_path):
    config = SurfacesConfig(grid=2, queries_per_block=2)
    first, second = (files_in(config.prepare(tmp_path / name).parent) for name in ("a", "b"))
    assert len(first) == 3 * 4 * 3 + 1
    assert first == second


def test_an_odd_grid_is_refused():
    with pytest.raises(UserError, match=r"source\.grid must be even, got 5") as raised:
        SurfacesConfig(grid=5)
    cure = str(raised.value).rpartition("source.grid=")[2]
    assert SurfacesConfig(grid=int(cure)).grid == 4
