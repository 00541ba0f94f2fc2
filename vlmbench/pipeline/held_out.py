"""The held-out records of a run: answer them or leave them sealed, and write that they were."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmbench.config import HeldOut
from vlmbench.data.run_records import RunRecords
from vlmbench.data.test_hash import hash_test_split
from vlmbench.pipeline.answer import Asker
from vlmbench.pipeline.measure import Scores
from vlmbench.pipeline.run import Run
from vlmbench.runs.ledger import LedgerRow, append_row, ledger_of
from vlmbench.runs.plan import variant_hash
from vlmbench.runs.planning import now, set_test_hash
from vlmbench.system.version import __version__
from vlmbench.types import Prediction, Task, UserError

log = logging.getLogger(__name__)

SEALED_NOTE = (
    "The test split is sealed: no test record was answered, and all figures are of validation "
    "records."
)
CHOSEN_NOTE = (
    "Validation records chose the best of {checkpoints} checkpoints, so their figures may be too "
    "good."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The predictions that a run's figures are of.

    They are of the test split with its probes, or of the validation split if the test is sealed.
    `checkpoints` is the number of checkpoints that validation records chose among.
    """

    predictions: Sequence[Prediction]
    is_sealed: bool
    checkpoints: int

    @property
    def prefix(self) -> str:
        """Return what stands before the names of these figures in a tracker."""
        return "validation/" if self.is_sealed else ""

    def metrics(self, scores: Scores) -> dict[str, Any]:
        """Return the part of metrics.json with these figures.

        Figures of validation records have a key of their own, so that nothing takes them for
        figures of the test split.
        """
        if not self.is_sealed:
            return {"scores": scores}
        return {"scores": {}, "validation_scores": scores, "test": str(HeldOut.sealed)}

    @property
    def notes(self) -> list[str]:
        if not self.is_sealed:
            return []
        if self.checkpoints < 2:
            return [SEALED_NOTE]
        return [SEALED_NOTE, CHOSEN_NOTE.format(checkpoints=self.checkpoints)]


def answer_held_out(
    run: Run, asker: Asker, records: RunRecords, validation: Sequence[Prediction]
) -> Answers:
    """Answer the test split with its probes and write the predictions; do neither if it is sealed.

    `validation` are the answers to the validation records.
    """
    checkpoints = len(run.folder.validation_curve())
    if run.config.eval.test == HeldOut.sealed:
        log.info("the test split is sealed: no test record is answered (eval.test=sealed)")
        return Answers(
            predictions=validation,
            is_sealed=True,
            checkpoints=checkpoints,
        )

    predictions = asker.answer(records.held_out, progress=f"evaluate {run.title}")
    run.folder.write_predictions(predictions)
    return Answers(
        predictions=predictions,
        is_sealed=False,
        checkpoints=checkpoints,
    )


def record_scores(
    run: Run, run_hash: str, records: RunRecords, *, answers: Answers, scores: Scores
) -> None:
    """Write the test split's hash into the plan, and a line into the ledger if it was answered.

    A file that cannot be written costs a warning and never the run.
    """
    test_hash = hash_test_split(records.data)
    try:
        set_test_hash(run.folder.path.parent, test_hash)
    except (UserError, OSError) as error:
        log.warning("the plan lacks the hash of the test split: %s", error)
    if answers.is_sealed:
        return

    primary = run.config.eval.primary_figure
    row = LedgerRow(
        test_hash=test_hash,
        run_hash=run_hash,
        variant_hash=variant_hash(
            run.settings, model=run.choices["model"], data=run.choices["data"]
        ),
        sweep=run.folder.path.resolve().parent.name,
        run=run.title,
        date=now(),
        version=__version__,
        primary=str(primary),
        value=_primary_value(scores, str(primary)),
    )
    append_row(ledger_of(Path(run.folder.path.parent)), row)


def _primary_value(scores: Scores, primary: str) -> float | None:
    """Return the primary figure of the task that the run judges, raw view first, if it has one."""
    for task in (Task.JUDGE_PAIR, Task.JUDGE_SINGLE):
        views = scores.get(str(task), {})
        for view in sorted(views, key=lambda view: (view != "raw", view)):
            value = views[view].get(primary, {}).get("value")
            if isinstance(value, float) and math.isfinite(value):
                return value
    return None
