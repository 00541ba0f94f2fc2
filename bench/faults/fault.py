"""What a row of the matrix is, and what must hold after it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.faults.trial import Outcome, Reference, Trial

Rng = np.random.Generator
Facts = dict[str, Any]
Inject = Callable[[Reference, Rng], Facts]

RESUMED = re.compile(r"^resuming from step (\d+)", re.MULTILINE)  # the log line of vlmbench/train


@dataclass(frozen=True, slots=True)
class Fault:
    """A row of the matrix.

    `inject` breaks a run at a random moment, checks its message, starts it again and compares. It
    returns the facts to record, and raises AssertionError if something was lost.
    """

    name: str
    meaning: str
    inject: Inject


def require_recovery(
    reference: Reference, trial: Trial, *overrides: str, same_log: bool = True, **kwargs: Any
) -> Facts:
    """Start the same command again; raise AssertionError unless it ends as the undisturbed run.

    Predictions and last adapter must be the same, and with `same_log` the losses too.
    """
    outcome = trial.run(*overrides, **kwargs)
    output = outcome.text[-2000:]
    assert outcome.code == 0, f"the next start failed:\n{output}"
    assert trial.predictions() == reference.predictions, f"other predictions:\n{output}"
    assert trial.last_adapter() == reference.last_adapter, f"another last adapter:\n{output}"
    if same_log:
        assert trial.losses() == reference.losses, f"other losses: {trial.losses()}"

    steps = RESUMED.findall(outcome.text)
    return {"then": "the same predictions", "resumed_from": int(steps[-1]) if steps else 0}


def require_message(outcome: Outcome, *messages: str, code: int = 2) -> str:
    """Return the last line that a run printed.

    Raise AssertionError unless it ended with this exit code, printed these messages and showed no
    traceback.
    """
    output = outcome.text[-2000:]
    assert outcome.code == code, f"exit code {outcome.code}, not {code}:\n{output}"
    assert "Traceback" not in outcome.text, output
    for message in messages:
        assert message in outcome.text, f"{message!r} is not in the output:\n{output}"
    return outcome.last_line
