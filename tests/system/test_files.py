"""Files are complete and flushed to disk before anything depends on them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vlmbench.system.files import (
    SEAL,
    explain_disk_errors,
    find_damage,
    seal,
    unseal,
    write_whole,
)
from vlmbench.types import UserError


def test_a_file_is_flushed_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(handle: int) -> None:
        calls.append("folder" if os.fstat(handle).st_mode & 0o040000 else "file")
        fsync(handle)

    def note_rename(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr("os.fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    write_whole(tmp_path / "a.json", "x")
    assert calls == ["file", "rename", "folder"]


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint-2"
    (folder / "deep").mkdir(parents=True)
    (folder / "weights").write_bytes(b"0123456789")
    (folder / "deep" / "state").write_bytes(b"abc")
    seal(folder, of="this run")
    return folder


def test_a_sealed_folder_has_no_damage(sealed: Path) -> None:
    assert find_damage(sealed) == ""
    assert find_damage(sealed, of="this run") == ""


SPOILERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda folder: (folder / "weights").write_bytes(b"01234"), "weights is damaged"),
    "flipped": (
        lambda folder: (folder / "weights").write_bytes(b"0123456788"),
        "weights is damaged",
    ),
    "deep": (lambda folder: (folder / "deep" / "state").write_bytes(b""), "deep/state is damaged"),
    "missing": (lambda folder: (folder / "weights").unlink(), "weights is missing"),
    "unsealed": (unseal, "it is incomplete"),
    "seal cut": (
        lambda folder: (folder / SEAL).write_bytes((folder / SEAL).read_bytes()[:20]),
        "json is damaged",
    ),
    "seal of another kind": (lambda folder: (folder / SEAL).write_text("[1]"), "json is damaged"),
}


@pytest.mark.parametrize("how", SPOILERS)
def test_damage_is_found(sealed: Path, how: str) -> None:
    spoil, why = SPOILERS[how]
    spoil(sealed)
    assert why in find_damage(sealed)


def test_a_folder_of_another_run_is_refused(sealed: Path) -> None:
    assert "other settings or other data" in find_damage(sealed, of="another run")


def fail_to_write(error: OSError) -> None:
    with explain_disk_errors("runs/s"):
        raise error


def test_a_full_disk_is_a_user_error() -> None:
    with pytest.raises(
        UserError, match=r"runs/s cannot be written .*No space left.*make room there"
    ):
        fail_to_write(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(ConnectionError):
        fail_to_write(ConnectionError("not about disks"))


def test_a_file_at_the_path_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    for path in (tmp_path / "data", tmp_path / "data" / "deep"):
        with (
            pytest.raises(
                UserError, match=r"/data is a file, and a folder must be there; move the file"
            ),
            explain_disk_errors("x"),
        ):
            path.mkdir(parents=True, exist_ok=True)


def test_an_existing_folder_is_no_user_error(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), explain_disk_errors("x"):
        tmp_path.mkdir()
