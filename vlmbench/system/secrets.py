"""Secrets of the environment, which must not reach a run's folder, its report or W&B."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from vlmbench.types import UserError

# Names of environment variables that hold a secret, such as WANDB_API_KEY and HF_TOKEN.
SECRET_NAME = re.compile(
    r"(^|_)(KEY|APIKEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE
)
SHORTEST_SECRET = 8  # characters; a shorter value occurs in other words by chance
ENVIRONMENT_REFERENCE = re.compile(r"oc\.env:\s*(\w+)")  # OmegaConf's ${oc.env:NAME}


def refuse_secrets(texts: Iterable[str]) -> None:
    """Raise UserError if a text holds or refers to a secret of the environment.

    The message names the environment variable and never its value.
    """
    secrets = {
        name: value
        for name, value in os.environ.items()
        if SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET
    }

    for text in texts:
        referenced = [
            name for name in ENVIRONMENT_REFERENCE.findall(text) if SECRET_NAME.search(name)
        ]
        contained = [name for name, value in secrets.items() if value in text]

        for name in (*referenced, *contained):
            raise UserError(
                f"a setting holds the value of the environment variable {name}, and vlmbench "
                "writes settings to the run's folder, its report and W&B; leave the setting out: "
                "W&B and the hub read their keys from the environment"
            )
