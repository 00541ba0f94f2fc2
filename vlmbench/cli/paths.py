"""Names and folders that no disk can hold, refused before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from vlmbench.system.text import typed_setting
from vlmbench.types import UserError

# A file name has at most 255 bytes. Dates, numbers and endings come to the user's own part.
MAX_BYTES = 200
MAX_FOLDER_BYTES = 225  # of a part of a folder, which has the date already
MAX_PATH = 3000  # bytes; Linux takes 4096, with the names of our files
SYSTEM_FOLDERS = tuple(map(Path, ("/dev", "/proc", "/sys")))
WRITTEN = ("sweep", "data_dir", "cache_dir", "predict.out", "export.out")
NAMES = ("name", "run_label")


def check_paths(config: DictConfig) -> None:
    """Raise UserError for a name or an output folder that cannot be made on a disk."""
    for name in NAMES:
        if not OmegaConf.is_interpolation(config, name):  # the default, of names of ours
            _check_name(name, str(config[name]))

    for name in WRITTEN:
        value = OmegaConf.select(config, name)
        if value is not None:
            _check_folder(name, Path(str(value)))


def _check_name(name: str, text: str) -> None:
    _check_length(name, text, text)
    if name == "run_label" and "/" in text:
        cure = typed_setting(name, text.replace("/", "_"))
        raise UserError(f"{name}={text}: the name of a run's folder must have no slash; set {cure}")


def _check_folder(name: str, folder: Path) -> None:
    for part in folder.parts:
        _check_length(name, part, str(folder), MAX_FOLDER_BYTES)
    if len(os.fsencode(folder)) > MAX_PATH:
        raise UserError(
            f"{name} must have at most {MAX_PATH} bytes, got {len(os.fsencode(folder))}; "
            f"set {name}={_short_example(name)}"
        )

    for path in (folder, *folder.parents):
        if path.is_symlink() and not path.exists():
            raise UserError(
                f"{name}={folder}: {path} is a link that leads to nothing; remove the link, or set "
                f"{name}={_short_example(name)}"
            )

    obstacle = next(_existing(folder), None)
    is_special = obstacle is not None and not (obstacle.is_dir() or obstacle.is_file())
    absolute = Path(os.path.normpath(folder.absolute()))
    if is_special or any(absolute.is_relative_to(system) for system in SYSTEM_FOLDERS):
        raise UserError(
            f"{name}={folder}: vlmbench writes files there, and the path belongs to the "
            f"operating system; set {name}={_short_example(name)}"
        )
    _check_is_folder(obstacle)


def _check_is_folder(obstacle: Path | None) -> None:
    if obstacle is not None and obstacle.is_file():
        raise UserError(
            f"{obstacle} is a file, and a folder must be there; move the file, or name another "
            "folder"
        )


def _check_length(name: str, part: str, value: str, most: int = MAX_BYTES) -> None:
    size = len(os.fsencode(part))
    if size > most:
        short = os.fsencode(part)[:60].decode(errors="ignore").strip()
        cure = typed_setting(name, value.replace(part, short))
        raise UserError(
            f"{name} must have at most {most} bytes in each name (a Japanese letter has 3), "
            f"got {size}; set {cure}"
        )


def _existing(folder: Path) -> Iterator[Path]:
    """Yield the folder and its parents that exist, the innermost first."""
    for path in (folder, *folder.parents):
        if path.exists():
            yield path


def _short_example(name: str) -> str:
    return {"sweep": "runs/mine", "data_dir": "data", "cache_dir": ".cache"}.get(name, "out")
