"""Settings that document and check themselves: each field holds its default, range and meaning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar, cast

from vlmbench.types import UserError

T = TypeVar("T")

LARGEST = 2**63 - 1  # transformers and torch count in 64 bits
DOCUMENTATION = "setting"  # the key of a field's metadata that holds its `Documentation`


@dataclass(frozen=True, slots=True, kw_only=True)
class Documentation:
    """The meaning of a setting, its unit, and its valid values.

    `cure` is the value that an error message proposes; None: the default, or else the nearest
    bound. `default_text` replaces the default in the reference, for a default that conf/config.yaml
    computes.
    """

    meaning: str
    at_least: float | None = None
    at_most: float | None = None
    cure: Any = None
    default_text: str | None = None

    @property
    def range(self) -> str:
        """Return the range in words, such as "at least 1"; "" for a setting without a range."""
        if self.at_least is None and self.at_most is None:
            return ""
        if self.at_most is None:
            return f"at least {_number(self.at_least)}"
        if self.at_least is None:
            return f"at most {_number(self.at_most)}"

        return f"between {_number(self.at_least)} and {_number(self.at_most)}"


def setting(
    default: T | None = None,
    meaning: str = "",
    *,
    factory: Callable[[], T] | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    cure: Any = None,
    default_text: str | None = None,
) -> T:
    """Return a documented dataclass field with this default, or with the value that `factory`
    makes.

    `meaning` is one sentence with the unit. `Settings` checks the range when the settings are
    built.
    """
    metadata = {
        DOCUMENTATION: Documentation(
            meaning=meaning,
            at_least=at_least,
            at_most=at_most,
            cure=cure,
            default_text=default_text,
        )
    }
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)

    return cast("T", field(default=default, metadata=metadata))


class Settings:
    """Base of every configuration dataclass. Raise UserError for a number outside of its range.

    A subclass with checks of its own calls `super().__post_init__()`.
    """

    config_group: ClassVar[str] = ""  # what stands before a setting's name on the command line

    def __post_init__(self) -> None:
        for item in fields(cast("Any", self)):
            about = item.metadata.get(DOCUMENTATION)
            value = getattr(self, item.name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)

            if about is not None and is_number:
                default = item.default if isinstance(item.default, int | float) else None
                check_range(
                    self.setting_name(item.name),
                    value,
                    -math.inf if about.at_least is None else about.at_least,
                    math.inf if about.at_most is None else about.at_most,
                    cure=default if about.cure is None else about.cure,
                )

    @classmethod
    def setting_name(cls, key: str) -> str:
        """Return a setting's full name on the command line, such as "trainer.epochs"."""
        return f"{cls.config_group}.{key}" if cls.config_group else key


def check_range(
    name: str,
    value: float | None,
    low: float,
    high: float = math.inf,
    *,
    cure: Any = None,
) -> None:
    """Raise UserError unless `value` is None or a finite number within [low, high].

    The message proposes the value `cure`; None: the nearest bound.
    """
    if value is None or (low <= value <= high and -LARGEST <= value <= LARGEST):
        return

    if LARGEST < value < math.inf:
        high = min(high, LARGEST)

    if cure is None:
        cure = high if math.isfinite(high) and value > high else low

    if math.isinf(low) and math.isinf(high):
        bounds = "finite"
    else:
        bounds = Documentation(
            meaning="",
            at_least=None if math.isinf(low) else low,
            at_most=None if math.isinf(high) else high,
        ).range
    raise UserError(f"{name} must be {bounds}, got {_number(value)}; set {name}={_number(cure)}")


def _number(value: Any) -> str:
    """Return a number as a user types it: 4294967295 and 0.001, not 4.29497e+09 and 1e-3."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    if isinstance(value, int) and abs(value) > 10 * LARGEST:
        return f"about 1e{round(math.log10(abs(value)))}"

    return str(value)
