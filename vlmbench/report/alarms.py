"""Controls that a run fails: what its reader must know before any figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vlmbench.metrics import by_task_and_view
from vlmbench.report.decisions import decide
from vlmbench.report.runs import RunResult, read_folders
from vlmbench.runs.folder import RunDir
from vlmbench.stats import estimate_rate, rule_of
from vlmbench.types import JUDGING, LABELS, Prediction, Probe, Rate, Task

# The share of identical pairs that must be judged normal. The best published pair models reach
# more; a model that calls one in ten images different from itself compares something else.
LEAST_SELF = 0.9
# A share of changed answers that is no more than the noise of a camera would cause.
FEWEST_FLIPS = 0.05
FEW = 10  # answers; with fewer, one label or no change may be chance


class Control(StrEnum):
    """A control that a run may fail. `export.accept` takes these names."""

    self_pair = "self_pair"
    one_label = "one_label"
    reference = "reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A failed control of one or more runs of a series, in words."""

    control: Control
    task: str
    view: str
    about: tuple[str, ...]
    text: str

    @property
    def sentence(self) -> str:
        """Return what failed, and in which runs."""
        return f"{self.text} ({', '.join(self.about)})"

    def to_row(self) -> dict[str, Any]:
        """Return plain values for verdicts.json."""
        return {
            "control": str(self.control),
            "task": self.task,
            "view": self.view,
            "about": list(self.about),
            "sentence": self.sentence,
        }


def alarms(runs: Sequence[RunResult]) -> list[Alarm]:
    """Return the controls that finished runs fail; the runs of one failure stand together."""
    found: dict[tuple[Control, Task, str, str], list[str]] = {}
    for run in runs:
        if not run.finished:
            continue
        for control, task, view, text in _failures(run):
            found.setdefault((control, task, view, text), []).append(run.label)

    return [
        Alarm(
            control=control,
            task=str(task),
            view=view,
            about=tuple(about),
            text=text,
        )
        for (control, task, view, text), about in found.items()
    ]


def alarms_of_folder(folder: RunDir) -> list[Alarm]:
    """Return the controls that a single run fails."""
    return alarms(read_folders([folder]))


def _failures(run: RunResult) -> Iterator[tuple[Control, Task, str, str]]:
    validation = by_task_and_view(run.validation)
    for (task, view), predictions in by_task_and_view(run.predictions).items():
        if task not in JUDGING or not _was_trained(run, task):
            continue

        decided = _Decided(run, predictions)
        one_label = _one_label(decided)  # then no reference can matter
        if decided.has_one_truth and (task, view) in validation:  # one label may be the truth
            one_label = _one_label(_Decided(run, validation[task, view]), "validation records")
        for control, text in (
            (Control.self_pair, _self_pair(decided)),
            (Control.one_label, one_label),
            (Control.reference, "" if one_label else _reference(decided)),
        ):
            if text:
                yield control, task, view, f"{str(task).replace('_', ' ')}, {view}: {text}"


def _was_trained(run: RunResult, task: Task) -> bool:
    """Return whether the run trained on the task; of others it promises nothing."""
    data = run.metrics.get("data")
    counts = data.get("by_task") if isinstance(data, dict) else None
    return not isinstance(counts, dict) or bool(counts.get(str(task), 0))


class _Decided:
    """The answers of a run to one task and view, as decided at its calibrated threshold."""

    def __init__(self, run: RunResult, predictions: Sequence[Prediction]) -> None:
        labels = decide(predictions, run, rule_of(run.config))
        self.rows = list(zip(predictions, labels, strict=True))
        self.negative, self.positive = LABELS[predictions[0].task]
        self._label_of = {each.id: label for each, label in self.rows if each.probe is Probe.NONE}

    @property
    def has_one_truth(self) -> bool:
        """Whether all ordinary records have the same true label."""
        return len({each.expected for each, _ in self.of(Probe.NONE)}) < 2

    def of(self, *probes: Probe) -> list[tuple[Prediction, str | None]]:
        """Return the answers of these kinds with their decisions."""
        return [(each, label) for each, label in self.rows if each.probe in probes]

    def changed(self, probe: Probe) -> Rate | None:
        """Return which answers differ from those to their ordinary records; None for none."""
        pairs = [
            (each, label, self._label_of[each.of[0]])
            for each, label in self.of(probe)
            if each.of and each.of[0] in self._label_of
        ]
        return _rate((each, label != before) for each, label, before in pairs)


def _rate(rows: Iterable[tuple[Prediction, bool]]) -> Rate | None:
    rows = list(rows)
    if not rows:
        return None
    return Rate(hits=tuple(hit for _, hit in rows), parts=tuple(each.cluster for each, _ in rows))


def _self_pair(decided: _Decided) -> str:
    """Return that the model finds images different from themselves; "" if it does not."""
    rate = _rate((each, label == decided.negative) for each, label in decided.of(Probe.SELF))
    if rate is None:
        return ""

    share = estimate_rate(rate)
    if share.high >= LEAST_SELF and share.value >= 0.5:
        return ""
    wrong = rate.hits.count(False)
    return (
        f"{wrong} of {share.n} images beside themselves are judged {decided.positive}, "
        "so the answers are not about differences between the two images"
    )


def _one_label(decided: _Decided, what: str = "records") -> str:
    """Return that everything got one label; "" if it did not, or if that is the truth."""
    rows = decided.of(Probe.NONE)
    given = {label for _, label in rows}
    if len(rows) < FEW or len(given) > 1 or decided.has_one_truth:
        return ""
    return f"all {len(rows)} {what} are judged {given.pop() or 'in words without a label'}"


def _reference(decided: _Decided) -> str:
    """Return that the reference does not matter; "" if it does.

    The reference of another part decides where there is one. A grey image is unlike all training
    images, so an answer that it changes proves little; one that it does not change tells enough.
    """
    for probe, words in (
        (Probe.OTHER, "with the reference of another part"),
        (Probe.BLANK, "with a grey image as the reference"),
    ):
        rate = decided.changed(probe)
        if rate is None:
            continue

        share = estimate_rate(rate)
        flips = sum(rate.hits)
        if share.high >= FEWEST_FLIPS and (flips or share.n < FEW):
            return ""
        return f"the reference does not matter: {words}, {flips} of {share.n} answers change"
    return ""
