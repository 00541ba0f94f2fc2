"""What a row of the matrix is, and what has to hold after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.faults.stage import Outcome, Scene, Stage

Rng = np.random.Generator
Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """A row: `befall` breaks a run at a random moment, looks at what it says, starts it again and compares.

    It gives what is recorded, and raises AssertionError where something was lost.
    """

    name: str
    what: str
    befall: Callable[[Stage, Rng], Facts]


def recovers(stage: Stage, scene: Scene, *overrides: str, same_log: bool = True, **kwargs: Any) -> Facts:
    """The same command again ends as an undisturbed run does: predictions, last adapter and losses are the same."""
    outcome = scene.run(*overrides, **kwargs)
    assert outcome.code == 0, f"the next start failed:\n{outcome.text[-2000:]}"
    assert scene.predictions() == stage.expected, f"other predictions:\n{outcome.text[-2000:]}"
    assert scene.trained() == stage.trained, f"another adapter after the last step:\n{outcome.text[-2000:]}"
    if same_log:
        assert scene.losses() == stage.losses, f"other losses: {scene.losses()}"
    said = [line for line in outcome.text.splitlines() if line.startswith("going on from step")]
    return {"then": "the same predictions", "went_on_from": int(said[-1].split()[-1]) if said else 0}


def says(outcome: Outcome, *words: str, code: int = 2) -> str:
    """The run ended with this exit code, said these words and showed no traceback. Gives its last line."""
    assert outcome.code == code, f"exit code {outcome.code}, not {code}:\n{outcome.text[-2000:]}"
    assert "Traceback" not in outcome.text, outcome.text[-2000:]
    for word in words:
        assert word in outcome.text, f"{word!r} was not said:\n{outcome.text[-2000:]}"
    return outcome.last_line
