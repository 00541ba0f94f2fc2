"""Work on several items at once."""

from __future__ import annotations

import threading
import time

import pytest

from vlmbench.system.threads import count, map_ahead


def test_results_come_in_the_order_of_the_items() -> None:
    def slow(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        return number * number

    squares = list(map_ahead(slow, range(20), ahead=5))
    assert squares == [number * number for number in range(20)]


def test_few_items_are_begun_before_their_results_are_taken() -> None:
    begun: list[int] = []

    def begin(number: int) -> int:
        begun.append(number)
        return number

    results = map_ahead(begin, range(100), ahead=3)
    assert begun == []
    assert next(results) == 0
    time.sleep(0.1)
    assert len(begun) <= 4


def test_an_error_comes_in_the_turn_of_its_item() -> None:
    def fail_at_two(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    results = map_ahead(fail_at_two, range(5), ahead=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


def test_several_threads_work() -> None:
    barrier = threading.Barrier(min(2, count()), timeout=20)
    assert len(list(map_ahead(lambda _: barrier.wait(), range(2 * count()), ahead=4))) > 0
