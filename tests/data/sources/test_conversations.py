"""LLaVA's and ShareGPT's files: one question, one answer. Invalid rows are named, or counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import image
from vlmbench.data.load import load_data
from vlmbench.data.manifest import open_manifest
from vlmbench.data.prepared import read_invalid_rows
from vlmbench.data.rows.conversations import split_label
from vlmbench.data.rows.source import InvalidRowPolicy
from vlmbench.data.sources.llava import LlavaConfig
from vlmbench.data.sources.sharegpt import ShareGptConfig
from vlmbench.types import Record, Split, Task, UserError

LABELS = {"OK": "normal", "NG": "abnormal", "No defect": "normal", "No": "abnormal"}
SHARES = {Split.TRAIN: 0.6, Split.VAL: 0.2, Split.TEST: 0.2}


def llava(
    number: int,
    answer: str = "OK",
    image: Any = None,
    question: str = "<image>\n<image>\nIs it good?",
) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {
        "id": f"r{number}",
        "image": image or ["0.png", f"{number}.png"],
        "conversations": turns,
    }


def write(folder: Path, rows: list[Any], *, lines: bool = False, num_images: int = 12) -> Path:
    """Write the file and a folder of images beside it."""
    (folder / "photos").mkdir(exist_ok=True)
    for i in range(num_images):
        image(i).save(folder / "photos" / f"{i}.png")
    path = folder / ("rows.jsonl" if lines else "rows.json")
    path.write_text("\n".join(json.dumps(row) for row in rows) if lines else json.dumps(rows))
    return path


def config(path: Path, kind: type = LlavaConfig, **more: Any) -> Any:
    return kind(path=str(path), images=str(path.parent / "photos"), labels=LABELS, **more)


def records(tmp_path: Path, path: Path, **more: Any) -> list[Record]:
    return list(open_manifest(config(path, **more).prepare(tmp_path / "data")))


@pytest.mark.parametrize("lines", [False, True])
def test_a_pair_and_a_single_image_become_records(tmp_path: Path, lines: bool) -> None:
    single = llava(2, "OK", "2.png", "Any defect? <image>")
    path = write(tmp_path, [llava(1, "NG: a scratch"), single], lines=lines)
    pair, single_record = records(tmp_path, path)

    assert (pair.task, pair.label) == (Task.JUDGE_PAIR, "abnormal")
    assert pair.answer == "abnormal: a scratch"
    assert (pair.question, pair.group, dict(pair.meta)) == ("Is it good?", "1.png", {"row": "r1"})
    assert [image.path.name for image in pair.images] == ["0.png", "1.png"]

    assert (single_record.task, single_record.answer) == (Task.JUDGE_SINGLE, "normal")
    assert single_record.question == "Any defect?"


def test_sharegpt_s_two_ways_of_writing_turns_give_the_same(tmp_path: Path) -> None:
    old = {
        "images": ["0.png", "1.png"],
        "system": "You inspect.",
        "conversations": llava(1)["conversations"],
    }
    turns = [("system", "You inspect."), ("user", "<image><image>Is it good?"), ("assistant", "OK")]
    new = {
        "images": ["0.png", "2.png"],
        "messages": [{"role": role, "content": text} for role, text in turns],
    }
    first, second = records(tmp_path, write(tmp_path, [old, new]), kind=ShareGptConfig)
    assert first.question == second.question == "You inspect.\nIs it good?"
    assert first.answer == second.answer == "normal"


def test_the_part_comes_from_the_row(tmp_path: Path) -> None:
    rows = [llava(1) | {"serial": 17}, llava(2) | {"serial": "17"}]
    assert {
        record.group for record in records(tmp_path, write(tmp_path, rows), group="serial")
    } == {"17"}
    with pytest.raises(
        UserError, match=r"row 1: source.group=lot: the row has no text or number under 'lot'"
    ):
        records(tmp_path, write(tmp_path, rows), group="lot")


def test_questions_can_come_from_the_prompt(tmp_path: Path) -> None:
    assert records(tmp_path, write(tmp_path, [llava(1)]), questions=False)[0].question == ""


@pytest.mark.parametrize(
    ("answer", "label", "rest"),
    [
        ("NG", "abnormal", ""),
        ("ng, scratched", "abnormal", ", scratched"),
        ("No defect.", "normal", "."),
        ("No, it is bent", "abnormal", ", it is bent"),
        ("normal", "normal", ""),
    ],
)
def test_the_longest_word_gives_the_label(answer: str, label: str, rest: str) -> None:
    assert split_label(answer, LABELS) == (label, rest)


@pytest.mark.parametrize("answer", ["", "Nothing", "OKAY", "NG-ish", "It is NG", "normally good"])
def test_an_answer_that_starts_with_no_label_is_invalid(answer: str) -> None:
    with pytest.raises(UserError, match="starts with none of"):
        split_label(answer, LABELS)


def make_row(*turns: tuple[str, str], image: Any = "1.png") -> dict:
    return {"image": image, "conversations": [{"from": who, "value": text} for who, text in turns]}


BAD = {
    "another exchange": (
        make_row(("human", "<image>?"), ("gpt", "OK"), ("human", "Sure?"), ("gpt", "OK")),
        "one question and one answer, its speakers are: human, gpt, human, gpt",
    ),
    "no answer": (make_row(("human", "<image>?")), "its speakers are: human"),
    "the wrong order": (
        make_row(("gpt", "OK"), ("human", "<image>?")),
        "its speakers are: gpt, human",
    ),
    "no placeholder": (llava(1, question="Is it good?"), "the question has 0 <image> for 2 images"),
    "no words": (llava(1, question="<image> <image>"), "the question has no words"),
    "three images": (
        llava(1, image=["0.png"] * 3, question="<image>" * 3 + "?"),
        "the row has 3 images",
    ),
    "no images": ({"conversations": llava(1)["conversations"]}, "missing required field `image`"),
    "no label": (llava(1, "fine"), "answer 'fine' starts with none of"),
    "a missing image": (llava(1, image=["0.png", "99.png"]), "99.png: the image does not exist"),
    "a path upwards": (llava(1, image=["0.png", "../rows.json"]), "leaves the data's folder"),
    "an absolute path": (llava(1, image=["0.png", "/etc/passwd"]), "leaves the data's folder"),
    "control characters": (llava(1, image=["0.png", "\x1b[2J.png"]), "control characters"),
    "a damaged image": (llava(1, image=["0.png", "bad.png"]), "bad.png: "),
    "a link to a secret": (llava(1, image=["0.png", "link.png"]), "leads out of the folder"),
    "a long question": (
        llava(1, question="<image><image>" + "why " * 2000),
        "question has 7999 characters, the limit is 4000",
    ),
    "a number": (7, "Expected `object`, got `int`"),
    "an odd turn": ({"image": "1.png", "conversations": ["hello"]}, "Expected `object`"),
}


def test_invalid_rows_are_counted_by_their_reason(tmp_path: Path) -> None:
    path = write(
        tmp_path, [llava(1, "yes"), *[llava(1, image=["gone.png", "1.png"])] * 30, llava(2)]
    )
    with pytest.raises(UserError) as raised:
        records(tmp_path, path)
    unmapped, missing, cure = str(raised.value).splitlines()
    assert unmapped.startswith(f"{path}: row 1: answer 'yes' starts with none of")
    assert missing.startswith(f"{path}: row 2: ")
    assert missing.endswith("(also in 29 more rows)")
    assert "source.invalid_rows=skip" in cure


def bad_file(tmp_path: Path, how: str) -> Path:
    path = write(tmp_path, [llava(2), BAD[how][0], llava(3, "NG")])
    (tmp_path / "photos" / "bad.png").write_text("not an image")
    image(5).save(tmp_path / "secret.png")
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "secret.png")
    return path


@pytest.mark.parametrize("how", BAD)
def test_an_invalid_row_is_named_by_file_and_row(tmp_path: Path, how: str) -> None:
    path = bad_file(tmp_path, how)
    with pytest.raises(UserError) as raised:
        records(tmp_path, path)
    assert str(raised.value).startswith(f"{path}: row 2: ")
    assert BAD[how][1] in str(raised.value)
    assert "source.invalid_rows=skip" in str(raised.value)
    assert not list((tmp_path / "data").glob("llava-*")) if (tmp_path / "data").exists() else True


@pytest.mark.parametrize("how", BAD)
def test_an_invalid_row_is_left_out_and_counted_if_the_user_asks_for_it(
    tmp_path: Path, how: str
) -> None:
    path = bad_file(tmp_path, how)
    manifest = config(path, invalid_rows=InvalidRowPolicy.skip).prepare(tmp_path / "data")
    assert [record.id for record in open_manifest(manifest)] == ["row-1", "row-3"]
    left_out = read_invalid_rows(manifest)
    assert left_out is not None
    assert (left_out.count, left_out.total) == (1, 3)
    assert BAD[how][1] in left_out.named[0].reason


def test_left_out_rows_give_a_warning_of_the_run(tmp_path: Path) -> None:
    rows = [llava(i, "NG" if i % 2 else "OK", f"{i}.png", "<image>?") for i in range(10)] + [
        llava(1, "fine")
    ]
    found = open_manifest(
        config(write(tmp_path, rows), invalid_rows=InvalidRowPolicy.skip).prepare(tmp_path / "data")
    )
    (warning,) = load_data(
        found, SHARES, split_seed=0, allow_leak=False, cache_dir=tmp_path / "cache"
    ).warnings
    assert warning.startswith(
        "1 of 11 rows were invalid and were left out (source.invalid_rows=skip), the first at "
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("[", "truncated"),
        ("[]", "the file has no valid row"),
        ("[" * 5000, "rows.json: "),
        ("{}", "missing"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(UserError, match=message):
        LlavaConfig(path=str(tmp_path / "rows.json")).prepare(tmp_path / "data")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["image", "images", "conversations", "from", "value", "id"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(JSON, max_size=4),
    raw=st.binary(max_size=60),
    kind=st.sampled_from([LlavaConfig, ShareGptConfig]),
)
def test_any_file_is_records_or_a_named_error(
    tmp_path: Path, rows: list[Any], raw: bytes, kind: type
) -> None:
    path = tmp_path / "rows.json"
    for content in (json.dumps(rows).encode(), raw):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"rows.json"):  # the images do not exist
            config(path, kind, invalid_rows=InvalidRowPolicy.skip).prepare(tmp_path / "data")
