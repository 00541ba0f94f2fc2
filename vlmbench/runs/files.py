"""Read the files of a run's folder, which may come from strangers: types, size and kind of file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmbench.runs import schemas
from vlmbench.system.reading import (
    NotYamlError,
    UnreadableError,
    exists,
    parse_plain_yaml,
    read_lines,
    read_regular,
    refuse_interpolations,
)
from vlmbench.types import Prediction, UserError

RUN_AGAIN = (
    "bring the file back from a copy, or remove it and start the run's command again, "
    "which makes it anew"
)
MAX_CONFIG = 200_000  # bytes of a YAML file
MAX_JSON = 20_000_000  # bytes of a JSON file
# The answers of a file must fit into 1 GB of memory.
MAX_LINES_BYTES = 400_000_000
MAX_LINES = 500_000
MAX_LINE = 1_000_000  # bytes


def read_json(path: Path, schema: Any) -> dict[str, Any]:
    """Return the values of a JSON file; empty without the file. Raise UserError for damage."""
    if not exists(path):
        return {}

    try:
        return schemas.decode(read_regular(path, limit=MAX_JSON), schema)
    except (ValueError, RecursionError) as error:
        raise damaged_file(path, error) from error


def read_config(path: Path) -> dict[str, Any]:
    """Return the plain values of config.yaml. Raise UserError if it is damaged.

    Nothing in it is resolved. Call `require_resolved` before OmegaConf gets the values.
    """
    return _read_yaml(path)


def require_resolved(path: Path, values: Any) -> None:
    """Raise UserError for an interpolation: OmegaConf would resolve it, even to a secret."""
    try:
        refuse_interpolations(values)
    except UnreadableError as error:
        raise damaged_file(path, error) from error


def read_choices(path: Path) -> dict[str, str]:
    """Return the choice of each config group from hydra.yaml. Raise UserError if it is damaged."""
    node: Any = _read_yaml(path)
    for name in ("hydra", "runtime", "choices"):
        node = node.get(name) if isinstance(node, dict) else None

    choices = node if isinstance(node, dict) else {}
    require_resolved(path, choices)
    return {group: str(name) for group, name in choices.items()}


def read_rows(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file. Raise UserError if it is no regular file, or too long."""
    if not exists(path):
        return

    try:
        yield from read_lines(path, limit=MAX_LINES_BYTES, max_lines=MAX_LINES, max_line=MAX_LINE)
    except UnreadableError as error:
        raise damaged_file(path, error) from error


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions of a file. Raise UserError that names a line that is damaged."""
    predictions = []
    for number, line in enumerate(read_rows(path), start=1):
        try:
            predictions.append(schemas.decode_prediction(line))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}:{number}: the line is damaged ({error}); {RUN_AGAIN}"
            ) from error
    return predictions


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a training log, without the lines that are damaged."""
    rows = []
    for line in read_rows(path):
        try:
            if line.endswith(b"\n"):
                rows.append(schemas.decode_log_row(line))
        except (ValueError, RecursionError):
            continue
    return rows


def damaged_file(path: Path, error: BaseException) -> UserError:
    """Return the error for a file that cannot be used."""
    return UserError(f"{path}: the file is damaged ({error}); {RUN_AGAIN}")


def _read_yaml(path: Path) -> dict[str, Any]:
    if not exists(path):
        return {}

    try:
        return parse_plain_yaml(read_regular(path, limit=MAX_CONFIG))
    except NotYamlError as error:
        raise UserError(f"{path}: the file is not valid YAML ({error}); {RUN_AGAIN}") from error
    except UnreadableError as error:
        raise damaged_file(path, error) from error
