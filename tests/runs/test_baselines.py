"""The answers of baselines on disk: whole, checked when they are read, hostile ones refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.baselines import KEY, heat_map, keep_baseline
from tests.helpers.predictions import answers
from vlmbench.runs.baselines import baseline_dir, to_bytes
from vlmbench.system.files import seal
from vlmbench.types import Task, UserError

PREDICTIONS = answers([0.5, -1.0], [True, False])
HEAT = {("r0", Task.JUDGE_PAIR, "raw"): heat_map()}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    folder = keep_baseline(
        tmp_path,
        "patch_nn",
        PREDICTIONS,
        validation=PREDICTIONS[:1],
        heat=HEAT,
        notes={"judge_pair raw": "C = 1"},
        hottest={"judge_pair raw": 0.5},
    )
    assert folder.path == tmp_path / "baselines" / KEY
    assert folder.damage() == ""
    facts = folder.read_facts()
    assert (facts.name, facts.notes) == ("patch_nn", {"judge_pair raw": "C = 1"})
    assert folder.read_predictions() == PREDICTIONS
    assert folder.read_validation() == PREDICTIONS[:1]
    ((key, heat),) = folder.read_heat().items()
    assert key == ("r0", Task.JUDGE_PAIR, "raw")
    np.testing.assert_array_equal(heat, heat_map())
    assert [path.name for path in (tmp_path / "baselines").iterdir()] == [KEY]


def test_the_answers_of_a_faster_run_stay_and_damaged_ones_are_replaced(tmp_path: Path) -> None:
    keep_baseline(tmp_path, "majority", PREDICTIONS, heat=HEAT)
    folder = keep_baseline(tmp_path, "majority", PREDICTIONS[:1])
    assert folder.read_predictions() == PREDICTIONS
    assert [path.name for path in (tmp_path / "baselines").iterdir()] == [KEY]

    (folder.path / "facts.json").unlink()
    folder = keep_baseline(tmp_path, "majority", PREDICTIONS[:1])
    assert folder.damage() == ""
    assert folder.read_predictions() == PREDICTIONS[:1]
    assert folder.read_heat() == {}
    assert [path.name for path in (tmp_path / "baselines").iterdir()] == [KEY]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        keep_baseline(tmp_path, "majority", PREDICTIONS, seconds={"fit": float("nan")})
    assert list((tmp_path / "baselines").iterdir()) == []


@pytest.mark.parametrize("name", ["facts.json", "predictions.jsonl", "validation.jsonl"])
def test_a_changed_file_is_found(tmp_path: Path, name: str) -> None:
    folder = keep_baseline(tmp_path, "majority", PREDICTIONS)
    with (folder.path / name).open("a", encoding="utf-8") as file:
        file.write(" ")
    assert f"{name} is damaged" in folder.damage()


def test_a_folder_of_another_key_is_not_trusted(tmp_path: Path) -> None:
    folder = keep_baseline(tmp_path, "majority", PREDICTIONS)
    other = baseline_dir(tmp_path, KEY[::-1])
    folder.path.rename(other.path)
    assert "belongs to" in other.damage()


@pytest.mark.parametrize(
    "key", ["../../etc", "", None, 3, ["a"], KEY.upper(), KEY + "0", "/" + KEY[1:]]
)
def test_a_key_cannot_lead_out_of_the_folder(tmp_path: Path, key: Any) -> None:
    with pytest.raises(UserError, match="is no key of a baseline"):
        baseline_dir(tmp_path, key)


@pytest.mark.parametrize(
    "row",
    [
        {"rows": 10**9, "columns": 10**9},
        {"rows": -1},
        {"rows": 2, "columns": 2},
        {"values": "!!"},
        {"values": None},
        {"task": "steal"},
        {"more": 1},
    ],
)
def test_a_hostile_heat_map_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    folder = keep_baseline(tmp_path, "patch_nn", PREDICTIONS, heat=HEAT)
    path = folder.path / "heat.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | row) + "\n")
    seal(folder.path, of=KEY)
    assert folder.damage() == ""  # a hostile folder is sealed too
    with pytest.raises(UserError, match=r"heat\.jsonl:1: the line is damaged .* remove the folder"):
        folder.read_heat()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 1}', "[" * 100_000, "\xff"])
def test_hostile_facts_are_refused(tmp_path: Path, text: str) -> None:
    folder = keep_baseline(tmp_path, "majority", PREDICTIONS)
    (folder.path / "facts.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"facts\.json: the file is damaged"):
        folder.read_facts()


def test_bytes_of_heat_are_relative_to_the_hottest() -> None:
    heat = np.array([[0.0, 0.25], [0.5, 2.0]], np.float32)
    assert to_bytes(heat, 0.5).tolist() == [[0, 128], [255, 255]]
    assert to_bytes(heat, 0.0).tolist() == [[0, 0], [0, 0]]
