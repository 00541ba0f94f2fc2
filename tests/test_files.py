"""Files that are whole, and on the disk before anything counts on them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vlmbench.files import SEAL, damage, needing_room, seal, unseal, write_whole
from vlmbench.types import UserError


def test_a_file_and_then_its_name_are_forced_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(handle: int) -> None:
        done.append("folder" if os.fstat(handle).st_mode & 0o040000 else "file")
        fsync(handle)

    def note_rename(self: Path, target: Path) -> Path:
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr("os.fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    write_whole(tmp_path / "a.json", "x")
    assert done == ["file", "rename", "folder"]


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint-2"
    (folder / "deep").mkdir(parents=True)
    (folder / "weights").write_bytes(b"0123456789")
    (folder / "deep" / "state").write_bytes(b"abc")
    seal(folder, of="this run")
    return folder


def test_a_sealed_folder_is_whole(sealed: Path) -> None:
    assert damage(sealed) == ""
    assert damage(sealed, of="this run") == ""


SPOILERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda folder: (folder / "weights").write_bytes(b"01234"), "weights is damaged"),
    "flipped": (lambda folder: (folder / "weights").write_bytes(b"0123456788"), "weights is damaged"),
    "deep": (lambda folder: (folder / "deep" / "state").write_bytes(b""), "deep/state is damaged"),
    "missing": (lambda folder: (folder / "weights").unlink(), "weights is missing"),
    "unsealed": (unseal, "not written to its end"),
    "seal cut": (lambda folder: (folder / SEAL).write_bytes((folder / SEAL).read_bytes()[:20]), "json is damaged"),
    "seal of another kind": (lambda folder: (folder / SEAL).write_text("[1]"), "json is damaged"),
}


@pytest.mark.parametrize("how", SPOILERS)
def test_damage_is_found(sealed: Path, how: str) -> None:
    spoil, why = SPOILERS[how]
    spoil(sealed)
    assert why in damage(sealed)


def test_what_another_run_sealed_is_not_used(sealed: Path) -> None:
    assert "other settings or other data" in damage(sealed, of="another run")


def write_without_room(error: OSError) -> None:
    with needing_room("runs/s"):
        raise error


def test_a_full_disk_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match=r"runs/s cannot be written .*No space left.*make room there"):
        write_without_room(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(ConnectionError):
        write_without_room(ConnectionError("not about disks"))


def test_a_file_in_a_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    for place in (tmp_path / "data", tmp_path / "data" / "deep"):
        with pytest.raises(UserError, match=r"/data: a file is where a folder has to be"), needing_room("x"):
            place.mkdir(parents=True, exist_ok=True)


def test_a_folder_that_is_there_already_is_no_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), needing_room("x"):
        tmp_path.mkdir()
