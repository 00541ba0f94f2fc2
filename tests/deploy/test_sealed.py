"""A run with a sealed test split can be used: nothing of the test split is answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome
from vlmbench.pipeline.answer import Asker
from vlmbench.runs.folder import RunDir
from vlmbench.types import Prediction, Record


@pytest.fixture(scope="session")
def sealed(train: Callable[..., RunDir]) -> RunDir:
    return train("model=llama32_tiny", "eval.test=sealed", "eval.limit=8")


@pytest.mark.slow
def test_export_and_predict_work_and_answer_no_test_record(
    sealed: RunDir, cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    answer = Asker.answer

    def note(
        self: Asker, records: list[Record], *, progress: str | None = None
    ) -> list[Prediction]:
        asked.update(record.id for record in records)
        return answer(self, records, progress=progress)

    monkeypatch.setattr(Asker, "answer", note)
    out = tmp_path / "export"
    exported = cli("stage=export", f"run={sealed.path}", f"export.out={out}")
    assert exported.code == 0, exported.err[-2000:]
    assert asked
    assert asked <= {one.id for one in sealed.read_validation()}
    assert json.loads((out / "decision_rules.json").read_text())["parity"]["recorded"]["n"] > 0
    assert "The test split is sealed" in (out / "README.md").read_text(encoding="utf-8")

    image = sealed.read_validation()[0].images[0]
    predicted = cli(
        "stage=predict",
        f"run={sealed.path}",
        f"images=['{image}','{image}']",
        f"predict.out={tmp_path / 'answers'}",
    )
    assert predicted.code == 0, predicted.err[-2000:]
