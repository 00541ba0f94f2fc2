"""Controls that are limited in number."""

from __future__ import annotations

from pathlib import Path

from vlmbench.data.probes import limit_probes
from vlmbench.types import ImageRef, Probe, Record, Role, Task


def test_controls_are_limited_by_kind_task_and_view() -> None:
    def control(number: int, probe: Probe, view: str) -> Record:
        path = Path(f"/x/{number}.png")
        images = tuple(
            ImageRef(path=path, role=role, view=view) for role in (Role.REFERENCE, Role.QUERY)
        )
        return Record(
            id=f"{probe}:{view}:{number}",
            task=Task.JUDGE_PAIR,
            images=images,
            answer="normal",
            label="normal",
            group=f"p{number}",
            probe=probe,
        )

    probes = [
        control(number, probe, view)
        for probe in (Probe.SWAP, Probe.BLANK)
        for view in ("raw", "rt")
        for number in range(9)
    ]
    chosen = limit_probes(probes, 3)
    assert [record.id for record in chosen[:3]] == ["swap:raw:0", "swap:raw:4", "swap:raw:8"]
    assert len(chosen) == 12
    assert limit_probes(probes, 20) == probes == limit_probes(probes, None)
