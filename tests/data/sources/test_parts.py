import json
from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image
from scipy.stats import mannwhitneyu

from vlmbench.data.generated.defects import KINDS
from vlmbench.data.sources.parts import PartsConfig, design_part
from vlmbench.types import UserError

NUM_PARTS = 24
PER_PART = {
    "judge_pair": 8,
    "judge_single": 4,
    "judge_link": 2,
    "compare_views": 2,
    "compare_shapes": 2,
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return PartsConfig(num_parts=NUM_PARTS, size=64).prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def rows(manifest):
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


def part_number(path):
    return int(path.split("/p")[1][:3])


def lot_of(path):
    return part_number(path) // 4


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_task_and_view_has_both_labels_equally_often(rows):
    counts = Counter(
        (row["task"], tuple(image["view"] for image in row["images"]), row["label"]) for row in rows
    )
    for (task, views, _), count in counts.items():
        # judge_pair and judge_single have two views, other tasks have one combination of views.
        kinds = 4 if task in ("judge_pair", "judge_single") else 2
        assert count == NUM_PARTS * PER_PART[task] // kinds, (task, views)
    assert Counter(row["task"] for row in rows) == {
        task: NUM_PARTS * each for task, each in PER_PART.items()
    }


def test_every_kind_of_defect_is_planted_equally_often(rows):
    kinds = Counter(row["meta"]["defect"] for row in rows if row["task"] == "judge_pair")
    # 24 parts have 2 abnormal images each, raw and processed: 96 records of 4 kinds. 96 are normal.
    assert kinds == {"none": 96, **dict.fromkeys(KINDS, 24)}


def test_ids_are_unique_and_answers_start_with_their_label(rows):
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(row["answer"].split(":")[0] == row["label"] for row in rows)


def test_answers_come_from_a_short_fixed_list(rows):
    assert {row["answer"] for row in rows} == {
        "normal",
        "abnormal: a scratch",
        "abnormal: a dent",
        "abnormal: a chip",
        "abnormal: the hole is missing",
        "abnormal: there should be no hole",
        "abnormal: the hole is off centre",
        "same_part: one part",
        "different_part: another shape",
        "different_part: only one has a hole",
        "same_shape: both are prisms",
        "same_shape: both are cylinders",
        "different_shape: a prism and a cylinder",
        "different_shape: a cylinder and a prism",
    }


def test_records_show_parts_of_one_lot_only(rows):
    assert all(len({lot_of(image["path"]) for image in row["images"]}) == 1 for row in rows)


def test_the_reference_comes_first_and_is_never_abnormal(rows):
    for row in rows:
        assert [image["role"] for image in row["images"]] == ["reference", "query"][
            -len(row["images"]) :
        ]
        assert all(
            "-ref" in image["path"] for image in row["images"] if image["role"] == "reference"
        )


def test_hashes_are_those_of_the_files(rows, manifest):
    for image in {image["path"]: image for row in rows for image in row["images"]}.values():
        assert image["sha256"] == sha256((manifest.parent / image["path"]).read_bytes()).hexdigest()


def test_neither_image_of_a_comparison_gives_the_label_away(rows):
    for task in ("compare_views", "compare_shapes"):
        records = [row for row in rows if row["task"] == task]
        for position in (0, 1):
            # Each of the lot's four designs is shown here equally often with both labels.
            designs = Counter(
                (part_number(row["images"][position]["path"]) % 4, row["label"]) for row in records
            )
            assert set(designs.values()) == {NUM_PARTS // 4}, (task, position)


def test_a_single_image_has_a_defect_that_shows_without_the_reference(rows):
    answers = {row["answer"] for row in rows if row["task"] == "judge_single"}
    assert not answers & {"abnormal: the hole is missing", "abnormal: there should be no hole"}


def test_a_plain_top_is_normal_for_half_the_designs():
    designs = Counter(
        (design_part(0, number).shape, design_part(0, number).hole is not None)
        for number in range(40)
    )
    assert designs == dict.fromkeys(
        [("prism", True), ("prism", False), ("cylinder", True), ("cylinder", False)], 10
    )


def test_nothing_but_the_defect_tells_the_label(rows, manifest):
    """Test that brightness, contrast, border and file size do not depend on the label.

    There are 48 images of each label. At p < 0.001 each of the four tests fails in one of a
    thousand data sets by chance. This data set is always the same.
    """
    queries = {
        row["images"][1]["path"]: row["label"] for row in rows if row["task"] == "judge_pair"
    }
    features = {"normal": [], "abnormal": []}
    for path, label in queries.items():
        pixels = np.asarray(Image.open(manifest.parent / path).convert("L"), float)
        border = np.r_[pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
        size = (manifest.parent / path).stat().st_size
        features[label].append([pixels.mean(), pixels.std(), border.mean(), size])
    assert [len(values) for values in features.values()] == [48, 48]
    result = mannwhitneyu(features["normal"], features["abnormal"], axis=0)
    assert (result.pvalue > 0.001).all(), result.pvalue


def test_pose_and_light_do_not_know_the_label(tmp_path, monkeypatch):
    """Test that an image's scene does not depend on whether it has a defect."""
    scenes = []

    def remember(part, scene, size):
        scenes.append(scene)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("vlmbench.data.sources.parts.render", remember)
    for number, rate in enumerate((0.25, 0.75)):
        PartsConfig(num_parts=4, abnormal_rate=rate).prepare(tmp_path / str(number))
    # 4 parts of 5 images: the same 20 scenes with another share of abnormal images.
    assert len(scenes) == 40
    assert scenes[:20] == scenes[20:]


def test_the_same_configuration_gives_the_same_bytes(tmp_path):
    config = PartsConfig(num_parts=4, size=64)
    first, second = (files_in(config.prepare(tmp_path / name).parent) for name in ("a", "b"))
    assert len(first) == 4 * 5 + 1
    assert first == second


def test_the_cure_for_a_wrong_number_of_parts_is_accepted():
    with pytest.raises(UserError) as raised:
        PartsConfig(num_parts=10)
    cure = str(raised.value).rpartition("source.num_parts=")[2]
    assert PartsConfig(num_parts=int(cure)).num_parts == 8


def test_another_seed_gives_other_parts():
    assert design_part(0, 0) != design_part(1, 0)


def test_without_a_processed_view_every_record_is_raw(tmp_path):
    manifest = PartsConfig(num_parts=4, size=64, processed_view="raw").prepare(tmp_path)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert {image["view"] for row in rows for image in row["images"]} == {"raw"}
    assert Counter(row["task"] for row in rows) == {
        "judge_pair": 16,
        "judge_single": 8,
        "compare_shapes": 8,
    }
    assert len({row["id"] for row in rows}) == 32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_parts": 10}, "must be a multiple of 4, got 10; set source.num_parts=8"),
        ({"num_parts": 0}, r"source\.num_parts must be at least 4, got 0"),
        ({"abnormal_rate": 1.5}, r"source\.abnormal_rate must be between 0 and 1, got 1.5"),
        ({"queries_per_part": 1}, r"source\.queries_per_part must be at least 2, got 1"),
    ],
)
def test_invalid_settings_are_refused_by_name(fields, message):
    with pytest.raises(UserError, match=message):
        PartsConfig(**fields)
