"""A finished run at work."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vlmbench.config.registry import check_range
from vlmbench.types import UserError


class Pairing(StrEnum):
    all = "all"  # every picture beside every reference
    name = "name"  # every picture beside the reference of its own name


@dataclass(kw_only=True)
class JudgeConfig:
    """conf/judge: how a finished run is put to use, by stage=predict, export and serve.

    Without costs a decision is the likelier label, as in all metrics. With both, the threshold on the calibrated score
    is the one of least expected cost (see vlmbench/stats/threshold.py).
    """

    folder: str | None = None  # predict: pictures to judge
    reference: str | None = None  # predict: the good picture beside which they are judged, or a folder of such pictures
    pairing: Pairing = Pairing.all
    manifest: str | None = None  # predict: records to judge; their labels may be left out
    view: str = "raw"  # predict, serve: how pictures are shown, raw or the run's processed view
    sentence: bool = False  # predict: write the model's own sentence too
    gallery: int = 200  # predict: records on the page, the most suspicious first
    out: str | None = None  # predict, export: the folder to write; None: one in the run's folder
    cost_miss: float | None = None  # of passing an abnormal part, in any unit
    cost_overkill: float | None = None  # of stopping a normal part, in the same unit
    prevalence: float | None = None  # share of abnormal parts where it is used; None: as on the validation side
    parity_records: int = 64  # export: held-out records on which the exported model is compared with the run's
    parity_margin: float = 0.0  # export: labels nearer than this (nats) may change places
    parity_difference: float = 0.5  # export: a label's log-probability may change by so much (nats)
    host: str = "127.0.0.1"  # serve
    port: int = 7860  # serve
    upload_mb: float = 20.0  # serve: the largest file that is taken
    queue: int = 8  # serve: requests that may wait; one is judged at a time

    def __post_init__(self) -> None:
        if (self.cost_miss is None) != (self.cost_overkill is None):
            raise UserError("judge.cost_miss and judge.cost_overkill: a threshold takes both; give the other one too")
        check_range("judge.cost_miss", self.cost_miss, 1e-9)
        check_range("judge.cost_overkill", self.cost_overkill, 1e-9)
        check_range("judge.prevalence", self.prevalence, 1e-6, 1 - 1e-6)
        check_range("judge.gallery", self.gallery, 0)
        check_range("judge.parity_records", self.parity_records, 1)
        check_range("judge.parity_margin", self.parity_margin, 0)
        check_range("judge.parity_difference", self.parity_difference, 0)
        check_range("judge.port", self.port, 0, 65535)
        check_range("judge.upload_mb", self.upload_mb, 0.001)
        check_range("judge.queue", self.queue, 1)
