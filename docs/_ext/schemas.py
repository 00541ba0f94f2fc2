"""Write the JSON Schemas of a manifest's record and of the configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).resolve().parents[1] / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
RECORD_FIELDS = {
    "id": "Name of the record, unique in its manifest.",
    "task": "Question that the record asks.",
    "group": "Name of the part. All records of a part stay in one split.",
    "images": "The reference, then the query; the query alone for judge_single.",
    "label": "The true label: one of the task's labels, or a word that source.labels maps to one.",
    "answer": "The answer to learn. It starts with the label. Empty: the label alone.",
    "question": "Your own wording. Empty: the wording of the prompt group.",
    "options": "Options of a multiple choice, letter to text.",
    "split": "Fixes the split. Missing: vlmbench chooses it.",
    "meta": "Strings that the report shows and groups by.",
}
IMAGE_FIELDS = {
    "path": "Path of the image file, relative to the manifest.",
    "role": "reference or query.",
    "view": "raw, or the name of a processed view.",
    "sha256": "SHA-256 of the file's bytes. Empty: not checked.",
}
JSON_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}
JSON_TYPES |= {"mapping": "object", "null": "null"}


def write_schemas(folder: Path = SCHEMAS) -> None:
    """Write both schemas into `folder`, where they are committed."""
    folder.mkdir(exist_ok=True)

    for name, schema in (
        ("record.schema.json", record_schema()),
        ("configuration.schema.json", configuration_schema()),
    ):
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text:
            (folder / name).write_text(text, encoding="utf-8")


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema of one line of a manifest.

    Raise KeyError for a field without a description here.
    """
    import msgspec

    from vlmbench.data.manifest_format import ImageRow, Row

    _, definitions = msgspec.json.schema_components([Row], ref_template="#/$defs/{name}")
    for row, meanings in ((Row, RECORD_FIELDS), (ImageRow, IMAGE_FIELDS)):
        properties = definitions[row.__name__]["properties"]
        for name, value in properties.items():
            properties[name] = {"description": meanings[name]} | value

    for definition in definitions.values():
        definition.pop("description", None)  # the docstring speaks to programmers
    record = definitions.pop("Row")
    return {
        "$schema": DIALECT,
        "title": "A record of a vlmbench manifest",
        "description": "One line of a manifest in JSON Lines.",
        **{key: value for key, value in record.items() if key != "title"},
        "$defs": definitions,
    }


def configuration_schema() -> dict[str, Any]:
    """Return the JSON Schema of a run's config.yaml and of the files under conf/."""
    from vlmbench.config import describe_settings

    rows = describe_settings()
    groups = dict.fromkeys(row.group for row in rows)
    properties: dict[str, Any] = {
        "defaults": {"type": "array", "description": "Hydra's list of the files to compose."}
    }

    for group in groups:
        properties_of_group = _properties(row for row in rows if row.group == group)
        if group:
            properties[group] = {"type": "object", "properties": properties_of_group}
        else:
            properties |= properties_of_group
    return {
        "$schema": DIALECT,
        "title": "The configuration of a vlmbench run",
        "type": "object",
        "properties": properties,
    }


def _properties(rows: Iterable[Any]) -> dict[str, Any]:
    """Return the properties of one group; a key with dots becomes nested objects."""
    properties: dict[str, Any] = {}

    for row in rows:
        *parents, name = row.key.split(".")
        folder = properties
        for parent in parents:
            nested = folder.setdefault(parent, {"type": "object", "properties": {}})
            folder = nested["properties"]
        folder[name] = _merged(folder.get(name), _property(row))
    return properties


def _property(row: Any) -> dict[str, Any]:
    """Return the schema of one setting. An interpolation such as ${view.name} is allowed too."""
    meaning = f"{row.meaning} Range: {row.range}.".strip() if row.range else row.meaning
    is_list = row.type.startswith("list of")
    options = [] if is_list else re.split(r", | or ", row.type)
    kinds = [JSON_TYPES[option] for option in options if option in JSON_TYPES]
    words = [option for option in options if option not in JSON_TYPES and option != "list"]
    kinds += ["array"] if is_list or "list" in options else []

    if (not kinds and not words) or "any" in words:
        return {"description": meaning}
    choices: list[dict[str, Any]] = [{"type": sorted(set(kinds))}] if kinds else []
    choices += [{"enum": words}] if words else []
    choices += [{"type": "string", "pattern": r"^\$\{"}]
    return {"description": meaning, "anyOf": choices}


def _merged(before: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that accepts what either choice of a group accepts."""
    if before is None or before == new:
        return new
    if "anyOf" not in before or "anyOf" not in new:
        return {"description": before["description"]}

    extra = [choice for choice in new["anyOf"] if choice not in before["anyOf"]]
    return {"description": before["description"], "anyOf": before["anyOf"] + extra}
