"""Machines that several people share: other users' files, disks without locks, odd surroundings."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import SoftFileLock

from tests.conftest import REPOSITORY, Outcome
from vlmbench.backbones.devices import explain_gpu_errors
from vlmbench.data.prepared import prepared_folder
from vlmbench.features import disk
from vlmbench.features.disk import DiskLevel
from vlmbench.runs.folder import RunDir
from vlmbench.runs.planning import lock_plan
from vlmbench.system import files, locks
from vlmbench.types import UserError

NOBODY = 65534
KEYS = [f"{number:02x}" * 32 for number in range(64)]
TENSOR = torch.arange(12.0).view(3, 4)
PREPARE = ("stage=prepare", "source=parts", "source.num_parts=8", "source.size=64")


@dataclass
class Settings:
    """Settings of a prepared folder."""

    number: int = 1


def fill(folder: Path) -> None:
    (folder / "manifest.jsonl").write_text("{}\n")


def as_nobody(action: Callable[[], Any]) -> Any:
    """Return what an action returns in a process of another user, who may write to less."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            result = action()
        except BaseException as error:  # noqa: BLE001 - the parent raises it
            result = f"{type(error).__name__}: {error}"
        os.write(writer, json.dumps(result).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text)


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users may reach and read: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name, "shared")
        with umask(0o022):
            folder.mkdir()
        yield folder


def level(folder: Path, budget: int = 10**9) -> DiskLevel:
    return DiskLevel(folder, "f" * 8, budget)


def write(folder: Path, *keys: str, budget: int = 10**9) -> DiskLevel:
    store = level(folder, budget)
    for key in keys:
        store.write(key, TENSOR)
        store.close()
    return store


# The umask decides


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_decides_who_reads_what_is_written(tmp_path: Path, mask: int, mode: int) -> None:
    with umask(mask):
        store = write(tmp_path / "store", KEYS[0])
        files.write_whole(tmp_path / "text.json", "{}")
        manifest = prepared_folder(tmp_path / "data", "x", Settings(), fill)
    for path in (store.path(KEYS[0]), tmp_path / "text.json", manifest):
        assert path.stat().st_mode & 0o777 == mode, path
    assert manifest.parent.stat().st_mode & 0o777 == 0o777 & ~mask


def test_files_that_a_library_made_private_follow_the_umask(tmp_path: Path) -> None:
    private = tmp_path / "a" / "weights"
    private.parent.mkdir()
    private.touch(mode=0o600)
    with umask(0o027):
        files.follow_umask(tmp_path)
    assert private.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# Another user's store


def test_another_user_reads_the_stored_tokens(shared: Path) -> None:
    with umask(0o022):
        write(shared, KEYS[0])
    assert as_nobody(lambda: level(shared).read(KEYS[0]).tolist()) == TENSOR.tolist()


