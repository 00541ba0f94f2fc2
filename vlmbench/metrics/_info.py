"""The description of one figure: what a metric file declares beside `measure`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, get_args

from vlmbench.types import Prediction, Rate, UserError

Measure = Callable[[Sequence[Prediction]], dict[str, Rate | float]]

Unit = Literal["share", "points", "index", "number"]
Better = Literal["higher", "lower", ""]
Section = Literal["headline", "detail", "consistency"]

LAST = 1000  # default `order`: after all figures that declare a smaller one

EXAMPLE = (
    'FIGURES = (MetricInfo(name="my_figure", title="My figure", unit="share", better="higher", '
    'meaning="Share of ..."),)'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInfo:
    """A named figure: how reports title, write, explain and order it.

    `name` is its key in metrics.json. `title` heads its column. `meaning` explains it in a legend.

    `unit` says how a value is written:

    - "share": from 0 to 1, as "81.2 %"
    - "points": a difference of shares, as "+8.0 points"
    - "index": from 0 to 1, as "0.812"
    - "number": any value, as "3.142"

    `better` draws the arrow: "higher", "lower", or "" for neither.

    `section` is "headline" (first table, terminal, W&B workspace and detail tables), "detail" or
    "consistency" (do answers agree with each other?). The terminal shows headline shares only.
    `order` sorts the columns, then `name` does.

    `on_card` puts the figure on the model card, under `long_title` or else `title`.
    `of_decisions` puts it on the page of stage=predict, measured on decisions; "share" only.
    """

    name: str
    title: str
    unit: Unit
    meaning: str
    better: Better = ""
    section: Section = "detail"
    order: int = LAST
    long_title: str = ""
    on_card: bool = True
    of_decisions: bool = False

    @property
    def card_title(self) -> str:
        """Return the words for the figure where there is room for them."""
        return self.long_title or self.title


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricFile:
    """A metric file that passed the checks.

    `describe` answers for names that only the data know, such as `accuracy_<type>`.
    """

    measure: Measure
    figures: tuple[MetricInfo, ...]
    describe: Callable[[str], MetricInfo | None]


def read_metric_file(module: ModuleType) -> MetricFile:
    """Return the metric that a module holds.

    Raise UserError where it has no `measure` or no complete description of its figures.
    """
    if not callable(getattr(module, "measure", None)):
        raise _error(module, "it has no function `measure`", "add `def measure(predictions): ...`")

    figures = getattr(module, "FIGURES", None)
    if not isinstance(figures, tuple) or not figures:
        raise _error(module, "it does not describe its figures", f"add {EXAMPLE}")

    for info in figures:
        if not isinstance(info, MetricInfo):
            raise _error(module, f"FIGURES holds {info!r}, not a MetricInfo", f"write {EXAMPLE}")
        _require_complete(module, info)

    describe = getattr(module, "describe", _describe_nothing)
    return MetricFile(
        measure=module.measure,
        figures=figures,
        describe=describe,
    )


def _require_complete(module: ModuleType, info: MetricInfo) -> None:
    if not info.name.isidentifier():
        cure = "use letters, digits and underscores"
        raise _error(module, f"a figure's name must be an identifier, got {info.name!r}", cure)

    for field in ("title", "meaning"):
        if not getattr(info, field).strip():
            cure = f'write {field}="..." in its MetricInfo'
            raise _error(module, f"figure {info.name} has no {field}", cure)

    allowed = {"unit": get_args(Unit), "better": get_args(Better), "section": get_args(Section)}
    for field, values in allowed.items():
        value = getattr(info, field)
        if value not in values:
            cure = "use one of " + ", ".join(f'"{word}"' for word in values)
            raise _error(module, f"figure {info.name} has {field}={value!r}", cure)

    if info.of_decisions and info.unit != "share":
        problem = f"figure {info.name} has of_decisions=True and unit={info.unit!r}"
        raise _error(module, problem, 'write unit="share" or leave of_decisions out')


def _describe_nothing(name: str) -> MetricInfo | None:
    return None


def _error(module: ModuleType, problem: str, cure: str) -> UserError:
    return UserError(f"metric file {module.__file__}: {problem}; {cure}")
