"""The model card of an exported run: what it is, how it was measured, how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from vlmbench.metrics import describe
from vlmbench.report.alarms import alarms_of_folder
from vlmbench.report.build import markdown_environment
from vlmbench.runs.folder import RunDir
from vlmbench.system.reading import exists, read_regular
from vlmbench.system.text import typed_setting
from vlmbench.types import Task, UserError

MAX_VERDICTS = 20_000_000  # bytes of verdicts.json
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
    scores = metrics.get("scores") or metrics.get("validation_scores", {})
    parity = [(PARITY_TITLES[name], comparison) for name, comparison in rules["parity"].items()]

    template = markdown_environment().get_template("card.md.j2")
    return template.render(
        name=folder.path.name,
        alarms=alarms_of_folder(folder),
        base="" if _is_local(base) else base,
        licence=licence,
        status=status,
        data=data,
        warnings=[*data.get("warnings", []), *metrics.get("notes", [])],
        is_sealed=folder.is_sealed,
        checkpoints=len(folder.validation_curve()),
        figures=_figures(scores, tasks),
        lacks_misses=any(
            "overkill_rate" in figures and "miss_rate" not in figures
            for task in tasks
            for figures in scores.get(str(task), {}).values()
        ),
        findings=_findings(verdicts, str(status.get("model", ""))),
        env=env,
        tasks=[str(task) for task in tasks],
        rules=rules,
        notes=notes,
        parity=parity,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    sentence: str
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlanWords:
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdicts:
    """The part of verdicts.json that a card repeats."""

    findings: tuple[_Verdict, ...]
    tuning: _Verdict | None = None
    plan: _PlanWords = field(default_factory=_PlanWords)


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
                    rows.append(
                        {
                            "task": task,
                            "view": view,
                            "name": info.card_title,
                            "n_parts": "unknown",
                            **estimate,
                        }
                    )

    return rows


def _findings(path: Path, model: str) -> list[str]:
    """Return the sentences about this model from the report of the run's sweep.

    They are: whether tuning is worth it, every verdict on this model, and the plan.
    """
    if not exists(path):
        return []

    try:
        verdicts = msgspec.json.decode(read_regular(path, limit=MAX_VERDICTS), type=_Verdicts)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: the file is damaged ({error}); write the report again with "
            f"stage=report {typed_setting('sweep', path.parents[1])}"
        ) from error

    tuning = [] if verdicts.tuning is None else [verdicts.tuning.sentence]
    own = [row.sentence for row in verdicts.findings if row.model == model]
    return [*tuning, *own, *verdicts.plan.sentences]
