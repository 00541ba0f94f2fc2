"""Check that a run reads the files whose hashes it recorded, from its start to its end."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vlmbench.data.images import ImageFacts, file_sha256, file_version
from vlmbench.data.lines import changed_error
from vlmbench.data.manifest import Manifest, hash_name
from vlmbench.types import FileVersion, UserError


@dataclass(frozen=True, slots=True, eq=False)
class ReadFiles:
    """The manifest and the images of a run, as they were when they were hashed.

    A file with the recorded size and times is taken as unchanged; another one is hashed again.
    """

    manifest: Manifest
    facts: Mapping[int, ImageFacts]
    _versions: dict[int, FileVersion | None] = field(default_factory=dict)

    def check(self, path: Path, content: bytes) -> None:
        """Raise UserError if the bytes that were just read are not those that were hashed."""
        key, fact = self._fact(path)
        version = file_version(path, None)
        if version == self._versions.get(key, fact.version):
            return

        if hashlib.sha256(content).hexdigest() != fact.sha256:
            raise changed_error(path)
        self._versions[key] = version

    def check_file(self, path: Path) -> None:
        """Raise UserError if a file is not as it was when it was hashed."""
        key, fact = self._fact(path)
        version = file_version(path, None)
        if version is not None and version == self._versions.get(key, fact.version):
            return

        try:
            sha256 = file_sha256(path)
        except OSError:
            sha256 = ""
        if sha256 != fact.sha256:
            raise changed_error(path)
        self._versions[key] = version

    def check_all(self) -> None:
        """Raise UserError if the manifest or any of its images is not as it was."""
        self.manifest.check_unchanged()
        seen: set[Path] = set()
        for record in self.manifest:
            for image in record.images:
                if image.path not in seen:
                    seen.add(image.path)
                    self.check_file(image.path)

    def _fact(self, path: Path) -> tuple[int, ImageFacts]:
        key = hash_name(self.manifest.image_name(path))
        if key not in self.facts:
            raise UserError(
                f"{path}: the image was not read when the data were checked; name it in a row of "
                f"{self.manifest.path}"
            )

        return key, self.facts[key]
