"""Sweeps whose truth is known: no verdict says anything false about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.helpers.predictions import answers
from tests.helpers.reports import RunMaker
from vlmbench.pipeline.calibrate import write_calibration
from vlmbench.pipeline.measure import measure
from vlmbench.report.runs import read_runs
from vlmbench.report.verdicts import findings
from vlmbench.runs.folder import State
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import Prediction

BASELINE, VARIANT = "without_comparison", "with_comparison"
UNKNOWN = "not enough data to tell"
BETTER = ("better", "slightly better")
WORSE = ("worse", "slightly worse")


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How a variant's runs answer: margins around +skill or -skill, moved by `lean` nats.

    With `misses` or `overkill`, this share of the abnormal or normal records is answered wrongly,
    surely. `collapsed` seeds say normal to everything; `failed` seeds have no answers.
    """

    skill: float = 1.0
    lean: float = 0.0
    misses: float = 0.0
    overkill: float = 0.0
    collapsed: Sequence[int] = ()
    failed: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Two judges, the size of their sweep, and the words that are true of the variant."""

    name: str
    baseline: Judge = Judge()
    variant: Judge = Judge()
    parts: int = 40
    records: int = 6  # of each part
    seeds: int = 3
    allowed: tuple[str, ...]
    must_say: str = ""


TRUTHS = [
    Truth(name="equal", allowed=(UNKNOWN, "no difference larger than 2 points")),
    Truth(name="much better", variant=Judge(skill=2.5), allowed=BETTER),
    Truth(name="much worse", variant=Judge(skill=0.2), allowed=WORSE),
    Truth(
        name="leans to abnormal, ranks alike",
        variant=Judge(lean=3.0),
        allowed=(UNKNOWN, "no difference larger than 2 points"),
    ),
    Truth(
        name="says normal to everything",
        baseline=Judge(collapsed=(0, 1, 2)),
        variant=Judge(collapsed=(0, 1, 2)),
        allowed=(UNKNOWN, "no difference larger than 2 points"),
        must_say="seed 1 and smol · without_comparison · seed 2 say normal to every record. smol",
    ),
    Truth(name="six parts", variant=Judge(skill=2.5), parts=6, allowed=(UNKNOWN,)),
    Truth(name="one seed", variant=Judge(skill=2.5), seeds=1, allowed=(UNKNOWN,)),
    Truth(
        name="misses against overkill",
        baseline=Judge(skill=9.0, misses=0.3),
        variant=Judge(skill=9.0, overkill=0.3),
        parts=100,
        allowed=("different errors", UNKNOWN),
    ),
    Truth(
        name="two of three seeds collapsed",
        baseline=Judge(skill=2.5),
        variant=Judge(skill=2.5, collapsed=(1, 2)),
        allowed=(*WORSE, UNKNOWN),
    ),
    Truth(
        name="two of three seeds failed",
        variant=Judge(skill=2.5, failed=(1, 2)),
        allowed=(UNKNOWN,),
        must_say="failed",
    ),
    Truth(
        name="both perfect",
        baseline=Judge(skill=9.0),
        variant=Judge(skill=9.0),
        parts=300,
        records=2,
        allowed=("no difference larger than 2 points", UNKNOWN),
    ),
]


def answer(
    judge: Judge, seed: int, *, parts: int, records: int, name: str, rng: np.random.Generator
) -> list[Prediction]:
    """Return the predictions of one run on `parts` parts, every second record abnormal."""
    margins, positive = [], []
    for _ in range(parts):
        effect = rng.normal(0, 0.4)
        for record in range(records):
            is_abnormal = record % 2 == 1
            is_wrong = rng.random() < (judge.misses if is_abnormal else judge.overkill)
            sign = 1 if is_abnormal is not is_wrong else -1
            margin = sign * judge.skill + judge.lean + effect + rng.normal(0, 0.9)
            margins.append(-9.0 if seed in judge.collapsed else float(margin))
            positive.append(is_abnormal)

    made = answers(margins, positive, part_size=records)
    return [replace(one, id=f"{name}-{one.id}", group=f"{name}-{one.group}") for one in made]


def make_sweep(make_run: RunMaker, truth: Truth) -> SweepDir:
    """Write the runs of both judges, calibrated on 16 validation parts."""
    runs = []
    for data, judge in ((BASELINE, truth.baseline), (VARIANT, truth.variant)):
        for seed in range(truth.seeds):
            rng = np.random.default_rng([seed, *f"{truth.name} {data}".encode()])
            test = answer(judge, seed, parts=truth.parts, records=truth.records, name="t", rng=rng)
            has_failed = seed in judge.failed
            run = make_run(
                len(runs),
                data,
                state=State.FAILED if has_failed else State.FINISHED,
                details={
                    "seed": seed,
                    "error": "out of memory" if has_failed else "",
                    "overrides": [f"data={data}", f"seed={seed}"],
                },
                config={"seed": seed, "eval": {"primary": "balanced_accuracy"}},
                metrics=None if has_failed else {"scores": measure(test, seed=0)},
                predictions=None if has_failed else test,
            )
            if not has_failed:
                write_calibration(run, answer(judge, seed, parts=16, records=6, name="v", rng=rng))
            runs.append(run)
    return SweepDir(runs[0].path.parent)


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda truth: truth.name)
def test_no_verdict_is_false(make_run: RunMaker, truth: Truth) -> None:
    found, refusals = findings(read_runs(make_sweep(make_run, truth)))
    assert not refusals
    (finding,) = found
    assert finding.verdict in truth.allowed, finding.sentence
    assert truth.must_say in finding.sentence + finding.reservation
