"""The standard streams: a closed pipe and letters that a terminal lacks break no run."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Any


class SteadyHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Log to a stream until its reader closes it, such as `head`; then log nowhere."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Pass over a closed pipe; report everything else as logging does."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)


def prepare_streams() -> None:
    """Let the standard output and error output take every letter, also where they are closed.

    A terminal without Japanese letters gets their code points, such as \\u5199.
    """
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:  # the shell closed it: >&-
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Discard what else is printed: the reader of the standard output is gone."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
