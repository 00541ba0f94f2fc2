"""Settings that evaluation and deployment share: what the two kinds of errors cost."""

from __future__ import annotations

from dataclasses import dataclass

from vlmbench.config.settings import Settings, setting
from vlmbench.types import UserError


@dataclass(kw_only=True)
class CostConfig(Settings):
    """Base of conf/eval, conf/predict, conf/export and conf/serve: both costs or none."""

    cost_miss: float | None = setting(
        None,
        "Cost of accepting an abnormal part, in any unit; null: the threshold for eval.primary "
        "decides.",
        at_least=1e-9,
        cure=10,
    )
    cost_overkill: float | None = setting(
        None, "Cost of rejecting a normal part, in the unit of cost_miss.", at_least=1e-9, cure=1
    )
    prevalence: float | None = setting(
        None,
        "Share of abnormal parts in use; null: as in the validation set.",
        at_least=1e-6,
        at_most=1 - 1e-6,
        cure=0.01,
    )

    def __post_init__(self) -> None:
        super().__post_init__()

        if (self.cost_miss is None) != (self.cost_overkill is None):
            missing = "cost_miss" if self.cost_miss is None else "cost_overkill"
            miss, overkill = self.setting_name("cost_miss"), self.setting_name("cost_overkill")
            raise UserError(
                f"{miss} and {overkill} must be set together; add {self.setting_name(missing)}=1"
            )
