"""Write the generated parts of the documentation into docs/_generated before each build.

Pages include these files, so that no setting, figure or file format is typed twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import benchmarks
import schemas
from results import table

DOCS = Path(__file__).resolve().parents[1]
CONF = DOCS.parent / "conf"
GENERATED = DOCS / "_generated"
TITLES = {
    "": "Settings of a run",
    "model": "Model",
    "source": "Source",
    "data": "Variant",
    "view": "View",
    "prompt": "Prompt",
    "trainer": "Training",
    "pruner": "Pruning",
    "store": "Vision-token store",
    "eval": "Evaluation",
    "baseline": "Baselines",
    "tracking": "Weights & Biases",
    "predict": "Predict",
    "export": "Export",
    "serve": "Serve",
}


def setup(app: Any) -> dict[str, bool]:
    """Register the generation with Sphinx."""
    app.connect("builder-inited", lambda app: write_all())
    return {"parallel_read_safe": True}


def write_all(folder: Path = GENERATED) -> None:
    """Write every generated file. An unchanged file keeps its time, so that Sphinx skips it."""
    schemas.write_schemas()
    pages = {f"benchmarks/{name}": text for name, text in benchmarks.pages().items()}
    pages |= {
        "settings.md": settings_page(),
        "choices.md": choices_table(),
        "record.md": record_table(),
        "tasks.md": tasks_table(),
        "help.md": help_block(),
        "extras.md": extras_table(),
    }

    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def settings_page() -> str:
    """Return a section for each config group: its settings with type, default, range, meaning."""
    from vlmbench.config import describe_settings

    rows = describe_settings()
    sections = []

    for group in dict.fromkeys(row.group for row in rows):
        title = TITLES.get(group, group.capitalize())
        heading = f"## {title}: `{group}`" if group else f"## {title}"
        in_group = [row for row in rows if row.group == group]
        choices = dict.fromkeys(row.choice for row in in_group)
        sections.append(f"{heading}\n")

        for choice in choices:
            if choice:
                sections.append(f"### `{group}={choice}`\n\n{_first_comment(group, choice)}\n")
            elif group:
                sections.append(_choices_line(group))
            sections.append(_settings_table(row for row in in_group if row.choice == choice))
    return "\n".join(sections)


def _settings_table(rows: Iterable[Any]) -> str:
    lines = [
        (
            f"`{row.group}.{row.key}`" if row.group else f"`{row.key}`",
            _for_table(row.meaning),
            f"`{row.default}`" if row.default else "",
            ", ".join(_for_table(text) for text in (row.type, row.range) if text),
        )
        for row in rows
    ]
    if not lines:
        return "This choice has no settings.\n"

    return table(("setting", "meaning", "default", "type and range"), lines)


def _for_table(text: str) -> str:
    """Return text for a table. A bar would end a table's cell, an angle bracket begin HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _choices_line(group: str) -> str:
    names = [path.stem for path in sorted((CONF / group).glob("*.yaml"))]
    return f"Choices: {', '.join(f'`{group}={name}`' for name in names)}.\n"


def choices_table() -> str:
    """Return every choice of every config group, with the first comment of its yaml file."""
    rows = [
        (f"`{folder.name}={path.stem}`", _for_table(_first_comment(folder.name, path.stem)))
        for folder in sorted(CONF.iterdir())
        if folder.is_dir()
        for path in sorted(folder.glob("*.yaml"))
    ]
    return table(("choice", "meaning"), rows)


def _first_comment(group: str, choice: str) -> str:
    """Return the comment at the beginning of a yaml file, without Hydra's package line."""
    path = CONF / group / f"{choice}.yaml"
    if not path.exists():
        return ""

    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.startswith("# - "):
            break
        if "@package" not in line:
            comment.append(line.lstrip("# ").strip())
    text = " ".join(comment)
    return f"{text[:-1]}." if text.endswith(":") else text


def record_table() -> str:
    """Return the keys of a record, then those of its images, from the JSON Schema."""
    schema = schemas.record_schema()
    tables = []

    for title, definition in (
        ("Keys of a record", schema),
        ("Keys of an image", schema["$defs"]["ImageRow"]),
    ):
        required = definition.get("required", [])
        rows = [
            (f"`{name}`", "yes" if name in required else "no", _for_table(value["description"]))
            for name, value in definition["properties"].items()
        ]
        tables.append(f"## {title}\n\n{table(('key', 'required', 'meaning'), rows)}")
    return "\n".join(tables)


def tasks_table() -> str:
    """Return each task with its labels and the number of its images."""
    from vlmbench.types import LABELS, NUM_IMAGES, Task

    rows = [
        (
            f"`{task.value}`",
            " or ".join(str(count) for count in NUM_IMAGES[task]),
            ", ".join(f"`{label}`" for label in LABELS[task])
            if task in LABELS
            else "the letters of the record's `options`",
        )
        for task in Task
    ]
    return table(("task", "images", "labels"), rows)


def help_block() -> str:
    """Return what `python -m vlmbench --help` prints, as a code block."""
    from vlmbench.cli.main import help_text

    text = help_text().replace(str(CONF), "conf")
    return f"```text\n{text.rstrip()}\n```\n"


def extras_table() -> str:
    """Return the optional dependencies that pyproject.toml declares."""
    import tomllib

    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    rows = [
        (f"`vlmbench[{name}]`", ", ".join(re.split(r"[<>=]", item)[0] for item in packages))
        for name, packages in project["project"]["optional-dependencies"].items()
    ]
    return table(("extra", "packages"), rows)


if __name__ == "__main__":
    write_all()
    json.loads((schemas.SCHEMAS / "record.schema.json").read_text(encoding="utf-8"))
