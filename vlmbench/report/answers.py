"""The page of stage=predict: the answer for each record with its images, most suspicious first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlmbench.metrics import describe
from vlmbench.report.alarms import Alarm
from vlmbench.report.build import html_environment
from vlmbench.report.drift import ScoreDrift, drift_plot
from vlmbench.report.images import Thumbnail, thumbnail_of, tile_thumbnails
from vlmbench.types import LABELS, LOOK, Estimate, Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerEntry:
    """A judgement and its images, as the page shows them."""

    judgement: Judgement
    images: tuple[Thumbnail, ...]

    @property
    def singles(self) -> list[AnswerEntry]:
        """Return the judgements that this one joins, without images."""
        return [AnswerEntry(judgement=each, images=()) for each in self.judgement.singles]

    @property
    def kind(self) -> str:
        """Return `stopped`, `look`, `passed` or `unread`, by which the page filters."""
        return _kind(self.judgement)

    @property
    def is_wrong(self) -> bool:
        return _is_wrong(self.judgement)

    @property
    def score(self) -> str:
        """Return the score and the threshold in percent.

        Close to the threshold they get 4 digits, so that the reader sees which is larger.
        """
        judgement = self.judgement
        if judgement.score is None or judgement.threshold is None:
            return ""

        digits = 4 if 0 < abs(judgement.score - judgement.threshold) < 0.001 else 1
        calibration = "calibrated" if judgement.calibrated else "not calibrated"
        threshold = f"threshold {100 * judgement.threshold:.{digits}f} %"
        if judgement.look_from is not None and judgement.look_to is not None:
            band = f"{100 * judgement.look_from:.{digits}f} to {100 * judgement.look_to:.{digits}f}"
            threshold = f"look at it from {band} %"
        label = LABELS[judgement.task][1].replace("_", " ")
        return f"{label}: {100 * judgement.score:.{digits}f} % ({calibration}; {threshold})"


def judgement_page(
    title: str,
    judgements: Sequence[Judgement],
    *,
    facts: Sequence[tuple[str, str]],
    notes: Sequence[str],
    figures: Mapping[str, Estimate],
    most: int,
    alarms: Sequence[Alarm] = (),
    drifts: Sequence[ScoreDrift] = (),
) -> str:
    """Return the page's HTML with at most `most` judgements, unread records first, then by score.

    `alarms` are the controls that the run fails. `facts` are about the run, `notes` about scores
    and thresholds. `figures` are measured on the records with a true label. `drifts` compare the
    scores with earlier ones.
    """
    ordered = sorted(judgements, key=_suspicion)
    template = html_environment().get_template("answers.html.j2")

    return template.render(
        title=title,
        entries=[_entry(judgement) for judgement in ordered[:most]],
        total=len(judgements),
        unit="part" if any(judgement.singles for judgement in judgements) else "record",
        counts=_count_kinds(judgements),
        labelled=any(judgement.expected is not None for judgement in judgements),
        alarms=alarms,
        drifts=[(each, drift_plot(each, f"drift-{i}")) for i, each in enumerate(drifts)],
        facts=facts,
        notes=notes,
        figures={_figure_title(key): estimate for key, estimate in figures.items()},
    )


def _figure_title(key: str) -> str:
    """Return the title of `miss_rate`, or of `judge_pair, raw: miss_rate`."""
    prefix, colon, name = key.rpartition(": ")
    return f"{prefix}{colon} {describe(name).card_title}".strip()


def _suspicion(judgement: Judgement) -> tuple[bool, float, str]:
    """Return the sort key: unread records, then the highest scores, then the id."""
    return judgement.error is None, -(judgement.score or 0.0), judgement.id


def _count_kinds(judgements: Sequence[Judgement]) -> dict[str, int]:
    kinds = Counter(_kind(each) for each in judgements)
    counts = {kind: kinds[kind] for kind in ("stopped", "look", "passed", "unread")}
    return counts | {"wrong": sum(_is_wrong(each) for each in judgements)}


def _kind(judgement: Judgement) -> str:
    if judgement.error is not None:
        return "unread"
    if judgement.decision == LOOK:
        return "look"
    return "stopped" if judgement.stopped else "passed"


def _is_wrong(judgement: Judgement) -> bool:
    """Return whether the true label is known, and the decision is the other one."""
    if judgement.expected is None or judgement.decision == LOOK:
        return False
    return judgement.expected != judgement.decision


def _entry(judgement: Judgement) -> AnswerEntry:
    captions = ("reference", "query")[-len(judgement.images) :]
    prediction = judgement.prediction
    paths = judgement.images if prediction is None else prediction.images

    # A processed image lies in the cache under a hash, so the page names the user's file.
    images = [
        replace(thumbnail_of(path, caption), name=Path(original).name)
        for path, caption, original in zip(paths, captions, judgement.images, strict=True)
    ]
    tiles = () if prediction is None else tile_thumbnails(prediction)
    if tiles:
        names = [judgement.images[-1], *judgement.images]
        tiles = tuple(
            replace(tile, name=Path(name).name) for tile, name in zip(tiles, names, strict=False)
        )
    return AnswerEntry(judgement=judgement, images=tiles or tuple(images))
