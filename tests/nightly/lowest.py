"""Print the packages of `make lowest`: those that read settings and files, and the test runner.

The large packages are left out: torch and what stands on it have narrow bounds.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
LARGE = frozenset(
    {"accelerate", "datasets", "efficientnet-lite-pytorch", "gguf", "peft", "scikit-image"}
    | {"statsmodels", "torch", "transformers", "trl", "wandb", "wandb-workspaces"}
)
RUNNER = frozenset({"hypothesis", "pytest"})


def light_packages() -> list[str]:
    """Return the requirements in pyproject.toml without the large packages."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    needed = [name for name in project["dependencies"] if _name(name) not in LARGE]
    return [
        *needed,
        *(name for name in project["optional-dependencies"]["dev"] if _name(name) in RUNNER),
    ]


def _name(requirement: str) -> str:
    return re.split(r"[<>=\[]", requirement)[0]


if __name__ == "__main__":
    sys.stdout.write("\n".join(light_packages()) + "\n")
