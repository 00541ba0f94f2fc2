"""Your own records: a manifest in JSON lines with pictures beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from vlmbench.config import SourceConfig, schema


@schema("source", "manifest")
@dataclass(kw_only=True)
class ManifestConfig(SourceConfig):
    path: str = MISSING

    def prepare(self, data_dir: Path) -> Path:
        return Path(self.path).resolve()
