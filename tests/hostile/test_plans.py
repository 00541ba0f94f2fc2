"""Plans from strangers: refused with a cure, or shown as text.

To add one: a line in DAMAGED.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.plans import plan_of
from tests.helpers.reports import HOSTILE
from vlmbench.report import comparison_table, write_report
from vlmbench.report.plan import plan_facts
from vlmbench.runs.folder import RunDir, State
from vlmbench.runs.plan import PLAN_FILE, read_plan, write_plan
from vlmbench.runs.planning import start_sweep
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import UserError

DAMAGED: dict[str, dict[str, Any]] = {
    "a figure that does not exist": {"primary": "luck"},
    "no figure": {"primary": "auto"},
    "a cost without its other": {"cost_miss": 3.0},
    "a cost of text": {"cost_miss": "3", "cost_overkill": "1"},
    "a cost below zero": {"cost_miss": -3.0, "cost_overkill": 1.0},
    "cost as the figure without costs": {"primary": "cost"},
    "a prevalence above 1": {"prevalence": 3.0},
    "a seed below zero": {"runs": [{"model": "m", "data": "d", "seed": -1, "variant_hash": "v"}]},
    "a seed of text": {"runs": [{"model": "m", "data": "d", "seed": "1", "variant_hash": "v"}]},
    "a run of text": {"runs": ["0_a"]},
    "runs of a mapping": {"runs": {}},
    "a date that is none": {"date": "tomorrow"},
    "a date with markup": {"date": "2026-11-27T<b>"},
    "a reveal that is none": {"reveals": ["<script>"]},
    "a long name": {"question": {"axis": "x" * 3000, "values": []}},
    "no question": {"question": None},
    "looks below zero": {"looks": -1},
    "many trials": {"trials": 10**30},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_plan_with_a_wrong_value_is_refused(tmp_path: Path, name: str) -> None:
    write_plan(tmp_path, plan_of())
    path = tmp_path / PLAN_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | DAMAGED[name]))
    _require_refused(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 100_000]
)
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PLAN_FILE).write_bytes(content)
    _require_refused(tmp_path)


def test_a_plan_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plan(tmp_path, plan_of())
    monkeypatch.setattr("vlmbench.runs.plan.MAX_BYTES", 10)
    with pytest.raises(UserError, match="more than 10 bytes"):
        read_plan(tmp_path)


def test_words_of_a_plan_stay_on_their_line(tmp_path: Path) -> None:
    runs = [
        {"model": HOSTILE, "data": f"{HOSTILE}{i}", "seed": i, "variant_hash": "v"}
        for i in range(2)
    ]
    write_plan(tmp_path, plan_of())
    path = tmp_path / PLAN_FILE
    question = {"axis": HOSTILE, "values": [HOSTILE, "a"], "baseline": HOSTILE}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"runs": runs, "question": question}))
    assert read_plan(tmp_path) is not None
    failed = RunDir(tmp_path / "0_a")
    failed.write_status(State.FAILED, run_hash="x", model="m", data="d", seed=0, overrides=[])

    page = write_report(SweepDir(tmp_path)).read_text(encoding="utf-8")
    markdown = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    terminal = comparison_table(SweepDir(tmp_path))
    assert HOSTILE in plan_facts(tmp_path, [], look=None).sentences[0]
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page + markdown
    assert '\n# "' not in markdown
    assert "\x1b" not in markdown + terminal  # a page obeys no such character
    assert '\n# "' not in terminal


def _require_refused(sweep: Path) -> None:
    before = (sweep / PLAN_FILE).read_bytes()
    with pytest.raises(UserError, match=r"plan\.json: the plan is damaged .*; .*or remove it"):
        start_sweep(sweep, plan_of())
    assert (sweep / PLAN_FILE).read_bytes() == before

    (sentence,) = plan_facts(sweep, [], look=None).sentences
    assert "the plan is damaged" in sentence

    (sweep / PLAN_FILE).unlink()  # the cure
    start_sweep(sweep, plan_of())
    assert read_plan(sweep) == plan_of()
