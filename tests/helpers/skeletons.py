"""Read the skeletons of plug-ins that CONTRIBUTING.md shows."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SKELETON = re.compile(r'^```(?:python|yaml) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def read_skeletons() -> dict[str, str]:
    """Return the text of every skeleton by the path of its file, relative to the repository."""
    return dict(SKELETON.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))


def write_skeletons(folder: Path, *names: str) -> list[Path]:
    """Write skeletons into a copy of the repository at `folder` and return their paths.

    `names` are paths such as "vlmbench/metrics/mine.py"; none: all of them.
    """
    skeletons = read_skeletons()
    paths = []

    for name in names or tuple(skeletons):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(skeletons[name], encoding="utf-8")
        paths.append(path)
    return paths
