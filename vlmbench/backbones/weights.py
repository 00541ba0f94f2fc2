"""The headers of safetensors files, read without their tensors. They may come from strangers."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from vlmbench.system.reading import UnreadableError, open_regular
from vlmbench.types import UserError

MAX_HEADER = 20_000_000  # bytes; the header of a model of 11 billion weights has 150 thousand
MAX_TENSORS = 100_000  # of a file
MAX_FILE = 10**13  # bytes

Size = Annotated[int, Meta(ge=0, le=2**48)]


class Tensor(msgspec.Struct):
    """A tensor in the header of a file."""

    dtype: str
    shape: Annotated[list[Size], Meta(max_length=8)]
    data_offsets: Annotated[list[Size], Meta(min_length=2, max_length=2)]


def count_weights(path: Path, *, follow: bool = False) -> int:
    """Return the number of weights in a file. Raise UserError for a header that is not valid.

    A weight takes a byte or more, whatever shape the header tells. With `follow`, the file may be a
    link, as in the hub's cache.
    """
    try:
        tensors = _read_header(path.resolve() if follow else path)
    except (ValueError, struct.error, RecursionError) as error:
        raise UserError(
            f"{path}: the weights cannot be loaded ({error}); bring the file back from a copy"
        ) from error

    total = 0
    for tensor in tensors.values():
        start, end = tensor.data_offsets
        total += min(math.prod(tensor.shape), end - start)
    return total


def _read_header(path: Path) -> dict[str, Tensor]:
    with open_regular(path, limit=MAX_FILE) as file:
        size = os.fstat(file.fileno()).st_size
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(MAX_HEADER, size - 8):
            raise UnreadableError(f"its header says that it has {length} bytes")
        header = _decode_header(file.read(length))

    for name, tensor in header.items():
        start, end = tensor.data_offsets
        if not start <= end <= size - 8 - length:
            raise UnreadableError(f"tensor {name[:100]!r} is not inside of the file")
    return header


def _decode_header(content: bytes) -> dict[str, Tensor]:
    raw = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    raw.pop("__metadata__", None)
    if len(raw) > MAX_TENSORS:
        raise UnreadableError(f"it has more than {MAX_TENSORS} tensors")
    return {name: msgspec.json.decode(value, type=Tensor) for name, value in raw.items()}
