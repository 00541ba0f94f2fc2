"""The model card of an exported run: what it is, how it was measured, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmbench.metrics import describe
from vlmbench.report.build import markdown_environment
from vlmbench.runs.folder import RunDir
from vlmbench.types import Task

PARITY_TITLES = {  # each comparison with the adapter in the export's parity
    "merged": "adapter merged into the weights",
    "reloaded": "merged model loaded again from its files",
    "recorded": "adapter now, beside what the run had recorded",
}


def model_card(
    folder: RunDir,
    *,
    licence: str,
    base: str,
    tasks: Sequence[Task],
    rules: Mapping[str, Any],
    notes: Sequence[str],
) -> str:
    """Return the card as Markdown with the hub's front matter.

    `base` is the base model's name on the hub. The path of a local folder is left out.
    """
    status, metrics, env = folder.read_status(), folder.read_metrics(), folder.read_env()
    data = metrics.get("data", {})
    verdicts = folder.path.parent / "report" / "verdicts.json"
    parity = [(PARITY_TITLES[name], comparison) for name, comparison in rules["parity"].items()]

    template = markdown_environment().get_template("card.md.j2")
    return template.render(
        name=folder.path.name,
        base="" if _is_local(base) else base,
        licence=licence,
        status=status,
        data=data,
        warnings=[*data.get("warnings", []), *metrics.get("notes", [])],
        is_sealed=folder.is_sealed,
        checkpoints=len(folder.validation_curve()),
        figures=_figures(metrics.get("scores") or metrics.get("validation_scores", {}), tasks),
        findings=_findings(verdicts, str(status.get("model", ""))),
        env=env,
        tasks=[str(task) for task in tasks],
        rules=rules,
        notes=notes,
        parity=parity,
    )


def _is_local(base: str) -> bool:
    return base.startswith((".", "/", "~")) or Path(base).exists()


def _figures(scores: Mapping[str, Any], tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Return a row for each figure of the trained tasks, and of the task that only tests them."""
    shown_tasks = {str(task) for task in tasks}
    if Task.JUDGE_PAIR in tasks:
        shown_tasks.add(str(Task.JUDGE_LINK))

    rows = []
    for task, views in scores.items():
        if task not in shown_tasks:
            continue

        for view, figures in views.items():
            for name, estimate in figures.items():
                info = describe(name)
                if info.on_card:
                    rows.append({"task": task, "view": view, "name": info.card_title, **estimate})

    return rows


def _findings(path: Path, model: str) -> list[str]:
    """Return the sentences about this model from the report of the run's sweep."""
    if not path.exists():
        return []

    rows = json.loads(path.read_text(encoding="utf-8"))
    return [str(row["sentence"]) for row in rows if row.get("model") == model]
