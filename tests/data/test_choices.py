"""Multiple choices: their rows, their words, their answers and their figures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ManifestBuilder
from vlmbench.config import EvalConfig, ScoreMethod
from vlmbench.data.manifest import open_manifest
from vlmbench.data.prepared import write_manifest
from vlmbench.data.prompts import Wording
from vlmbench.data.variants.choices import ChoicesConfig
from vlmbench.metrics import accuracy, auroc, calibration, errors, option_types
from vlmbench.pipeline.answer import Asker
from vlmbench.types import ImageRef, Prediction, Record, Role, Sample, Task, UserError

WORDING = Wording(
    questions=dict.fromkeys(Task, "Letter?"), labels={"normal": "fine"}, phrases={"yes": "ja"}
)
YES_NO = {"A": "Yes.", "B": "No."}
FOUR = {"A": "A jagged break.", "B": "A jagged break at the rim.", "C": "Centre", "D": "A"}


def choice(name: str, options: dict[str, str], label: str = "A") -> Record:
    image = ImageRef(path=Path("a"), role=Role.QUERY, view="raw")
    return Record(
        id=name,
        task=Task.CHOOSE_OPTION,
        images=(image,),
        answer=label,
        label=label,
        group=name,
        question="Is there a defect, yes or no?",
        options=options,
    )


def test_a_choice_shows_its_options_and_how_to_answer() -> None:
    record = choice("a", YES_NO)
    question = "Is there a defect, yes or no?\nA. Yes.\nB. No.\nLetter?"

    assert WORDING.question(record) == question
    assert WORDING.answer(record) == "A"
    assert record.labels == ("A", "B")
    assert WORDING.words_of(record) == {"A": "A", "B": "B"}


@pytest.mark.parametrize(
    ("text", "options", "letter"),
    [
        ("A", YES_NO, "A"),
        (" b.", YES_NO, "B"),
        ("(B) No.", YES_NO, "B"),
        ("B: No.", YES_NO, "B"),
        ("No, there is none", YES_NO, "B"),
        ("Yes", YES_NO, "A"),
        ("Nothing", YES_NO, None),
        ("A defect is visible", YES_NO, None),  # an article, not an option
        ("C", YES_NO, None),
        ("", YES_NO, None),
        ("The answer is A", YES_NO, None),
        ("A jagged break.", FOUR, "A"),
        ("A jagged break at the rim", FOUR, "B"),
        ("A jagged edge", FOUR, "D"),  # begins with the whole text of D
        ("C, centre", FOUR, "C"),
        ("same", {"A": "same", "B": "Same."}, None),
    ],
)
def test_an_answer_is_parsed_without_guessing(
    text: str, options: dict[str, str], letter: str | None
) -> None:
    assert WORDING.parse_option(text, options) == letter


@given(
    st.text(max_size=30),
    st.dictionaries(st.sampled_from("ABCDE"), st.text(min_size=1, max_size=12), max_size=5),
)
def test_any_answer_names_an_option_or_none(text: str, options: dict[str, str]) -> None:
    assert WORDING.parse_option(text, options) in {*options, None}


def row(manifest: ManifestBuilder) -> dict:
    """Turn the third row of a part, a single image, into a multiple choice and return it."""
    single = manifest.rows[2]
    single.update(
        task="choose_option",
        label="B",
        answer="B",
        question="Is there a defect?",
        options=dict(YES_NO),
    )
    return single


def test_a_choice_in_a_manifest_reads_back_the_same(manifest: ManifestBuilder) -> None:
    row(manifest)
    # The letter of an option is not one of the user's label words.
    records = list(open_manifest(manifest.write(), labels={"B": "normal"}))

    assert (records[2].label, dict(records[2].options)) == ("B", YES_NO)

    write_manifest(manifest.folder, records)

    assert list(open_manifest(manifest.folder / "manifest.jsonl")) == records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"A": "Yes."}}, "needs at least two options, the row has 1"),
        ({"options": {"A": "Yes.", "No": "No."}}, "option 'No' must be named by one letter"),
        (
            {"options": {"A": "Yes.", "B": " "}},
            "option B must have 1 to 4000 characters, not only spaces, and has 1",
        ),
        ({"label": "C", "answer": "C"}, "label 'C' is not one of A, B"),
        ({"question": ""}, "needs a question"),
        (
            {"task": "judge_single", "label": "normal", "answer": ""},
            "judge_single takes no options",
        ),
        ({"images": []}, "takes 1 or 2 images, the row has 0"),
    ],
)
def test_a_bad_choice_is_named(manifest: ManifestBuilder, change: dict, message: str) -> None:
    row(manifest).update(change)

    with pytest.raises(UserError) as raised:
        open_manifest(manifest.write())

    assert message in str(raised.value)
    assert f"{manifest.path}:3: " in str(raised.value)


class Lettered:
    """A model that scores the last label highest and generates the record's id."""

    model = torch.nn.Identity()

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], tuple[str, ...]]] = []

    def score(self, samples: list[Sample], labels: list[str]) -> torch.Tensor:
        ids = [sample.record.id for sample in samples]
        self.asked.append((ids, tuple(labels)))
        return torch.arange(len(labels), dtype=torch.float32).repeat(len(samples), 1)

    def generate(self, samples: list[Sample], *, max_new_tokens: int) -> list[str]:
        return [sample.record.id for sample in samples]


