"""Start vlmbench's command line, from this checkout, in another folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return `base` with this checkout as the first folder that Python imports from."""
    python_path = f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return {**base, "PYTHONPATH": python_path}
