"""Your own records: a manifest in JSON lines, with images beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from vlmbench.config import SourceConfig, schema, setting


@schema("source", "manifest")
@dataclass(kw_only=True)
class ManifestConfig(SourceConfig):
    """`path` is the manifest. It is used where it is, without a copy."""

    path: str = setting(MISSING, "Manifest, a JSON-lines file.", cure="mine.jsonl")

    def prepare(self, data_dir: Path) -> Path:
        try:
            return Path(self.path).resolve()
        except (OSError, ValueError, RuntimeError):  # no file can have such a path
            return Path(self.path)
