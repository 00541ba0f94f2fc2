"""Full-size random models in memory, and runs as processes of their own.

Each run has its own process because Unsloth changes transformers when it is imported.
"""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The settings of the folders in which the runs of a session keep generated images."""
    folder = tmp_path_factory.mktemp("gpu")
    return f"data_dir={folder / 'data'}", f"cache_dir={folder / 'cache'}"
