"""Words, labels and control records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import REPOSITORY, image
from vlmbench.data.changes import CHANGES
from vlmbench.data.probes import choose_pairs, make_probes, perturb, reword
from vlmbench.data.prompts import Wording
from vlmbench.data.viewer import Viewer
from vlmbench.types import ImageRef, Probe, Record, Role, Task, UserError, pixel_hash

WORDING = Wording(
    questions=dict.fromkeys(Task, "Is it normal?"),
    labels={"normal": "正常", "abnormal": "異常"},
    phrases={"a scratch": "傷", "a scratch and a dent": "傷とへこみ"},
)
ENGLISH = Wording(questions=dict.fromkeys(Task, "?"), labels={"same_part": "same part"})


def record(
    name: str,
    *paths: str,
    task: Task = Task.JUDGE_PAIR,
    label: str = "normal",
    answer: str = "",
    view: str = "raw",
) -> Record:
    roles = (Role.REFERENCE, Role.QUERY)[-len(paths) :]
    images = tuple(
        ImageRef(path=Path(path), role=role, view=view)
        for path, role in zip(paths, roles, strict=True)
    )
    return Record(id=name, task=task, images=images, answer=answer or label, label=label, group="g")


def test_label_and_phrases_are_worded_longest_first() -> None:
    scratched = record("a", "r", "q", label="abnormal", answer="abnormal: a scratch and a dent")

    assert WORDING.answer(scratched) == "異常: 傷とへこみ"
    assert WORDING.question(scratched) == "Is it normal?"


def test_labels_that_begin_alike_are_refused() -> None:
    with pytest.raises(UserError, match="begin alike"):
        Wording(questions={}, labels={"normal": "good", "abnormal": "good not"})


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("normal", "normal"),
        ("Abnormal: a scratch", "abnormal"),
        (" normal.", "normal"),
        ("normally it is", None),
        ("not normal", None),
        ("", None),
        ("I think it is abnormal", None),
        ("normal_part", None),
        ("abnormal-ish", None),
    ],
)
def test_a_generated_answer_is_parsed_without_guessing(text: str, label: str | None) -> None:
    assert ENGLISH.parse(text, Task.JUDGE_PAIR) == label


def test_words_of_another_task_are_no_answer() -> None:
    assert ENGLISH.parse("normal", Task.COMPARE_VIEWS) is None
    assert ENGLISH.parse("same part", Task.COMPARE_VIEWS) == "same_part"


def test_only_symmetric_pairs_are_swapped() -> None:
    records = [
        record("good", "r", "q1"),
        record("bad", "r", "q2", label="abnormal"),
        record("link", "r", "q3", task=Task.JUDGE_LINK),
        record("shape", "a", "b", task=Task.COMPARE_SHAPES, label="different_shape"),
    ]

    swapped = [probe for probe in make_probes(records) if probe.probe is Probe.SWAP]

    assert [probe.of for probe in swapped] == [("good",), ("shape",)]
    first = swapped[0]
    assert [str(image.path) for image in first.images] == ["q1", "r"]
    assert [image.role for image in first.images] == [Role.REFERENCE, Role.QUERY]
    assert (first.id, first.label, first.group) == ("swap:good", "normal", "g")


def test_each_reference_is_paired_with_itself_once() -> None:
    records = [
        record("a", "r", "q1"),
        record("b", "r", "q2", label="abnormal"),
        record("c", "s", "q3"),
    ]

    selves = [probe for probe in make_probes(records) if probe.probe is Probe.SELF]

    paths = [[str(image.path) for image in probe.images] for probe in selves]
    assert paths == [["r", "r"], ["s", "s"]]
    assert {probe.label for probe in selves} == {"normal"}


def test_a_blank_probe_keeps_the_query_and_the_true_label() -> None:
    probes = make_probes([record("b", "r", "q", label="abnormal")])
    (probe,) = (probe for probe in probes if probe.probe is Probe.BLANK)

    assert [image.blank for image in probe.images] == [True, False]
    assert probe.label == "abnormal"


def test_the_reference_is_exchanged_for_that_of_the_next_part_with_another_one() -> None:
    records = [
        replace(record("a", "r", "q1"), group="g1"),
        replace(record("b", "r", "q2", label="abnormal"), group="g2"),  # shares its reference
        replace(record("c", "s", "q3"), group="g3"),
    ]
    others = [probe for probe in make_probes(records) if probe.probe is Probe.OTHER]

    paths = [[str(image.path) for image in probe.images] for probe in others]
    assert paths == [["s", "q1"], ["s", "q2"], ["r", "q3"]]
    assert [probe.label for probe in others] == ["normal", "abnormal", "normal"]
    assert [probe.of for probe in others] == [("a",), ("b",), ("c",)]


def test_a_set_with_a_single_reference_has_no_other() -> None:
    records = [replace(record(f"{i}", "r", f"q{i}"), group=f"g{i}") for i in range(3)]
    assert Probe.OTHER not in {probe.probe for probe in make_probes(records)}


def test_two_good_queries_of_one_reference_close_a_triangle() -> None:
    records = [
        record("a", "r", "q1"),
        record("b", "r", "q2"),
        record("c", "r", "q3", label="abnormal"),
        record("d", "s", "q4"),
    ]

    (closing,) = (probe for probe in make_probes(records) if probe.probe is Probe.CLOSURE)

    assert closing.of == ("a", "b")
    assert [str(image.path) for image in closing.images] == ["q1", "q2"]


def test_single_images_have_no_probes() -> None:
    assert make_probes([record("a", "q", task=Task.JUDGE_SINGLE)]) == []


def test_raw_pairs_are_chosen_at_random_whatever_else_there_is() -> None:
    pairs = [record(f"p{i}", "r", f"q{i}") for i in range(20)]
    others = [
        record("rt", "r", "q", view="rt"),
        record("single", "q", task=Task.JUDGE_SINGLE),
        replace(record("own", "r", "q"), question="Is it safe?"),
    ]
    chosen = choose_pairs([*others, *pairs], 5, seed=0)
    assert len(chosen) == 5
    assert chosen == choose_pairs([*pairs, *others], 5, seed=0)
    assert chosen != choose_pairs(pairs, 5, seed=1)
    assert chosen == [pair for pair in pairs if pair in chosen]  # in their order
    assert choose_pairs(pairs, 100, seed=0) == pairs


def test_each_change_is_made_to_the_query_alone() -> None:
    base = record("a", "r", "q", label="abnormal")
    probes = list(perturb([base]))
    assert [probe.change for probe in probes] == list(CHANGES)
    assert len({probe.id for probe in probes}) == len(CHANGES)
    for probe in probes:
        assert [image.change for image in probe.images] == ["", probe.change]
        assert (probe.of, probe.label, probe.group) == (("a",), "abnormal", "g")


def test_a_rewording_changes_the_question_alone() -> None:
    base = record("a", "r", "q")
    (probe,) = reword([base], {"leading": "Surely fine?"})
    assert ENGLISH.question(probe) == "Surely fine?"
    assert (probe.images, probe.label, probe.change) == (base.images, base.label, "leading")
    assert (probe.id, probe.probe) == ("reworded:leading:a", Probe.REWORDED)


@pytest.mark.parametrize("prompt", ["en", "ja", "short"])
def test_each_language_has_four_wordings_and_one_of_them_leads(prompt: str) -> None:
    words = yaml.safe_load((REPOSITORY / "conf" / "prompt" / f"{prompt}.yaml").read_text())
    rewordings = words["rewordings"]
    assert len(set(rewordings.values())) == 4
    assert "leading" in rewordings
    assert words["questions"]["judge_pair"] not in rewordings.values()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [(160, 160), (70, 41)])
def test_a_change_is_small_deterministic_and_keeps_the_size(
    change: str, size: tuple[int, int]
) -> None:
    original = image(3, size)
    changed = CHANGES[change](original)
    assert (changed.size, changed.mode) == (size, "RGB")
    assert changed.tobytes() != original.tobytes()
    assert changed.tobytes() == CHANGES[change](original).tobytes()
    difference = np.asarray(changed, float) - np.asarray(original, float)
    assert np.abs(difference).mean() < 40


def test_a_changed_image_has_the_hash_of_its_own_pixels(tmp_path: Path) -> None:
    path = tmp_path / "q.png"
    image(3).save(path)
    viewer = Viewer(
        tmp_path, name="rt", process=lambda shown: shown, fingerprint="f", cache=tmp_path / "c"
    )
    plain = ImageRef(path=path, role=Role.QUERY, view="raw")
    for _ in range(2):  # the second time from memory
        hashes = {
            viewer.lazy_image(replace(plain, change=change), of="a").hash
            for change in ("", *CHANGES)
        }
        assert len(hashes) == 1 + len(CHANGES)
        assert viewer.lazy_image(plain, of="a").hash == pixel_hash(image(3))

    blurred = viewer.lazy_image(replace(plain, change="blurred"), of="a")
    assert blurred.hash == pixel_hash(CHANGES["blurred"](image(3)))
