"""MMAD's and RobustMAD's files become multiple choices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import image
from vlmbench.data.manifest import open_manifest
from vlmbench.data.prepared import read_invalid_rows
from vlmbench.data.rows.source import InvalidRowPolicy
from vlmbench.data.sources.mmad import MmadConfig, Template
from vlmbench.data.sources.robustmad import RobustMadConfig
from vlmbench.types import Role, Task, UserError

BROKEN = "DS-MVTec/bottle/image/broken_large/000.png"
GOOD = ("MVTec-AD/bottle/train/good/000.png", "MVTec-AD/bottle/train/good/001.png")


def make_question(
    answer: str = "A", kind: str = "Anomaly Detection", **changes: Any
) -> dict[str, Any]:
    options = {"A": "Yes.", "B": "No."}
    return {
        "Question": "Is there any defect?",
        "Answer": answer,
        "Options": options,
        "type": kind,
    } | changes


def mmad(folder: Path, questions: list[Any], **changes: Any) -> Path:
    for number, name in enumerate((BROKEN, *GOOD)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image(number).save(folder / name)
    row = {
        "image_path": "image/broken_large/000.png",
        "conversation": questions,
        "random_templates": [GOOD[0]],
        "similar_templates": [GOOD[1]],
    }
    (folder / "mmad.json").write_text(json.dumps({BROKEN: row | changes}))
    return folder


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        (Template.none, (BROKEN,)),
        (Template.random, (GOOD[0], BROKEN)),
        (Template.similar, (GOOD[1], BROKEN)),
    ],
)
def test_a_question_becomes_a_choice_beside_its_template(
    tmp_path: Path, template: Template, shown: tuple
) -> None:
    localization = make_question(
        "C",
        "Defect Localization",
        Options={"A": "Top.", "B": "Left.", "C": "Centre."},
        annotation=True,
    )
    config = MmadConfig(
        path=str(mmad(tmp_path / "m", [make_question(), localization])), template=template
    )
    manifest = open_manifest(config.prepare(tmp_path / "data"))
    first, second = manifest
    assert (first.task, first.label, first.question) == (
        Task.CHOOSE_OPTION,
        "A",
        "Is there any defect?",
    )
    assert (second.label, dict(second.options)["C"], second.group) == ("C", "Centre.", BROKEN)
    assert dict(second.meta) == {
        "type": "Defect Localization",
        "dataset": "DS-MVTec",
        "category": "bottle",
    }
    assert (
        tuple(str(image.path.relative_to(manifest.folder / "img")) for image in first.images)
        == shown
    )
    assert first.images[-1].role is Role.QUERY


@pytest.mark.parametrize(
    ("questions", "changes", "reason"),
    [
        ([make_question("Z")], {}, "label 'Z' is not one of A, B"),
        ([make_question(Options={"A": "Yes."})], {}, "at least two options"),
        ([make_question(Options=["Yes.", "No."])], {}, "Expected `object`"),
        ([{"Question": "?"}], {}, "missing required field"),
        (
            [make_question()],
            {"random_templates": []},
            "source.template=random: the row has no random_templates; set source.template=none",
        ),
        ([make_question()], {"random_templates": ["../../etc/passwd"]}, "leaves the data's folder"),
        ([make_question()], {"random_templates": ["gone.png"]}, "the image does not exist"),
    ],
)
def test_an_invalid_question_is_named_or_counted(
    tmp_path: Path, questions: list, changes: dict, reason: str
) -> None:
    folder = mmad(tmp_path / "m", questions, **changes)
    with pytest.raises(UserError) as raised:
        MmadConfig(path=str(folder)).prepare(tmp_path / "data")
    assert f"{folder / 'mmad.json'}: '{BROKEN}'" in str(raised.value)
    assert reason in str(raised.value)
    if not changes:
        rows = json.loads((folder / "mmad.json").read_text())
        rows[BROKEN]["conversation"].append(make_question())
        (folder / "mmad.json").write_text(json.dumps(rows))
        manifest = MmadConfig(path=str(folder), invalid_rows=InvalidRowPolicy.skip).prepare(
            tmp_path / "data"
        )
        assert len(open_manifest(manifest)) == 1
        left_out = read_invalid_rows(manifest)
        assert left_out is not None
        assert (left_out.count, left_out.total) == (1, 2)


def robustmad(folder: Path, *questions: dict[str, Any], **changes: Any) -> Path:
    names = ("MVTec-AD/bottle/test/good/014.png", "MVTec-AD/bottle/test/good/005.png")
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image(number).save(folder / name)
    row = {
        "dataset": "MVTec-AD",
        "category": "bottle",
        "image_path": names[0],
        "reference_image_path": names[1],
        "specie_name": "broken_large",
        "anomaly": 1,
        "questions": list(questions),
    }
    (folder / "RobustMAD_MCQ.json").write_text(json.dumps({"images": [row | changes]}))
    return folder


def robust(category: str, answer: str = "E") -> dict[str, Any]:
    return {
        "question_id": 7,
        "robustness_category": category,
        "question_type": "MCQ",
        "question": "What is it?",
        "options": {letter: f"a {letter}" for letter in "ABCDE"},
        "answer": answer,
    }


def test_pairwise_questions_show_the_reference_first(tmp_path: Path) -> None:
    pairwise = "Anomaly Understanding and Localization (Pair-wise comparison)"
    folder = robustmad(tmp_path / "r", robust("General Object Understanding"), robust(pairwise))
    single, pair = open_manifest(RobustMadConfig(path=str(folder)).prepare(tmp_path / "data"))
    assert [image.path.name for image in single.images] == ["014.png"]
    assert [image.path.name for image in pair.images] == ["005.png", "014.png"]
    assert pair.labels == ("A", "B", "C", "D", "E")
    assert dict(pair.meta)["type"] == pairwise
    assert dict(pair.meta)["defect"] == "broken large"


def test_open_questions_and_missing_references_are_invalid(tmp_path: Path) -> None:
    folder = robustmad(tmp_path / "r", {"question": "Describe it.", "answer": "A bottle."})
    with pytest.raises(
        UserError, match=r"image 1, question 1: Object missing required field `options`"
    ):
        RobustMadConfig(path=str(folder)).prepare(tmp_path / "data")
    robustmad(tmp_path / "r", robust("Pair-wise"), reference_image_path=None)
    with pytest.raises(UserError, match="has no reference_image_path"):
        RobustMadConfig(path=str(folder)).prepare(tmp_path / "data")


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "images",
                    "conversation",
                    "questions",
                    "image_path",
                    "Options",
                    "options",
                    "x/y.png",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=JSON, kind=st.sampled_from([MmadConfig, RobustMadConfig]))
def test_any_file_is_refused_by_name_or_skipped(tmp_path: Path, content: Any, kind: type) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"rows.json"):  # the images do not exist
        kind(path=str(path), invalid_rows=InvalidRowPolicy.skip).prepare(tmp_path / "data")
