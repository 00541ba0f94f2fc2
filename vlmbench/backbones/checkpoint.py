"""The weights of a folder or hub name, loaded by transformers and compared with its config.json."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmbench.backbones.border import check_loaded, explain_missing
from vlmbench.backbones.quantization import cast_others, check_packed, without_packing
from vlmbench.types import UserError


def load_checkpoint(path: str, *, reads_weights: bool = True, **settings: Any) -> Any:
    """Return the model of a folder or hub name, with exactly the weights of its checkpoint.

    Without `reads_weights`, only the headers of the files are read, and the model has no weights.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, GenerationConfig

    device: str | int = 0 if torch.cuda.is_available() else "cpu"
    if not reads_weights:
        device = "meta"
    try:
        with _without_report():
            model, info = AutoModelForImageTextToText.from_pretrained(
                path,
                device_map={"": device},
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                generation_config=GenerationConfig(),  # the folder's may be invalid
                **settings,
            )
    except SafetensorError as error:
        raise UserError(
            f"model.path={path}: a file of weights is damaged ({error}); download it again"
        ) from error
    except (OSError, ImportError) as error:
        raise explain_missing(error, path) from error

    check_loaded(info if reads_weights else without_packing(info), path)
    return model


def load_packed(path: str, published: Any, quantization: Any, *, dtype: Any, **hub: Any) -> Any:
    """Return the model of a checkpoint whose weights are stored in 4 bits, the others in `dtype`.

    `published` is its configuration in 16 bits. `hub` are settings such as `revision`.
    """
    packed = copy.deepcopy(published)
    packed.quantization_config = quantization.to_dict()
    try:
        model = load_checkpoint(path, config=packed, dtype=dtype, **hub)
    except RuntimeError as error:
        raise UserError(
            f"model.path={path}: its weights of 4 bits cannot be read, because the scales beside "
            "them are damaged; download the model again"
        ) from error

    check_packed(model, path)
    cast_others(model, dtype)
    return model


def load_exported(folder: Path) -> Any:
    """Return the model of an exported folder, in the type of its files."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(
        folder, dtype="auto", trust_remote_code=False, use_safetensors=True
    ).eval()


@contextmanager
def _without_report() -> Iterator[None]:
    """Drop transformers' report on the weights: `check_loaded` says what is wrong with them."""

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
