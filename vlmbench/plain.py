"""Text that others wrote, on its way to a terminal or a file; and what must not be on such a way."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable

from vlmbench.types import UserError

KEPT = "\n\t"
SECRET = re.compile(r"(^|_)(KEY|APIKEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE)
SHORTEST = 8  # characters of a secret: what is shorter stands in other words by chance
FROM_ENVIRONMENT = re.compile(r"oc\.env:\s*(\w+)")


def visible(text: str) -> str:
    """Control and direction characters become U+FFFD, so that none takes effect in a terminal."""
    return "".join(char if char.isprintable() or char in KEPT else "\ufffd" for char in text)


class PlainFormatter(logging.Formatter):
    """Logs what others wrote without what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def refuse_secrets(texts: Iterable[str]) -> None:
    """Raise UserError, without saying it, where a secret of the environment stands in what a run writes down."""
    secrets = {name: value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= SHORTEST}
    for text in texts:
        asked = [name for name in FROM_ENVIRONMENT.findall(text) if SECRET.search(name)]
        for name in (*asked, *(name for name, value in secrets.items() if value in text)):
            raise UserError(
                f"a setting holds the value of the environment variable {name}, and settings are written into the "
                "run's folder, its report and W&B; leave it out: W&B and the hub read their keys from the environment"
            )
