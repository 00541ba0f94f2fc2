"""Read the skeletons of plug-ins that CONTRIBUTING.md shows."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SKELETON = re.compile(r'^```(?:python|yaml) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def read_skeletons() -> dict[str, str]:
    """Return the text of every skeleton by the path of its file, relative to the repository."""
    return dict(SKELETON.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))


def skeletons_by_kind() -> dict[str, list[str]]:
    """Return the paths of the skeletons of each section, such as {"A metric": [...]}."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    files = {
        section.splitlines()[0]: [path for path, _ in SKELETON.findall(section)]
        for section in sections
    }
    return {kind: paths for kind, paths in files.items() if paths}


def write_plugins(folder: Path, *names: str) -> None:
    """Write skeletons into a folder for VLMBENCH_PLUGINS, which has no folder vlmbench/."""
    for name in names:
        path = folder / name.removeprefix("vlmbench/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(read_skeletons()[name], encoding="utf-8")


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
