"""The border at which a model's folder or hub name becomes a checked model.

Each check is on what a run would otherwise get silently wrong: a random tower, an adapter that is
ignored, an answer without an end. Nothing here reads weights: the headers of safetensors suffice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmbench.backbones.processors import missing_package, shorten
from vlmbench.backbones.template import render_template
from vlmbench.backbones.turns import find_turn_end
from vlmbench.types import UserError

log = logging.getLogger(__name__)

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
NUM_SHOWN = 3
# Weights that older checkpoints hold and no model reads: they are computed.
COMPUTED = ("inv_freq", "position_ids", "num_batches_tracked")
# The same number under the names of an image processor and of a tower.
SAME_NUMBERS = (
    ("patch_size", "patch_size"),
    ("merge_size", "spatial_merge_size"),
    ("temporal_patch_size", "temporal_patch_size"),
    ("pooling_kernel_size", "pooling_kernel_size"),
)


def check_folder(path: str, *, reads_weights: bool) -> None:
    """Raise UserError for a local folder that lacks weights, or holds some that are ignored."""
    folder = Path(path)
    if not folder.is_dir():
        return

    for name in ADAPTER_FILES:
        if (folder / name).exists():
            raise UserError(
                f"model.path={path}: {name} lies beside the model, and a run would ignore it; "
                "move the adapter to a folder of its own, or merge it into the model first"
            )
    if missing := list(_missing_shards(folder)):
        raise UserError(
            f"model.path={path}: {INDEX} names {_some(missing)}, which the folder lacks; "
            "download the model again"
        )
    if reads_weights and not list(folder.glob("*.safetensors")):
        raise UserError(
            f"model.path={path}: there are no weights (*.safetensors). Files in PyTorch's own "
            "format are pickles, which are never loaded; convert them to safetensors"
        )


def check_text_and_images(path: str) -> None:
    """Raise UserError for a local folder without a tokenizer or a processor."""
    folder = Path(path)
    if not folder.is_dir():
        return

    for names, what in ((TOKENIZER_FILES, "tokenizer"), (PROCESSOR_FILES, "processor")):
        if not any((folder / name).exists() for name in names):
            raise UserError(
                f"model.path={path}: there is no file of the {what} ({' or '.join(names)}); "
                "copy it from the base model into that folder"
            )


def _missing_shards(folder: Path) -> Iterator[str]:
    index = folder / INDEX
    if not index.exists():
        return
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{index}: the list of weights cannot be read ({shorten(error)}); "
            "download the model again"
        ) from error

    for name in sorted(str(name) for name in names):
        if not (folder / name).exists():
            yield name


def check_loaded(info: dict[str, Any], path: str) -> None:
    """Raise UserError if a checkpoint's weights are not exactly those of the model.

    `info` is the loading information of transformers.
    """
    missing = sorted(info.get("missing_keys") or ())
    unexpected = sorted(
        name for name in info.get("unexpected_keys") or () if not name.endswith(COMPUTED)
    )
    mismatched = sorted(info.get("mismatched_keys") or (), key=str)

    problems = []
    if missing:
        problems.append(f"it lacks {len(missing)} weights ({_some(missing)})")
    if unexpected:
        problems.append(f"it has {len(unexpected)} weights of another model ({_some(unexpected)})")
    if mismatched:
        name, held, wanted = mismatched[0]
        problems.append(
            f"{len(mismatched)} weights have another shape ({name} is {tuple(held)}, config.json "
            f"says {tuple(wanted)})"
        )
    if problems:
        raise UserError(
            f"model.path={path}: its safetensors files are not the model of its config.json: "
            f"{', and '.join(problems)}; download the model again, or save it as it was published"
        )


def check_processor(processor: Any, path: str) -> None:
    """Raise UserError for a processor with which a model would learn something else.

    A missing end or filling token is chosen where that is safe.
    """
    tokenizer = processor.tokenizer
    _check_template(processor, path)
    if tokenizer.eos_token is None:
        try:
            tokenizer.eos_token = find_turn_end(processor)
        except UserError as error:
            raise UserError(f"model.path={path}: {error}") from error
        log.warning(
            "model.path=%s: the tokenizer names no eos_token; the chat template ends a turn with "
            "%s, which is used",
            path,
            tokenizer.eos_token,
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        log.warning(
            "model.path=%s: the tokenizer names no pad_token; %s is used, which no loss and no "
            "answer reads",
            path,
            tokenizer.eos_token,
        )


def _check_template(processor: Any, path: str) -> None:
    """Raise UserError if the chat template leaves out images or the question."""
    question = "vlmbench?"
    text = {"type": "text", "text": question}
    shown = [
        render_template(processor, [{"role": "user", "content": [*images, text]}])
        for images in ([], [{"type": "image"}], [{"type": "image"}, {"type": "image"}])
    ]
    if len(set(shown)) < len(shown):
        raise UserError(
            f"model.path={path}: the chat template leaves images out; copy chat_template.jinja "
            "from the base model"
        )
    if question not in shown[1]:
        raise UserError(
            f"model.path={path}: the chat template leaves the question out; copy "
            "chat_template.jinja from the base model"
        )


def check_sizes(processor: Any, model: Any, path: str) -> None:
    """Raise UserError if processor and tower disagree about sizes, or tokens have no embedding."""
    images, config = processor.image_processor, model.config
    tower = getattr(config, "vision_config", None)
    # Pixtral's image processor counts in merged patches.
    is_merged = hasattr(processor, "spatial_merge_size")
    for ours, theirs in SAME_NUMBERS:
        wanted = _number(getattr(tower, theirs, getattr(config, theirs, None)))
        held = _number(getattr(images, ours, None))
        if None not in (held, wanted) and held != wanted and not is_merged:
            raise _size_error(path, ours, held, f"{theirs}={wanted}")

    edge = _number(getattr(tower, "image_size", None))
    fixed = _fixed_edge(images)
    if None not in (edge, fixed) and edge != fixed:
        raise _size_error(path, "size", fixed, f"image_size={edge}")

    tiles, room = getattr(images, "max_image_tiles", None), getattr(tower, "max_num_tiles", None)
    if None not in (tiles, room) and tiles != room:
        raise _size_error(path, "max_image_tiles", tiles, f"max_num_tiles={room}")
    _check_embeddings(processor.tokenizer, model, path)


def _size_error(path: str, name: str, held: Any, wanted: str) -> UserError:
    return UserError(
        f"model.path={path}: the processor's files say {name}={held}, and the tower in config.json "
        f"has {wanted}; take both files from the same base model"
    )


def _check_embeddings(tokenizer: Any, model: Any, path: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    for name in ("eos_token", "pad_token", "bos_token"):
        token = getattr(tokenizer, name)
        number = None if token is None else tokenizer.convert_tokens_to_ids(token)
        if number is not None and number >= rows:
            raise UserError(
                f"model.path={path}: {name} {token} is token {number} of the tokenizer, and the "
                f"model has {rows}; take tokenizer and model from the same folder"
            )


def _number(value: Any) -> int | None:
    """Return an integer, or the integer of a square; None for anything else."""
    if isinstance(value, list | tuple) and len(set(value)) == 1:
        value = value[0]
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _fixed_edge(images: Any) -> int | None:
    """Return the edge of the square that an image processor makes, None for other shapes."""
    if getattr(images, "max_image_size", None):
        size = images.max_image_size
        return _number(_entry(size, "longest_edge"))
    if getattr(images, "do_center_crop", False):
        size = images.crop_size
    else:
        size = getattr(images, "size", None)
    height, width = _entry(size, "height"), _entry(size, "width")
    return _number(height) if height == width else None


def _entry(size: Any, name: str) -> Any:
    return size.get(name) if hasattr(size, "get") else getattr(size, name, None)


def check_adapter_keys(model: Any, adapter: Path, names: Sequence[str]) -> None:
    """Raise UserError unless an adapter's file holds the LoRA weights of exactly this model.

    peft leaves out weights that match nothing, and keeps the new adapter's own.
    """
    from peft import get_peft_model_state_dict

    held = {name for name in names if "lora_" in name}
    wanted = {name for name in get_peft_model_state_dict(model) if "lora_" in name}
    if held == wanted:
        return

    other, missing = sorted(held - wanted), sorted(wanted - held)
    shown = f"it has {_some(other)}" if other else f"it lacks {_some(missing)}"
    raise UserError(
        f"{adapter}: the adapter cannot be loaded into this model: {len(other)} of its weights "
        f"match nothing, and {len(missing)} are missing ({shown}); train it again"
    )


def explain_missing(error: BaseException, path: str) -> UserError:
    """Return what a failed load of a folder or hub name means."""
    package = missing_package(error) if isinstance(error, ImportError) else None
    if package is not None:
        return UserError(
            f"model.path={path}: the model needs a package that is not installed; install it with: "
            f"pip install {package}"
        )
    if Path(path).is_dir():
        cure = "copy the file from the base model into that folder"
    else:
        cure = "download the whole model where there is a network, or name its folder in model.path"
    return UserError(f"model.path={path}: a file cannot be loaded ({shorten(error)}); {cure}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    return ", ".join(names[:NUM_SHOWN]) + more
