"""From answers to predictions, with a scripted backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from vlmbench.config import EvalConfig, ScoreMethod
from vlmbench.data.prompts import Wording
from vlmbench.pipeline.answer import Asker, one_behind
from vlmbench.types import ImageRef, LazyImage, Prediction, Record, Role, Sample, Task, UserError

WORDING = Wording(
    questions=dict.fromkeys(Task, "?"),
    labels={
        "normal": "fine",
        "abnormal": "broken",
        "same_shape": "alike",
        "different_shape": "unlike",
    },
)


class Scripted:
    """Scores by the number in a record's id; writes the text in its answer."""

    model = torch.nn.Identity()

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], tuple[str, ...]]] = []

    def score(self, samples: Sequence[Sample], labels: Sequence[str]) -> torch.Tensor:
        self.asked.append(([one.record.id for one in samples], tuple(labels)))
        return torch.tensor([[-float(one.record.id), -1.0] for one in samples])

    def generate(self, samples: Sequence[Sample], *, max_new_tokens: int) -> list[str]:
        return [sample.record.answer for sample in samples]


def record(name: str, task: Task = Task.JUDGE_PAIR, answer: str = "normal") -> Record:
    image = ImageRef(path=Path("a"), role=Role.QUERY, view="raw")
    return Record(id=name, task=task, images=(image,), answer=answer, label="normal", group="g")


class ScriptedViewer:
    """Shows every image as a file in the folder `shown`."""

    def path(self, image: ImageRef) -> Path:
        return Path("shown") / image.path

    def lazy_image(self, image: ImageRef, *, of: str) -> LazyImage:
        return LazyImage(lambda: Image.new("RGB", (1, 1)))


def answer(
    records: list[Record], settings: EvalConfig, backbone: Scripted | None = None
) -> list[Prediction]:
    asker = Asker(
        backbone=backbone or Scripted(),
        viewer=ScriptedViewer(),
        wording=WORDING,
        settings=settings,
    )
    return asker.answer(records)


def test_the_likelier_label_wins_and_a_tie_is_negative() -> None:
    predictions = answer([record("2"), record("0.5"), record("1")], EvalConfig())
    assert [prediction.predicted for prediction in predictions] == ["abnormal", "normal", "normal"]
    assert predictions[0].scores == {"normal": -2.0, "abnormal": -1.0}
    assert predictions[0].images == (str(Path("shown", "a").resolve()),)


@pytest.mark.parametrize("score", ["nan", "inf"])
def test_a_score_that_is_no_number_names_its_record_and_what_helps(score: str) -> None:
    with pytest.raises(UserError, match=rf"'-?{score}': the score of 'normal' .* has bf16$"):
        answer([record("1"), record(score)], EvalConfig())


def test_records_are_batched_by_task_with_its_words_and_come_back_in_order() -> None:
    backbone = Scripted()
    shapes = record("3", Task.COMPARE_SHAPES)
    predictions = answer(
        [record("1"), shapes, record("2"), record("4")], EvalConfig(batch_size=2), backbone
    )
    assert [prediction.id for prediction in predictions] == ["1", "3", "2", "4"]
    assert sorted(backbone.asked) == [
        (["1", "2"], ("fine", "broken")),
        (["3"], ("alike", "unlike")),
        (["4"], ("fine", "broken")),
    ]


def test_a_generated_answer_that_names_no_label_is_counted_as_unparsable() -> None:
    records = [
        record("1", answer="broken: a dent"),
        record("2", answer="I cannot tell"),
        record("3", answer="fine"),
    ]
    predictions = answer(records, EvalConfig(method=ScoreMethod.generate))
    assert [prediction.predicted for prediction in predictions] == ["abnormal", None, "normal"]
    assert [prediction.text for prediction in predictions] == [
        "broken: a dent",
        "I cannot tell",
        "fine",
    ]
    assert not predictions[1].correct


def test_an_item_is_looked_at_once_the_next_one_is_made() -> None:
    events: list[str] = []

    def made() -> Iterator[int]:
        for number in range(3):
            events.append(f"made {number}")
            yield number

    for number in one_behind(made()):
        events.append(f"seen {number}")
    assert events == ["made 0", "made 1", "seen 0", "made 2", "seen 1", "seen 2"]
    assert list(one_behind([])) == []
