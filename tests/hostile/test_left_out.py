"""Files that are no photos: litter is passed over and said once, what may be a photo is refused."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import image
from tests.helpers.mvtec import mvtec
from tests.helpers.photos import photos_in
from vlmbench.data.load import read_images
from vlmbench.data.manifest import open_manifest
from vlmbench.data.photos import left_out
from vlmbench.data.photos.left_out import MAX_BESIDE
from vlmbench.data.photos.pairs import PairsConfig
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.data.sources.mvtec import MvtecConfig
from vlmbench.types import UserError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ANNEX = b"/annex/objects/SHA256E-s3172--0a1b.png\n"
Spoil = Callable[[Path], object]


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_out, "_said", set())


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [record.getMessage() for record in caplog.records]
    return [message for message in said if "passed over" in message or "left out" in message]


def prepare(photos: Path, tmp_path: Path) -> Path:
    config = FolderConfig(path=str(photos), pairs=PairsConfig(lots=3))
    return config.prepare(tmp_path / "data")


def spoil_photos(spoil: Spoil) -> Callable[[Path], None]:
    def change(good: Path) -> None:
        for path in sorted(good.glob("*.png"))[:6]:
            path.unlink()
            spoil(path)

    return change


# What stands in good/ beside or instead of photos -> words of the error.
REFUSED: dict[str, tuple[Spoil, str]] = {
    "links of DVC that lead nowhere": (
        spoil_photos(lambda path: path.symlink_to("/nowhere/.dvc/cache/aa/bb")),
        "6 files (good0.png, good1.png, good10.png, ...); fetch the files (dvc pull",
    ),
    "one link that leads nowhere": (
        lambda good: (good / "x.png").symlink_to("nowhere.png"),
        "1 file (x.png); fetch the files (dvc pull",
    ),
    "a link without ending": (
        lambda good: (good / "x").symlink_to("nowhere"),
        "links that lead to no file",
    ),
    "links in a circle": (
        lambda good: ((good / "a.png").symlink_to("b.png"), (good / "b.png").symlink_to("a.png")),
        "links that lead to no file",
    ),
    "a link to a folder": (
        lambda good: (good / "more").symlink_to(good.parent / "bad"),
        "links to folders are not followed",
    ),
    "a pipe": (lambda good: os.mkfifo(good / "x.png"), "not plain files"),
    "a link to a device": (
        lambda good: (good / "x.png").symlink_to("/dev/null"),
        "links that lead to no file",
    ),
    "pointers of Git LFS": (
        spoil_photos(lambda path: path.write_bytes(LFS)),
        "pointer of Git LFS without the content; fetch it: git lfs pull",
    ),
    "pointers of git-annex": (
        spoil_photos(lambda path: path.write_bytes(ANNEX)),
        "pointer of git-annex without the content; fetch it: git annex get .",
    ),
    "empty files": (
        spoil_photos(lambda path: path.write_bytes(b"")),
        "the file is empty (0 bytes); replace it",
    ),
    "photos of another format": (
        lambda good: [(good / f"{i}.heic").write_bytes(b"x") for i in range(2)],
        "2 files (0.heic, 1.heic) is not one of",
    ),
    "one photo of another format": (
        lambda good: (good / "a.gif").write_bytes(b"GIF89a"),
        "1 file (a.gif) is not one of",
    ),
    "a packed folder": (lambda good: (good / "a.zip").write_bytes(b"PK"), "(a.zip)"),
    "an ending with a blank": (lambda good: (good / "a.png ").write_bytes(b"x"), "(a.png )"),
    "a backup": (lambda good: (good / "a.png~").write_bytes(b"x"), "(a.png~)"),
    "a download that did not end": (
        lambda good: (good / "a.png.part").write_bytes(b"x"),
        "(a.png.part)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_photo_never_vanishes(tmp_path: Path, name: str) -> None:
    photos = photos_in(tmp_path / "photos")
    spoil, words = REFUSED[name]
    spoil(photos / "good")

    with pytest.raises(UserError) as raised:
        prepare(photos, tmp_path)
    assert words in str(raised.value)
    assert str(photos) in str(raised.value)
    assert not list((tmp_path / "data").glob("folder-*"))


@pytest.mark.parametrize("name", ["links of DVC that lead nowhere", "one photo of another format"])
def test_the_cure_of_a_vanished_photo_helps(tmp_path: Path, name: str) -> None:
    photos = photos_in(tmp_path / "photos")
    REFUSED[name][0](photos / "good")
    for path in (photos / "good").iterdir():  # remove the links, move the file
        if path.is_symlink() or path.suffix == ".gif":
            path.unlink()
    assert prepare(photos, tmp_path).is_file()


# Litter and what may stand beside photos: the photos are used, and the files are said once.
PASSED_OVER: dict[str, tuple[Spoil, str]] = {
    "Thumbs.db": (lambda good: (good / "Thumbs.db").write_bytes(b"x"), "1 file (Thumbs.db)"),
    "thumbs.db": (lambda good: (good / "thumbs.DB").write_bytes(b"x"), "1 file (thumbs.DB)"),
    "desktop.ini": (lambda good: (good / "desktop.ini").write_text("x"), "1 file (desktop.ini)"),
    "macOS": (
        lambda good: [(good / name).write_bytes(b"x") for name in (".DS_Store", "._good0.png")],
        "2 files (.DS_Store, ._good0.png)",
    ),
    "a hidden folder": (
        lambda good: ((good / ".cache").mkdir(), image(1).save(good / ".cache" / "x.png")),
        "1 file (x.png)",
    ),
    "a folder of macOS": (
        lambda good: ((good / "__MACOSX").mkdir(), image(1).save(good / "__MACOSX" / "x.png")),
        "1 file (x.png)",
    ),
    "a folder of a NAS": (
        lambda good: ((good / "@eaDir").mkdir(), image(1).save(good / "@eaDir" / "x.png")),
        "1 file (x.png)",
    ),
    "a README": (lambda good: (good / "README").write_text("x"), "1 file (README)"),
    "three notes": (
        lambda good: [(good / f"{i}.txt").write_text("x") for i in range(MAX_BESIDE)],
        "3 text files, such as good/0.txt, are passed over",
    ),
    "texts that are no labels": (
        lambda good: [(good / f"{i}.txt").write_text("0 0 0 1 1") for i in range(16)],
        "16 text files, such as good/0.txt, are passed over",
    ),
    "a folder with another name": (
        lambda good: (
            (good.parent / "Bad parts").mkdir(),
            image(1).save(good.parent / "Bad parts" / "x.png"),
        ),
        "1 photo is left out, because nothing gives a label: Bad parts (1)",
    ),
    "photos beside good and bad": (
        lambda good: image(1).save(good.parent / "x.png"),
        "1 photo is left out, because nothing gives a label: . (1)",
    ),
}


@pytest.mark.parametrize("name", PASSED_OVER)
def test_litter_is_passed_over_and_said_once(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    photos = photos_in(tmp_path / "photos")
    spoil, words = PASSED_OVER[name]
    spoil(photos / "good")

    with caplog.at_level(logging.WARNING):
        config = FolderConfig(path=str(photos), pairs=PairsConfig(lots=3))
        assert len(config.photos()) == 24
        config.photos()
    assert [words in message for message in messages(caplog)] == [True]


def test_photos_that_the_table_does_not_list_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = photos_in(tmp_path / "photos")
    lines = ["path,label", *(f"good/good{i}.png,normal" for i in range(16))]
    lines += [f"bad/bad{i}.png,abnormal" for i in range(3)]
    (photos / "l.csv").write_text("\n".join(lines))
    (photos / "link.png").symlink_to("nowhere")

    with caplog.at_level(logging.WARNING):
        assert len(FolderConfig(path=str(photos), table="l.csv").photos()) == 19
    (message,) = messages(caplog)
    assert "6 files (bad3.png, bad4.png, bad5.png, ...)" in message
    assert "l.csv does not list them" in message


def test_a_link_in_a_table_that_leads_nowhere_has_its_own_cure(tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos")
    (photos / "good" / "x.png").symlink_to("nowhere")
    (photos / "l.csv").write_text("path,label\ngood/x.png,normal\n")
    with pytest.raises(UserError, match="its link leads to no file; fetch the file"):
        FolderConfig(path=str(photos), table="l.csv").photos()


def test_a_link_in_a_manifest_that_leads_nowhere_has_its_own_cure(
    tmp_path: Path, manifest: object
) -> None:
    path = manifest.write()
    victim = path.parent / "img" / "1-good.png"
    victim.unlink()
    victim.symlink_to("nowhere")
    with pytest.raises(UserError, match="its link leads to no file"):
        read_images(open_manifest(path), tmp_path / "cache")


def test_links_to_files_of_the_same_folder_are_photos(tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos")
    (photos / "store").mkdir()
    for path in sorted((photos / "good").glob("*.png")):
        path.rename(photos / "store" / path.name)
        path.symlink_to(photos.resolve() / "store" / path.name)
    assert prepare(photos, tmp_path).is_file()


@pytest.mark.parametrize("kind", ["link", "folder of links", "mask", "loose photo"])
def test_nothing_vanishes_from_an_mvtec_folder(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = mvtec(tmp_path / "mvtec")
    folder = next(path for path in sorted(root.rglob("test")) if path.is_dir())
    config = MvtecConfig(path=str(root))
    number = len(config.photos())
    caplog.clear()

    if kind == "mask":
        truth = next(path for path in sorted((folder.parent / "ground_truth").iterdir()))
        image(1).convert("L").save(truth / "other_GT.png")
        assert len(config.photos()) == number
        assert ["other_GT.png" in message for message in messages(caplog)] == [True]
    elif kind == "loose photo":
        image(1).save(folder / "loose.png")
        assert len(config.photos()) == number
        assert ["loose.png" in message for message in messages(caplog)] == [True]
    else:
        where = folder / "good" if kind == "link" else folder
        (where / "x.png").symlink_to("nowhere")
        with pytest.raises(UserError, match="links that lead to no file"):
            config.photos()


@pytest.mark.parametrize("content", [LFS, ANNEX])
def test_a_pointer_instead_of_a_parquet_file_is_named(tmp_path: Path, content: bytes) -> None:
    from vlmbench.data.sources.huggingface import HuggingFaceConfig

    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "train.parquet").write_bytes(content)
    with pytest.raises(UserError, match="without the content; fetch it: git"):
        HuggingFaceConfig(path=str(tmp_path / "hf")).prepare(tmp_path / "data")


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = photos_in(tmp_path / "photos")
    (photos / "good" / "more").mkdir()
    scandir = os.scandir

    def refuse(path: object = ".") -> object:
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"more: the folder cannot be read.*chmod u\+rx"):
        FolderConfig(path=str(photos)).photos()


def test_a_photo_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = photos_in(tmp_path / "photos")
    open_path = Path.open

    def refuse(path: Path, *arguments: object, **settings: object) -> object:
        if path.name == "good3.png":
            raise PermissionError(13, "Permission denied", str(path))
        return open_path(path, *arguments, **settings)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"good3\.png: the file cannot be read .*chmod u\+r"):
        prepare(photos, tmp_path)


def test_folders_may_be_deep(tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos")
    here = Path.cwd()
    os.chdir(photos / "good")
    try:
        for _ in range(1500):
            os.mkdir("a")  # noqa: PTH102 - the whole path is too long
            os.chdir("a")
    finally:
        os.chdir(here)

    assert len(FolderConfig(path=str(photos)).photos()) == 24
    subprocess.run(["rm", "-r", str(photos)], check=True)  # shutil.rmtree is recursive