def _predict(records: list[Record], backbone: Lettered, settings: EvalConfig) -> list[Prediction]:
    viewer = SimpleNamespace(lazy_image=lambda image, of: None, path=lambda image: None)
    asker = Asker(
        backbone=backbone,
        viewer=viewer,
        wording=WORDING,
        settings=settings,
    )
    return asker.answer(records)


def test_choices_are_scored_by_their_own_letters() -> None:
    backbone = Lettered()
    records = [choice("1", FOUR), choice("2", YES_NO), choice("3", FOUR)]

    predictions = _predict(records, backbone, EvalConfig())

    assert backbone.asked == [(["2"], ("A", "B")), (["1", "3"], ("A", "B", "C", "D"))]
    assert [prediction.predicted for prediction in predictions] == ["D", "B", "D"]
    assert set(predictions[0].scores) == set("ABCD")
    assert predictions[0].positive_probability is None


def test_an_unparsable_choice_is_counted_and_wrong() -> None:
    records = [choice("A", YES_NO), choice("what?", YES_NO)]
    settings = EvalConfig(method=ScoreMethod.generate)

    predictions = _predict(records, Lettered(), settings)

    assert [prediction.predicted for prediction in predictions] == ["A", None]
    figures = accuracy.measure(predictions)
    assert figures["accuracy"].hits == (True, False)
    assert figures["unparsed"].hits == (False, True)
    assert "balanced_accuracy" not in figures
    for metric in (errors, auroc, calibration):
        assert metric.measure(predictions) == {}


def _answered(kind: str, predicted: str | None) -> Prediction:
    return Prediction(
        id=kind,
        task=Task.CHOOSE_OPTION,
        group="g",
        view="raw",
        expected="A",
        predicted=predicted,
        meta={"type": kind},
    )


def test_each_type_of_question_has_its_accuracy_and_counts_the_same_in_the_mean() -> None:
    locations = [_answered("Defect Location", letter) for letter in ("A", "B", None, "A")]

    figures = option_types.measure([*locations, _answered("Object", "A")])

    assert figures["accuracy_defect_location"].hits == (True, False, False, True)
    assert figures["accuracy_object"].hits == (True,)
    assert np.isclose(figures["mean_type_accuracy"], (0.5 + 1) / 2)


def test_the_variant_takes_choices_alone(manifest: ManifestBuilder) -> None:
    row(manifest)
    records = open_manifest(manifest.write())

    assert ChoicesConfig().select(records, cost=lambda record: 1, seed=0) == [2]
