"""A run's folder as a following process sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vlmbench.runs.folder import RunDir, State


class FollowerDir(RunDir):
    """A run's folder in a process that follows the leader: it reads, and writes nothing."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def write_config(self, text: str) -> None: ...

    def write_status(self, state: State, *, run_hash: str, **details: Any) -> None: ...

    def write_error(self, error: str, **details: Any) -> None: ...

    def clear_error(self) -> None: ...

    def write_start(self, env: Mapping[str, Any], *, run_hash: str, **identity: Any) -> None: ...

    def write_choices(self, choices: Mapping[str, Any]) -> None: ...

    def append_train_log(self, row: Mapping[str, Any]) -> None: ...

    def cut_train_log(self, after_step: int) -> None: ...
