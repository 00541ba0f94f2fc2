"""Golden figures. A change here is a change of behaviour; the commit that makes it explains it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome
from vlmbench.runs.sweep import SweepDir

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama32_tiny", "phi3_tiny"])
def test_golden_losses_and_scores_of_the_tiny_models(
    cli: Callable[..., Outcome],
    tmp_path: Path,
    drawn: str,
    request: pytest.FixtureRequest,
    model: str,
) -> None:
    outcome = cli(
        drawn,
        f"model={model}",
        "data=with_comparison",
        "trainer=debug",
        "source.num_parts=24",
        "eval.limit=4",
        "trainer.learning_rate=1e-2",
        "tracking=off",
        "eval.perturbations=false",
        "eval.rewordings=false",
    )
    assert outcome.code == 0, outcome.err
    (sweep,) = (tmp_path / "runs").glob("*/")
    (run,) = SweepDir(sweep).runs()
    found = {
        "losses": [row["loss"] for row in run.read_train_log() if "loss" in row],
        "scores": {one.id: dict(one.scores) for one in run.read_predictions()},
    }
    path = GOLDENS / f"{model}.json"
    if request.config.getoption("--golden"):
        GOLDENS.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        return
    golden = json.loads(path.read_text())
    # Another processor rounds float32 otherwise; a changed prompt, image or seed shows far more.
    assert found["losses"] == pytest.approx(golden["losses"], abs=1e-3)
    assert found["scores"].keys() == golden["scores"].keys()
    for name, scores in golden["scores"].items():
        assert found["scores"][name] == pytest.approx(scores, abs=1e-2), name
