"""Settings of the stages that use a finished run: predict, export and serve."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from vlmbench.config.costs import CostConfig
from vlmbench.config.settings import setting
from vlmbench.types import UserError


class Pairing(StrEnum):
    """Which reference stands beside which query image."""

    all = "all"  # each image is compared with every reference
    name = "name"  # each image is compared with the reference of the same file name


class Join(StrEnum):
    """How the answers to several records of one part become one."""

    max = "max"  # the most suspicious record decides
    mean = "mean"  # of the model's own log-odds
    median = "median"  # a majority vote: more than half of the records


@dataclass(kw_only=True)
class DeployConfig(CostConfig):
    """Base of conf/predict, conf/export and conf/serve: how scores become decisions.

    Without costs, the run's own rule decides (see vlmbench/stats/rule.py). With both costs, the
    threshold on the calibrated score minimises the expected cost (see
    vlmbench/stats/threshold.py). With two promised rates, scores that keep neither promise are
    answered with "look at it" (see vlmbench/stats/promise.py).
    """

    max_miss: float | None = setting(
        None,
        "Promised largest share of abnormal parts that are passed; scores in between are to be "
        "looked at.",
        at_least=1e-4,
        at_most=0.5,
        cure=0.05,
    )
    max_overkill: float | None = setting(
        None,
        "Promised largest share of normal parts that are stopped.",
        at_least=1e-4,
        at_most=0.5,
        cure=0.05,
    )

    def __post_init__(self) -> None:
        super().__post_init__()

        miss, overkill = self.setting_name("max_miss"), self.setting_name("max_overkill")
        if (self.max_miss is None) != (self.max_overkill is None):
            missing = miss if self.max_miss is None else overkill
            raise UserError(f"{miss} and {overkill} must be set together; add {missing}=0.05")
        if self.max_miss is not None and self.cost_miss is not None:
            raise UserError(
                f"{miss} promises a rate and {self.setting_name('cost_miss')} minimises a cost; "
                f"set {miss}=null {overkill}=null, or leave the costs out"
            )


@dataclass(kw_only=True)
class PredictConfig(DeployConfig):
    """conf/predict: which images or records stage=predict judges, and what it writes."""

    config_group: ClassVar[str] = "predict"

    folder: str | None = setting(None, "Folder of images to judge.")
    reference: str | None = setting(
        None, "Image of a good part, or a folder of such images, to compare the images with."
    )
    pairing: Pairing = setting(
        Pairing.all,
        "all: compare each image with every reference; name: with the reference of its file name.",
    )
    join: Join | None = setting(
        None,
        "How the records of a part (photos of a subfolder, references of a photo) become one "
        "answer; null: one answer for each record.",
    )
    manifest: str | None = setting(None, "Manifest of records to judge; labels are optional.")
    view: str = setting("raw", "View in which images are shown: raw, or the run's processed view.")
    sentence: bool = setting(False, "Write the answer that the model generates too.")
    gallery: int = setting(200, "Records on the page, the most suspicious first.", at_least=0)
    out: str | None = setting(None, "Folder to write; null: a new one in the run's folder.")


@dataclass(kw_only=True)
class ExportConfig(DeployConfig):
    """conf/export: where stage=export writes, and how closely the exported model must agree."""

    config_group: ClassVar[str] = "export"

    out: str | None = setting(None, "Folder to write; null: export/ in the run's folder.")
    accept: str | None = setting(
        None,
        "Failed controls in spite of which the run is exported, with commas between them: "
        "self_pair, one_label, reference.",
        cure="self_pair",
    )
    parity_records: int = setting(
        64, "Test records on which the exported model is compared with the run.", at_least=1
    )
    parity_margin: float = setting(
        0.0,
        "A label may change where its margin is at most this, in nats.",
        at_least=0,
    )
    parity_difference: float = setting(
        0.5, "Largest allowed change of a label's log-probability, in nats.", at_least=0
    )


@dataclass(kw_only=True)
class ServeConfig(DeployConfig):
    """conf/serve: the address and the limits of the page that stage=serve opens."""

    config_group: ClassVar[str] = "serve"

    view: str = setting("raw", "View in which images are shown: raw, or the run's processed view.")
    host: str = setting("127.0.0.1", "Address to listen on; 127.0.0.1: this machine only.")
    port: int = setting(7860, "Port to listen on; 0: any free port.", at_least=0, at_most=65535)
    upload_mb: float = setting(20.0, "Largest accepted file, in megabytes.", at_least=0.001)
    queue: int = setting(8, "Requests that may wait; the model judges one at a time.", at_least=1)
