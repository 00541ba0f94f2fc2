"""The files of a model's folder, checked before transformers builds anything from them.

A folder may come from a stranger. Only *.safetensors holds weights; the rest is JSON and text.
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from vlmbench.backbones.weights import count_weights
from vlmbench.system.reading import UnreadableError, read_regular
from vlmbench.types import UserError

CONFIG, INDEX, TOKENIZER = "config.json", "model.safetensors.index.json", "tokenizer.json"
# Bytes of the largest published file of its kind, times ten.
MAX_JSON = 5_000_000
MAX_TOKENIZER = 60_000_000
MAX_DEPTH = 64
CURE = "use the publisher's files"

# Names of numbers in a configuration -> the most that a model may have of them.
LIMITS = {
    re.compile(r"layers?$|_layers_|depth"): 1000,
    re.compile(r"heads?$|_groups$|experts"): 2048,
    re.compile(r"vocab_size"): 5_000_000,
    re.compile(r"hidden_size|hidden_dim|_dim$|_width$|embed_dim"): 131_072,
    re.compile(r"intermediate|ffn|mlp"): 1_048_576,
    re.compile(r"position_embeddings"): 100_000_000,
    re.compile(r"image_size|^size$|crop_size|^height$|^width$|tile_size|max_size"): 8192,
    re.compile(r"_edge$|pixels$"): 20_000_000,
    re.compile(r"crops?$|tiles?$|max_num|num_img"): 4096,
    re.compile(r"patch_size|channels"): 4096,
    re.compile(r"rank|lora"): 4096,
}
MAX_LIST = 4096  # items of a list in a configuration
# More weights than the files hold would be made up, in memory. A weight of 4 bits counts twice.
MADE_UP = 4
SMALL = 50_000_000  # weights

# A part of an expression that repeats a group, or repeats more than a few times in a row.
REPEATED_GROUP = re.compile(r"\)(?:[*+]|\{\d*,?\d*\})")
REPEATS = re.compile(r"(?<!\\)(?:[*+]|\{\d+,\d*\})")
MAX_REPEATS = 4  # in an alternative
MAX_PATTERN = 2000  # characters
PROBE_SECONDS = 9
PROBE = """
import resource, sys
from tokenizers import Tokenizer

resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))
resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
letters = "".join(map(chr, range(32, 127)))
japanese = "\\u90e8\\u54c1\\u306e\\u6b20\\u9665\\u3092\\u5224\\u5b9a"
texts = [letters, japanese, "Is the part normal or abnormal?\\n", *(c * 200 for c in " aA0.\\n")]
tokenizer = Tokenizer.from_file(sys.argv[1])
for text in texts:
    if len(tokenizer.encode(text).ids) > 100 * len(text) + 100:
        sys.exit("one character becomes more than 100 tokens")
"""


def check_files(path: str) -> None:
    """Raise UserError for a local folder whose files are no model's, or would exhaust memory.

    A hub name is not checked: it is no folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        return

    for file in sorted(folder.glob("*.json")):
        limit = MAX_TOKENIZER if file.name == TOKENIZER else MAX_JSON
        values = _read_json(file, limit)
        if file.name == INDEX:
            _check_index(file, values)
        elif file.name == TOKENIZER:
            _check_tokenizer(file, values)
        elif file.name.endswith("config.json") and not file.name.startswith("tokenizer"):
            _check_numbers(file, values)
    for file in sorted(folder.glob("*.jinja")):
        _read(file, MAX_JSON)


def require_enough_weights(path: str, config: Any) -> None:
    """Raise UserError if a local folder holds far fewer weights than its configuration needs.

    transformers would make them up, in memory.
    """
    folder = Path(path)
    if not folder.is_dir():
        return

    needed = _count_needed(path, config)
    available = sum(count_weights(file, follow=True) for file in folder.glob("*.safetensors"))
    if needed > MADE_UP * available + SMALL:
        raise UserError(
            f"model.path={path}: its config.json asks for {needed} weights, and its files hold "
            f"{available}; {CURE}"
        )


