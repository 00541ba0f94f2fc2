"""Whether a model's weights can be had, asked without downloading anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def missing_weights(path: str) -> Iterator[str]:
    """What stands in the way of loading `path`, a local folder or a hub name; nothing where it can be loaded.

    A hub name that is not on this machine counts as available unless the hub is switched off (HF_HUB_OFFLINE).
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if Path(path).is_dir():
        if not (Path(path) / "config.json").exists():
            yield f"{path} has no config.json: it is not a model's folder"
    elif path.startswith((".", "/", "~")):
        yield f"there is no folder {path}"
    elif constants.HF_HUB_OFFLINE and not isinstance(try_to_load_from_cache(path, "config.json"), str):
        yield f"the weights of {path} are not on this machine, and HF_HUB_OFFLINE forbids to fetch them"
