"""What env.json says of where a run was made."""

from __future__ import annotations

import pytest

from vlmbench import __version__
from vlmbench.config import Engine, Vision
from vlmbench.runs import identity as provenance


def test_unsloths_versions_are_named_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "version", lambda name: f"{name} 1")
    stock, fast = (
        provenance.environment(engine, "", Vision.frozen)["versions"]
        for engine in (Engine.transformers, Engine.unsloth)
    )
    assert stock["vlmbench"] == __version__
    assert stock["torch"] == "torch 1"
    assert fast == stock | {"unsloth": "unsloth 1", "unsloth_zoo": "unsloth_zoo 1"}
