"""Work on several items at once, in threads: results come in order, and few items are ahead.

Decoding images, hashing and reading files leave Python's lock to other threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Threads of the largest images, 101 million pixels, hold 0.5 GB each.
MAX_THREADS = 8


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Result]:
    """Return `function` of each item in order; at most `ahead` more items are begun.

    An error of an item is raised in its place. Items that were begun are then finished, not used.
    """
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(_pool().submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def count() -> int:
    """Return the number of threads that work at once: one a core, up to MAX_THREADS."""
    return min(MAX_THREADS, os.cpu_count() or 1)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count(), thread_name_prefix="work")
