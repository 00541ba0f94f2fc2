import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from scipy.stats import mannwhitneyu

from vlmbench.data.blemishes import KINDS, blemish
from vlmbench.data.sources.surfaces import MARGIN, SIDE, SurfacesConfig, blocks
from vlmbench.types import UserError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return SurfacesConfig().prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def rows(manifest):
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


def block_of(path):
    return path.removeprefix("img/").rsplit("-", 1)[0]


def test_there_are_48_blocks_and_no_pixel_is_in_two():
    squares = {}
    for block in blocks(4):
        # Blocks of 512 / 4 = 128 pixels, less 4 along each edge.
        assert block.pixels.shape == (120, 120)
        top, left = (place * SIDE // 4 + MARGIN for place in (block.row, block.column))
        squares.setdefault(block.photo, []).append((top, left))
    assert sum(len(places) for places in squares.values()) == 48
    for places in squares.values():
        assert all(max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= 120 + 2 * MARGIN for a, b in combinations(places, 2))


def test_blocks_are_cut_from_where_their_names_say():
    first, second = (next(b for b in blocks(4) if b.name == name) for name in ("brick-r0-c1", "brick-r1-c1"))
    half = next(b for b in blocks(2) if b.name == "brick-r0-c0")  # pixels 4 to 251 of the photo
    # Photo rows 4 to 123, columns 132 to 251: rows 0 to 119 and columns 128 to 247 of the half.
    assert (first.pixels == half.pixels[:120, 128:]).all()
    assert (second.pixels == half.pixels[128:, 128:]).all()


def test_every_task_and_view_has_both_labels_equally_often(rows):
    counts = Counter((row["task"], tuple(image["view"] for image in row["images"]), row["label"]) for row in rows)
    tasks = Counter(task for task, _, _ in counts)
    assert tasks == {"judge_pair": 4, "judge_single": 4, "judge_link": 2, "compare_views": 2}
    # 48 blocks with 10 queries, half of them abnormal; one record of each label for the rest.
    assert all(count == (240 if task == "judge_pair" else 48) for (task, _, _), count in counts.items())


def test_every_kind_of_defect_is_planted_equally_often(rows):
    raw = [row for row in rows if row["id"].split("-")[3:5] == ["pair", "raw"]]
    assert Counter(row["meta"]["defect"] for row in raw) == {"none": 240, **dict.fromkeys(KINDS, 60)}


def test_records_with_two_blocks_stay_within_lots_of_two_different_photos(rows):
    partners = {}
    for row in rows:
        shown = {block_of(image["path"]) for image in row["images"]}
        if len(shown) == 2:
            one, other = shown
            assert one.split("-")[0] != other.split("-")[0]
            partners.setdefault(one, set()).add(other)
            partners.setdefault(other, set()).add(one)
        else:
            assert shown == {row["group"]}
    assert len(partners) == 48
    assert all(len(names) == 1 for names in partners.values())


def test_nothing_but_the_defect_tells_the_label(rows, manifest):
    """The patches' borders, where no defect lies, come from one distribution: 240 of each label, p as for parts."""
    queries = {row["images"][1]["path"]: row["label"] for row in rows if row["task"] == "judge_pair"}
    features = {"normal": [], "abnormal": []}
    for path, label in queries.items():
        pixels = np.asarray(Image.open(manifest.parent / path).convert("L"), float)
        border = np.concatenate([pixels[:4].ravel(), pixels[-4:].ravel()])
        features[label].append([border.mean(), border.std()])
    assert (mannwhitneyu(features["normal"], features["abnormal"], axis=0).pvalue > 0.001).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_defect_shows_and_leaves_most_of_the_patch_alone(kind):
    for number, block in enumerate(blocks(4)):
        patch = block.pixels[:96, :96]
        changed = np.abs(blemish(kind, patch, np.random.default_rng(number))[0] - patch) > 15
        assert 15 <= changed.sum() <= 0.4 * patch.size, (block.name, changed.sum())


def test_the_same_configuration_gives_the_same_bytes(tmp_path):
    config = SurfacesConfig(grid=2, queries_per_block=2)
    one, other = (config.prepare(tmp_path / name) for name in ("a", "b"))
    files = sorted(path.relative_to(one.parent) for path in one.parent.rglob("*") if path.is_file())
    assert len(files) == 3 * 4 * 3 + 1
    assert all((one.parent / path).read_bytes() == (other.parent / path).read_bytes() for path in files)


def test_an_odd_grid_is_refused():
    with pytest.raises(UserError, match=r"source\.grid=5"):
        SurfacesConfig(grid=5)