def on_meta(config: Any, dtype: Any = None) -> Any:
    """Return the model of a configuration without weights; in 16 bits by default."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(
            copy.deepcopy(config), dtype=dtype or torch.bfloat16, trust_remote_code=False
        )


def _count_needed(path: str, config: Any) -> int:
    try:
        model = on_meta(config)
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        RuntimeError,
        MemoryError,
    ) as error:
        words = " ".join(str(error).split())
        raise UserError(
            f"model.path={path}: no model can be built from its config.json "
            f"({type(error).__name__}: {words}); {CURE}"
        ) from error
    return sum(parameter.numel() for parameter in model.parameters())


def _read(file: Path, limit: int) -> bytes:
    try:
        return read_regular(file.resolve(), limit=limit)  # the hub's cache is made of links
    except (UnreadableError, OSError, RuntimeError) as error:
        raise UserError(f"{file}: the file cannot be read: {error}; {CURE}") from error


def _read_json(file: Path, limit: int) -> Any:
    content = _read(file, limit)
    try:
        values = msgspec.json.decode(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: the file cannot be read as JSON ({error}); {CURE}") from error

    if not isinstance(values, dict):
        raise UserError(f"{file}: the file cannot be read: it must be a JSON object; {CURE}")
    return values


def _check_numbers(file: Path, values: Mapping[str, Any]) -> None:
    for name, value in _named_values(values):
        if isinstance(value, list) and len(value) > MAX_LIST:
            raise UserError(f"{file}: {name} has more than {MAX_LIST} items; {CURE}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for pattern, most in LIMITS.items():
            if pattern.search(name) and abs(value) > most:
                raise UserError(
                    f"{file}: {name} must be at most {most}, got {str(value)[:30]}; {CURE}"
                )


def _named_values(values: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield each value with the last name above it."""
    if depth > MAX_DEPTH:
        return
    yield name, values
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _named_values(value, key, depth + 1)
    elif isinstance(values, list):
        for value in values[:MAX_LIST]:
            yield from _named_values(value, name, depth + 1)


def _check_index(file: Path, values: Mapping[str, Any]) -> None:
    """Raise UserError for an index that names files outside of the folder, or pickles."""
    names = values.get("weight_map")
    if not isinstance(names, dict):
        raise UserError(f"{file}: it has no weight_map; {CURE}")

    for name in {str(name) for name in names.values()}:
        if not re.fullmatch(r"[\w.-]+\.safetensors", name, re.ASCII):
            raise UserError(
                f"{file}: {name[:100]!r} is no file of weights (*.safetensors) in the folder; "
                f"{CURE}"
            )


def _check_tokenizer(file: Path, values: Mapping[str, Any]) -> None:
    """Raise UserError for a tokenizer that may not end, or that multiplies its text."""
    steps = {name: values.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")}
    for _, value in _named_values(steps):
        pattern = value.get("Regex") if isinstance(value, dict) else None
        if isinstance(pattern, str) and not _is_quick(pattern):
            raise UserError(f"{file}: the expression {pattern[:100]!r} may not end; {CURE}")

    command = [sys.executable, "-I", "-c", PROBE, str(file)]
    try:
        done = subprocess.run(  # noqa: S603 - our own text; the path is only an argument
            command, capture_output=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{file}: the tokenizer does not end on a short text; {CURE}") from error

    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = words[-1][:200] if words else f"it ended with code {done.returncode}"
        raise UserError(f"{file}: the tokenizer cannot be used ({reason}); {CURE}")


def _is_quick(pattern: str) -> bool:
    """Return whether an expression repeats no group, and little in each alternative."""
    if len(pattern) > MAX_PATTERN or REPEATED_GROUP.search(pattern):
        return False
    return all(len(REPEATS.findall(part)) <= MAX_REPEATS for part in pattern.split("|"))
