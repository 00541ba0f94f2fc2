"""Settings of the process that must stand before torch is imported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlmbench.system import processes


@pytest.mark.parametrize("has_gpu", [True, False])
def test_idle_threads_sleep_only_on_a_machine_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: has_gpu and path == Path("/dev/nvidia0"))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    processes.let_idle_threads_sleep()
    assert os.environ.get("OMP_WAIT_POLICY") == (None if has_gpu else "PASSIVE")
    assert os.environ.get("GOMP_SPINCOUNT") == (None if has_gpu else "0")


@pytest.mark.parametrize("own", [None, "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_gpu_memory_grows_in_pieces_unless_the_user_says_otherwise(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    if own is not None:
        monkeypatch.setenv(own, "max_split_size_mb:128")

    processes.let_memory_grow()
    grows = os.environ.get("PYTORCH_ALLOC_CONF") == "expandable_segments:True"
    assert grows is (own is None)
    os.environ.pop("PYTORCH_ALLOC_CONF", None)


def test_the_users_own_setting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    processes.let_idle_threads_sleep()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]) == ("ACTIVE", "7")
