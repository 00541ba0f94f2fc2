"""The model card of an exported run: what it is, how it was measured, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmbench.report.build import markdown_environment
from vlmbench.rundir import RunDir
from vlmbench.types import Task

FIGURES = {  # of metrics.json -> its name on the card
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "miss_rate": "miss rate",
    "overkill_rate": "overkill rate",
    "auroc": "AUROC",
    "ece": "expected calibration error",
    "reference_gain": "what the reference adds to accuracy",
    "swap_symmetry": "same label when swapped",
}
MERGED = {  # what each comparison of parity.json is of
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
    """Markdown with the hub's front matter. `base` is the base model's name on the hub; a folder's name is left out."""
    status, metrics, env = folder.read_status(), folder.read_metrics(), folder.read_env()
    return (
        markdown_environment()
        .get_template("card.md.j2")
        .render(
            name=folder.path.name,
            base=base if base and not Path(base).exists() and not base.startswith((".", "/", "~")) else "",
            licence=licence,
            status=status,
            data=metrics.get("data", {}),
            warnings=[*metrics.get("data", {}).get("warnings", []), *metrics.get("notes", [])],
            figures=_figures(metrics.get("scores", {}), tasks),
            findings=_findings(folder.path.parent / "report" / "verdicts.json", str(status.get("model", ""))),
            env=env,
            tasks=[str(task) for task in tasks],
            rules=rules,
            notes=notes,
            parity=[(MERGED[name], one) for name, one in rules["parity"].items()],
        )
    )


def _figures(scores: Mapping[str, Any], tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """A row for each figure of the tasks that the model learnt, and of those that test it alone."""
    told = {*map(str, tasks), str(Task.JUDGE_LINK)} if Task.JUDGE_PAIR in tasks else set(map(str, tasks))
    return [
        {"task": task, "view": view, "name": FIGURES[name], **figure}
        for task, views in scores.items()
        if task in told
        for view, figures in views.items()
        for name, figure in figures.items()
        if name in FIGURES
    ]


def _findings(path: Path, model: str) -> list[str]:
    """What the report of the run's sweep found about this model, in the report's own sentences."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [str(row["sentence"]) for row in rows if row.get("model") == model]
