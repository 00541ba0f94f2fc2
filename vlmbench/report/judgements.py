"""A page of judgements: what stage=predict said of each record, the most suspicious first, with its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlmbench.report.build import html_environment
from vlmbench.report.pictures import Picture, picture_of
from vlmbench.types import LABELS, Estimate, Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A judgement with its pictures, as the page has it."""

    judgement: Judgement
    pictures: tuple[Picture, ...]

    @property
    def kind(self) -> str:
        """`stopped`, `passed` or `unread`: what the page's filter goes by."""
        if self.judgement.error is not None:
            return "unread"
        return "stopped" if self.judgement.stopped else "passed"

    @property
    def is_wrong(self) -> bool:
        """Whether the true label is known and the decision is another."""
        return self.judgement.expected is not None and self.judgement.expected != self.judgement.decision

    @property
    def score(self) -> str:
        """The score in percent, with the digits that it takes to see on which side of the threshold it lies."""
        one = self.judgement
        if one.score is None or one.threshold is None:
            return ""
        digits = 4 if 0 < abs(one.score - one.threshold) < 0.001 else 1
        word = "calibrated" if one.calibrated else "not calibrated"
        line = f"threshold {100 * one.threshold:.{digits}f} %"
        label = LABELS[one.task][1].replace("_", " ")
        return f"{label}: {100 * one.score:.{digits}f} % ({word}; {line})"


def judgement_page(
    title: str,
    judgements: Sequence[Judgement],
    *,
    facts: Sequence[tuple[str, str]],
    notes: Sequence[str],
    figures: Mapping[str, Estimate],
    most: int,
) -> str:
    """The page's HTML: `facts` of the run, `notes` on scores and thresholds, `figures` where true labels are known, and
    the first `most` judgements by score, those that could not be read before them."""
    ordered = sorted(judgements, key=lambda one: (one.error is None, -(one.score or 0.0), one.id))
    shown = [_shown(one) for one in ordered[:most]]
    counts = {
        "stopped": sum(one.stopped for one in judgements),
        "passed": sum(one.error is None and not one.stopped for one in judgements),
        "unread": sum(one.error is not None for one in judgements),
        "wrong": sum(one.expected is not None and one.expected != one.decision for one in judgements),
    }
    template = html_environment().get_template("judgements.html.j2")
    return template.render(
        title=title,
        shown=shown,
        total=len(judgements),
        counts=counts,
        labelled=any(one.expected is not None for one in judgements),
        facts=facts,
        notes=notes,
        figures=figures,
    )


def _shown(judgement: Judgement) -> Shown:
    captions = ("reference", "query")[-len(judgement.images) :]
    paths = judgement.images if judgement.prediction is None else judgement.prediction.images
    # A processed picture lies in the cache, under a name that says nothing to the user.
    pictures = tuple(
        replace(picture_of(path, caption), name=Path(given).name)
        for path, caption, given in zip(paths, captions, judgement.images, strict=True)
    )
    return Shown(judgement=judgement, pictures=pictures)