def test_an_entry_that_may_not_be_read_is_said_once_and_stays(
    shared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shared.chmod(0o777)
    with umask(0):
        store = write(shared, *KEYS[:3])
    for key in KEYS[:3]:
        store.path(key).chmod(0o000)
    for parent in {store.path(key).parent for key in KEYS[:3]}:
        parent.chmod(0o755)

    def read_all() -> list[bool]:
        logging.basicConfig(format="%(message)s", force=True)
        other = level(shared)
        found = [other.read(key) is None for key in KEYS[:3]]
        other.write(KEYS[0], TENSOR)
        other.close()
        return found

    assert as_nobody(read_all) == [True] * 3
    said = capfd.readouterr().err
    assert said.count("stored vision tokens are not used") == 1
    assert all(store.path(key).exists() for key in KEYS[:3])

    (cure,) = {line.partition("run ")[2].strip() for line in said.splitlines() if "chmod" in line}
    folder = store.path(KEYS[0]).parents[2]
    subprocess.run([*shlex.split(cure.removesuffix(" there")), str(folder)], check=True)
    assert store.path(KEYS[0]).stat().st_mode & 0o444 == 0o040


def test_a_store_that_may_not_be_written_is_said_once_and_read(
    shared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with umask(0o022):
        write(shared, KEYS[0])

    def use() -> bool:
        logging.basicConfig(format="%(message)s", force=True)
        other = write(shared, *KEYS[1:5])
        return other.read(KEYS[0]) is not None

    if os.getuid() != 0:
        pytest.skip("needs root, to be another user")
    assert as_nobody(use) is True
    assert capfd.readouterr().err.count("no more vision tokens are written") == 1


@pytest.mark.parametrize("where", ["entry", "fingerprint", "root"])
def test_an_entry_that_anybody_may_have_planted_is_not_read(
    shared: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    store = write(shared, *KEYS[:2])
    folder = {"entry": store.path(KEYS[0]).parent, "fingerprint": shared / ("f" * 8)}
    folder.get(where, shared).chmod(0o777)
    assert level(shared).read(KEYS[0]) is not None  # this user wrote it

    monkeypatch.setattr(disk.os, "getuid", lambda: 12345)
    owner = store.path(KEYS[0]).stat().st_uid
    if owner == 0:
        os.chown(store.path(KEYS[0]), 4242, -1)
    assert level(shared).read(KEYS[0]) is None
    assert "another user wrote it" in caplog.text
    assert store.path(KEYS[0]).exists()


@pytest.mark.parametrize("seed", range(6))
def test_what_another_user_plants_is_never_believed_unless_it_is_whole(
    tmp_path: Path, seed: int
) -> None:
    """Also a link to a file elsewhere, and an entry of another image."""
    store = write(tmp_path, *KEYS[:2])
    path, other = store.path(KEYS[0]), store.path(KEYS[1])
    path.unlink()
    if seed == 0:
        path.symlink_to("/dev/zero")
    elif seed == 1:
        path.write_bytes(other.read_bytes())
    elif seed == 2:
        path.symlink_to(path)
    elif seed == 3:
        path.mkdir()
    elif seed == 4:
        path.write_bytes((1 << 60).to_bytes(8, "little") + b"{")
    else:
        path.write_bytes(other.read_bytes()[:-1])
    assert level(tmp_path).read(KEYS[0]) is None


# One run's budget


def entry_size(folder: Path) -> int:
    return write(folder / "probe", KEYS[0]).path(KEYS[0]).stat().st_size


def age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in folder.rglob("*.safetensors"):
        os.utime(path, (then, then))


def test_a_small_budget_does_not_empty_the_store_of_others(tmp_path: Path) -> None:
    size, store = entry_size(tmp_path), tmp_path / "store"
    write(store, *KEYS[:40])
    age(store, 86400)
    small = level(store, 2 * size)
    for key in KEYS[40:50]:
        small.write(key, TENSOR)
        small.close()
    left = len(list(store.rglob("*.safetensors")))
    assert 40 - 3 <= left <= 42
    assert sum(small.path(key).exists() for key in KEYS[40:50]) == 2


def test_at_the_budget_old_entries_make_room_for_new_ones(tmp_path: Path) -> None:
    size, store = entry_size(tmp_path), tmp_path / "store"
    write(store, *KEYS[:10], budget=10 * size)
    age(store, 86400)
    later = write(store, *KEYS[10:20], budget=10 * size)
    assert all(later.path(key).exists() for key in KEYS[10:19])
    assert len(list(store.rglob("*.safetensors"))) <= 10


@pytest.mark.parametrize("ahead", [2 * 3600, 86400, 40 * 365 * 86400])
def test_entries_from_the_future_make_room(tmp_path: Path, ahead: float) -> None:
    """The clock was set back: the entries seem to have been used after the run began."""
    size, store = entry_size(tmp_path), tmp_path / "store"
    write(store, *KEYS[:4], budget=4 * size)
    age(store, -ahead)
    later = write(store, *KEYS[4:7], budget=4 * size)
    assert all(later.path(key).exists() for key in KEYS[4:7])


# Disks without locks


def refuse_locks(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def flock(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks, "_warned", set())


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.get)
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, request.param)


def test_a_marker_stands_in_for_a_lock_and_is_said_once(
    tmp_path: Path, no_locks: None, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDir(tmp_path / "s" / "0_x")
    for _ in range(2):
        with run.lock(), pytest.raises(UserError, match="another process works"), run.lock():
            pass
    with lock_plan(tmp_path / "s"):
        pass
    said = [row.getMessage() for row in caplog.records if "refuses locks" in row.getMessage()]
    assert len([line for line in said if line.startswith(str(run.path))]) <= 1
    assert not list(tmp_path.rglob("*.marker"))


def test_the_marker_of_a_dead_process_is_removed(tmp_path: Path, no_locks: None) -> None:
    run = RunDir(tmp_path / "0_x")
    run.path.mkdir()
    child = os.fork()
    if child == 0:
        lock = SoftFileLock(run.path / ".lock.marker")
        lock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (run.path / ".lock.marker").exists()
    with run.lock():
        pass


def test_the_marker_of_another_host_stays_with_a_cure(tmp_path: Path, no_locks: None) -> None:
    run = RunDir(tmp_path / "良品 1" / "0_x")
    run.path.mkdir(parents=True)
    marker = run.path / ".lock.marker"
    marker.write_text("123\nanother-host\n")
    with pytest.raises(UserError) as refused, run.lock():
        pass
    cure = str(refused.value).partition("run rm ")[2]
    assert shlex.split(cure) == [str(marker)]
    subprocess.run(["rm", *shlex.split(cure)], check=True)
    with run.lock():
        pass


def test_data_are_prepared_on_a_disk_without_locks(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_locks(monkeypatch, errno.ENOLCK)
    outcome = cli(*PREPARE, "data_dir=d")
    assert outcome.code == 0, outcome.err
    assert len(list((tmp_path / "d").glob("*/manifest.jsonl"))) == 1


def test_what_a_process_waits_for_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "PATIENCE_S", 0.1)
    path = tmp_path / "a.lock"
    with locks.hold(path), pytest.raises(TimeoutError), locks.hold(path, timeout=0.3):
        pass
    assert f"waiting for the process that holds {path}" in caplog.text


def test_an_error_in_the_block_is_not_taken_for_a_disk_without_locks(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="boom"), locks.hold(tmp_path / "a.lock"):
        raise OSError(errno.ENOLCK, "boom")


# Folders of another user


def test_a_prepared_folder_of_another_user_is_read_without_writing(shared: Path) -> None:
    with umask(0o022):
        prepared_folder(shared, "x", Settings(), fill)

    def read() -> str:
        return prepared_folder(shared, "x", Settings(), fill).read_text()

    assert as_nobody(read) == "{}\n"


def test_cached_facts_of_another_user_are_neither_read_nor_replaced(
    shared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from vlmbench.data import load, nearest

    private = shared / "images" / "x.npz"
    private.parent.mkdir()
    private.write_bytes(b"PK")
    private.chmod(0o000)
    if os.getuid() != 0:
        private.parent.chmod(0o555)

    def use() -> list[bool]:
        logging.basicConfig(format="%(message)s", force=True)
        with files.skip_if_forbidden(private):
            files.write_whole(private.with_name("new.json"), "{}")
        return [load._load_facts(private, {}) is None, nearest._load(private, 2) is None]

    assert as_nobody(use) == [True, True]
    private.parent.chmod(0o755)
    assert private.exists()
    said = capfd.readouterr().err
    assert said.count("are not used") == 2
    assert said.count("nothing is cached there") == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
    ids=["python", "torch"],
)
def test_a_full_memory_is_said_with_the_step_and_a_cure(error: Exception) -> None:
    full = "with 8 records a step; set trainer.batch_size=4"
    with (
        pytest.raises(UserError, match="step 3: the machine's memory is full with 8 records"),
        explain_gpu_errors(lambda: "step 3", full=full),
    ):
        raise error


# Odd surroundings of a command


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"HOME": None, "USER": None, "LOGNAME": None, "TMPDIR": "/dev/null/tmp", "LC_ALL": "C"},
        {"HOME": "/dev/null/home"},
        {"HOME": "", "XDG_CACHE_HOME": "", "PYTHONDONTWRITEBYTECODE": "1", "RANK": "1"},
    ],
    ids=str,
)
def test_a_command_works_in_odd_surroundings(
    tmp_path: Path, environment: dict[str, str | None]
) -> None:
    known = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    for name, value in environment.items():
        if value is None:
            known.pop(name, None)
        else:
            known[name] = value
    done = subprocess.run(
        [sys.executable, "-m", "vlmbench", *PREPARE, "data_dir=d"],
        cwd=tmp_path,
        env=known,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
