"""eval.batch_size: records a forward pass."""

from __future__ import annotations

from typing import Any

import pytest

from vlmbench.config import EvalConfig
from vlmbench.types import UserError


@pytest.mark.parametrize(
    ("longest", "rows"),
    [(None, 16), (40, 64), (256, 64), (257, 32), (512, 32), (513, 16), (1200, 16), (90_000, 16)],
)
def test_short_records_are_answered_in_larger_batches_on_a_gpu(
    longest: int | None, rows: int
) -> None:
    assert EvalConfig().num_rows(longest) == rows


@pytest.mark.parametrize("longest", [None, 40, 1200])
def test_a_number_is_taken_as_it_is(longest: int | None) -> None:
    assert EvalConfig(batch_size=7).num_rows(longest) == 7


@pytest.mark.parametrize("value", ["many", 2.5, True, None])
def test_another_value_is_refused_with_a_number_that_is_taken(value: Any) -> None:
    with pytest.raises(UserError, match=r"set eval\.batch_size=8") as caught:
        EvalConfig(batch_size=value)
    assert EvalConfig(batch_size=int(str(caught.value).rpartition("=")[2])).num_rows() == 8
