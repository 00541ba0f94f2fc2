"""Files that change while a run reads them: an error names the file, and nothing is finished."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import REPOSITORY, ManifestBuilder, Outcome, image
from tests.helpers.photos import photos_in
from tests.helpers.runs import only_run
from vlmbench.data.images import open_image
from vlmbench.data.load import read_images
from vlmbench.data.manifest import open_manifest
from vlmbench.data.photos import photo as photo_module
from vlmbench.data.photos.pairs import PairsConfig
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.data.unchanged import ReadFiles
from vlmbench.data.viewer import Viewer
from vlmbench.features.disk import DiskLevel
from vlmbench.runs.folder import State
from vlmbench.types import ImageRef, Role, UserError

CHANGED = "was changed while the run read it"
Change = Callable[[Path], None]


def overwrite(content: Callable[[bytes], bytes]) -> Change:
    """Return a change that writes into the same file."""

    def change(path: Path) -> None:
        new = content(path.read_bytes())
        with path.open("r+b") as file:
            file.truncate(0)
            file.write(new)

    return change


def replaced(path: Path) -> None:
    """Put another file at the path, as editors do."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[::-1])
    other.replace(path)


def same_size_and_time(path: Path) -> None:
    """Change one byte, and put the time of the file back."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


CHANGES: dict[str, Change] = {
    "cut to nothing": overwrite(lambda content: b""),
    "cut to half": overwrite(lambda content: content[: len(content) // 2]),
    "cut by a byte": overwrite(lambda content: content[:-1]),
    "bytes at the end": overwrite(lambda content: content + b"\n\0"),
    "zeros": overwrite(lambda content: bytes(len(content))),
    "bytes at the start": overwrite(lambda content: b"\n\n" + content),
    "another file": replaced,
    "same size and time": same_size_and_time,
    "removed": lambda path: path.unlink(),
}
# The manifest that is open stays as it was; the end of the run sees the other one.
ONLY_AT_THE_END = {"another file", "removed", "bytes at the end"}


@pytest.mark.parametrize("how", CHANGES)
def test_a_manifest_that_changes_is_an_error(manifest: ManifestBuilder, how: str) -> None:
    records = open_manifest(manifest.write())
    before = [record.id for record in records]
    records._decoded.clear()
    CHANGES[how](records.path)

    if how in ONLY_AT_THE_END:
        assert [record.id for record in records] == before
    else:
        with pytest.raises(UserError, match=CHANGED):
            list(records)
    with pytest.raises(UserError, match=CHANGED) as raised:
        records.check_unchanged()
    assert str(records.path) in str(raised.value)


def test_a_manifest_that_is_cut_does_not_end_the_process(manifest: ManifestBuilder) -> None:
    """In a process of its own: a mapped file that is cut ends in a bus error."""
    for row in manifest.rows:
        row["meta"] = {"padding": "x" * 2000}  # several pages
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from vlmbench.data.manifest import open_manifest\n"
        "records = open_manifest(Path(sys.argv[1]))\nos.truncate(sys.argv[1], 0)\n"
        "try:\n    list(records)\nexcept Exception as error:\n    print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(manifest.write())],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert (done.returncode, done.stdout.strip()) == (0, "UserError"), done.stderr


@pytest.fixture
def files(manifest: ManifestBuilder, tmp_path: Path) -> ReadFiles:
    """Two parts, and the facts of their images."""
    del manifest.rows[6:]
    records = open_manifest(manifest.write())
    return ReadFiles(records, read_images(records, tmp_path / "cache"))


def viewer_of(files: ReadFiles, cache: Path) -> Viewer:
    return Viewer(
        files.manifest.folder,
        name="copy",
        process=lambda pixels: pixels.copy(),
        fingerprint="x",
        cache=cache,
        check=files.check,
    )


def blank(path: Path) -> None:
    Image.new("RGB", (64, 56)).save(path)


IMAGE_CHANGES = {**CHANGES, "a blank image": blank}


@pytest.mark.parametrize("view", ["raw", "copy"])
@pytest.mark.parametrize("how", IMAGE_CHANGES)
def test_an_image_that_changes_is_an_error(
    files: ReadFiles, tmp_path: Path, how: str, view: str
) -> None:
    path = files.manifest[0].images[0].path
    viewer = viewer_of(files, tmp_path / "views")
    reference = ImageRef(path=path, role=Role.REFERENCE, view=view)
    IMAGE_CHANGES[how](path)

    with pytest.raises(UserError) as raised:
        viewer.open(reference)
    gone = {"removed": "does not exist", "cut to nothing": "is empty"}
    assert gone.get(how, CHANGED) in str(raised.value)
    assert str(path) in str(raised.value)
    with pytest.raises(UserError, match=CHANGED) as raised:
        files.check_all()
    assert str(path) in str(raised.value)


def test_a_blank_control_shows_no_changed_size(files: ReadFiles, tmp_path: Path) -> None:
    path = files.manifest[0].images[0].path
    blank(path)
    with pytest.raises(UserError, match=CHANGED):
        viewer_of(files, tmp_path).open(
            ImageRef(path=path, role=Role.REFERENCE, view="raw", blank=True)
        )


@pytest.mark.parametrize(
    "touch",
    [
        lambda path: os.utime(path),
        lambda path: path.write_bytes(path.read_bytes()),
        lambda path: path.chmod(0o600),
        lambda path: os.link(path, path.with_suffix(".link")),
    ],
    ids=["touched", "written again", "permissions", "another name"],
)
def test_a_file_with_the_same_bytes_is_unchanged(
    files: ReadFiles, tmp_path: Path, touch: Change
) -> None:
    path = files.manifest[0].images[0].path
    viewer = viewer_of(files, tmp_path)
    expected = viewer.open(files.manifest[0].images[0]).tobytes()
    touch(path)

    assert viewer.open(files.manifest[0].images[0]).tobytes() == expected
    files.check_all()


def test_an_image_that_no_row_names_is_not_shown(files: ReadFiles, tmp_path: Path) -> None:
    stranger = files.manifest.folder / "img" / "stranger.png"
    image(999).save(stranger)
    with pytest.raises(UserError, match="was not read when the data were checked"):
        viewer_of(files, tmp_path).open(ImageRef(path=stranger, role=Role.QUERY, view="raw"))


@pytest.mark.parametrize(("mode", "suffix"), [("L", ".bmp"), ("RGB", ".tif"), ("L", ".tif")])
def test_pixels_outlive_their_file(tmp_path: Path, mode: str, suffix: str) -> None:
    """Pillow maps plain files that are shown by their path."""
    path = tmp_path / f"a{suffix}"
    values = np.arange(400 * 300, dtype=np.uint32).astype(np.uint8).reshape(300, 400)
    Image.fromarray(values).convert(mode).save(path)
    shown = open_image(path)
    os.truncate(path, 0)
    assert np.array_equal(np.asarray(shown)[:, :, 0], values)


@pytest.mark.parametrize("how", ["cut to half", "a blank image", "another file"])
def test_photos_that_change_while_they_are_copied_are_an_error(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = photos_in(tmp_path / "photos")
    victim = photos / "good" / "good5.png"
    copyfile = photo_module.shutil.copyfile

    def change_and_copy(source: Path, target: Path) -> None:
        if source == victim:
            IMAGE_CHANGES[how](victim)
        copyfile(source, target)

    monkeypatch.setattr(photo_module.shutil, "copyfile", change_and_copy)
    config = FolderConfig(path=str(photos), pairs=PairsConfig(lots=3))
    with pytest.raises(UserError, match="changed while") as raised:
        config.prepare(tmp_path / "data")
    assert "good5.png" in str(raised.value)
    assert not list((tmp_path / "data").glob("folder-*"))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 60, -40, -1])
def test_a_cut_entry_of_the_store_is_a_miss(tmp_path: Path, size: int) -> None:
    level = DiskLevel(tmp_path, "f", 10**9)
    tokens = torch.arange(600, dtype=torch.bfloat16).view(30, 20)
    level.write("aa1", tokens)
    level.close()
    path = level.path("aa1")
    assert torch.equal(level.read("aa1"), tokens)

    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    assert level.describe("aa1") is None
    assert level.read("aa1") is None
    assert not path.exists()


def header(content: bytes, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    return size.to_bytes(8, "little") + content


HEADERS = {
    "endless": header(b"{}", 2**60),
    "no JSON": header(b"hello"),
    "a list": header(b"[]"),
    "no tensor": header(b"{}"),
    "another type": header(b'{"tokens":{"dtype":"Q","shape":[]}}'),
    "a huge shape": header(b'{"tokens":{"dtype":"F32","shape":[99999999999]}}'),
    "a shape beyond numbers": header(b'{"tokens":{"dtype":"F32","shape":[1e999]}}'),
    "a negative shape": header(b'{"tokens":{"dtype":"F32","shape":[-5, 3]}}'),
    "a shape of text": header(b'{"tokens":{"dtype":"F32","shape":"ab"}}'),
    "deep": header(b"[" * 90_000),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_strange_entry_of_the_store_is_a_miss(tmp_path: Path, name: str) -> None:
    level = DiskLevel(tmp_path, "f", 10**9)
    path = level.path("aa1")
    path.parent.mkdir(parents=True)
    path.write_bytes(HEADERS[name])
    assert level.read("aa1") is None
    assert not path.exists()


@pytest.mark.slow
def test_a_run_whose_data_change_is_not_finished(
    cli: Callable[..., Outcome],
    manifest: ManifestBuilder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vlmbench.pipeline import execute

    path = manifest.write()
    victim = manifest.folder / "img" / "3-good.png"
    before, fit = victim.read_bytes(), execute.fit

    def fit_and_change(*arguments: object) -> object:
        fitted = fit(*arguments)
        blank(victim)
        return fitted

    monkeypatch.setattr(execute, "fit", fit_and_change)
    command = (
        *("model=llama32_tiny", "trainer=debug", "source=manifest", f"source.path={path}"),
        *("tracking=off", "view=raw", "baseline=[]"),
    )
    done = cli(*command)

    assert done.code == 2, done.err
    assert CHANGED in done.err
    assert str(victim) in done.err
    run = only_run(Path.cwd())
    assert run.read_status()["state"] == State.FAILED
    assert not (run.path / "metrics.json").exists()

    # The cure: put the old file back, and start the command again.
    monkeypatch.setattr(execute, "fit", fit)
    victim.write_bytes(before)
    assert cli(*command).code == 0
