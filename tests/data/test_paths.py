"""A path that does not exist has a cure."""

from __future__ import annotations

from pathlib import Path

from vlmbench.data.paths import path_cure


def test_the_closest_existing_path_is_proposed(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photo.json").write_text("{}")

    def cure(name: str, *, is_folder: bool) -> str:
        return path_cure("a.b", tmp_path / name, is_folder=is_folder, otherwise="add it")

    assert cure("photo", is_folder=True) == f"set a.b={tmp_path / 'photos'}"
    assert cure("photos.json", is_folder=False) == f"set a.b={tmp_path / 'photo.json'}"
    assert cure("else", is_folder=True) == "add it"
    assert cure("missing/photos", is_folder=True) == "add it"
