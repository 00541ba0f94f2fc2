"""Limits on images, checked in a file's bytes before a decoder sees them.

Small files can ask for much: 5,000 tags that share 200 kB of a TIFF unpack to 1 GB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from vlmbench.types import UserError

MAX_PIXELS = 110_000_000  # cameras of medium format have 102 million
MAX_EDGE = 65_535  # pixels, JPEG's own limit
MAX_ASPECT = 200  # the longer edge divided by the shorter one
MAX_TAGS = 1000  # of a directory; cameras write about 60
MAX_SHARED = 1_000_000  # bytes that a directory's values may have beyond twice its block
MAX_WEBP = 40_000_000  # pixels: its decoder needs 16 bytes for each
MAX_SCANS = 100  # of a progressive JPEG; encoders write about 10
MAX_SCANNED = 1_500_000_000  # pixels times scans: 5 s

TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# TIFF type -> bytes of one value
TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
TYPE_SIZES |= {16: 8, 17: 8, 18: 8}
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG's markers of a frame
TILE_EDGES = (322, 323)  # TIFF tags
POINTER = b"version https://git-lfs.github.com/spec/"


def check_content(path: Path, content: bytes) -> None:
    """Raise UserError if a file's bytes ask for more than the limits, or only point to an image."""
    check_pointer(path, content)
    if content.startswith(b"\xff\xd8"):
        _check_jpeg(path, content)
    elif content.startswith(TIFF_HEADS):
        check_tags(path, content)
    elif content.startswith(b"RIFF"):
        width, height = _webp_size(content)
        check_size(path, width, height, most=MAX_WEBP)


def check_pointer(path: Path, content: bytes) -> None:
    """Raise UserError for a text that only says where the file is."""
    if content.startswith(POINTER):
        raise UserError(
            f"{path}: the file is a pointer of Git LFS without the content; fetch it: git lfs pull"
        )
    if content.startswith(b"/annex/objects/") or b".git/annex/objects/" in content[:300]:
        raise UserError(
            f"{path}: the file is a pointer of git-annex without the content; fetch it: git annex "
            "get ."
        )


def check_size(path: Path, width: int, height: int, *, most: int = MAX_PIXELS) -> None:
    """Raise UserError for an image with too many pixels, or with an edge that is too long."""
    if width * height > most:
        raise UserError(
            f"{path}: the image has {width} x {height} pixels, the limit is {most} pixels; scale "
            "it down"
        )

    longer, shorter = max(width, height), max(1, min(width, height))
    if longer > MAX_EDGE or longer > MAX_ASPECT * shorter:
        raise UserError(
            f"{path}: the image has {width} x {height} pixels, the limits are {MAX_EDGE} pixels "
            f"along an edge, and {MAX_ASPECT} times the shorter edge; cut it into pieces"
        )


def check_tags(path: Path, block: bytes) -> None:
    """Raise UserError if the first directory of a TIFF or EXIF block asks for too much.

    A damaged block has no directory here: the decoder reports it.
    """
    try:
        sizes, tile = _read_directory(block)
    except struct.error:
        return

    if len(sizes) > MAX_TAGS or sum(sizes) > 2 * len(block) + MAX_SHARED:
        raise UserError(
            f"{path}: the metadata have {len(sizes)} tags with {sum(sizes)} bytes, the limit is "
            f"{MAX_TAGS} tags, none twice; save the image without metadata"
        )
    if tile > MAX_PIXELS:
        raise UserError(
            f"{path}: a tile has {tile} pixels, the limit is {MAX_PIXELS}; save the image as PNG"
        )


def _read_directory(block: bytes) -> tuple[list[int], int]:
    """Return the bytes of each tag's values in the first directory, and the pixels of a tile.

    Raise struct.error for a damaged block. At most MAX_TAGS + 1 tags are read.
    """
    order = "<" if block[:2] == b"II" else ">"
    is_big = block[2:4] in (b"+\0", b"\0+")
    head, entry = ("Q", "HHQQ") if is_big else ("H", "HHII")
    offset = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", block, 8 if is_big else 4)[0]
    if offset >= len(block):
        raise struct.error

    number = struct.unpack_from(f"{order}{head}", block, offset)[0]
    start, step = offset + struct.calcsize(f"={head}"), struct.calcsize(f"={entry}")
    sizes, tile = [], 1
    for index in range(min(number, MAX_TAGS + 1)):
        if start + (index + 1) * step > len(block):
            break
        tag, kind, count, value = struct.unpack_from(f"{order}{entry}", block, start + index * step)
        sizes.append(count * TYPE_SIZES.get(kind, 0))
        if tag in TILE_EDGES and kind == 4:
            tile *= value

    return sizes, tile


def _check_jpeg(path: Path, content: bytes) -> None:
    """Raise UserError for too many scans, or for tags that share their bytes."""
    exif, pixels = b"", 0
    for marker, segment in _jpeg_segments(content):
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            exif += segment[6:]
        elif marker == 0xE2 and segment.startswith(b"MPF\0"):
            check_tags(path, segment[4:])
        elif marker in FRAMES:
            pixels = int.from_bytes(segment[1:3], "big") * int.from_bytes(segment[3:5], "big")
    check_tags(path, exif)

    scans = content.count(b"\xff\xda")
    if scans > MAX_SCANS or MAX_SCANNED < scans * pixels <= scans * MAX_PIXELS:
        raise UserError(
            f"{path}: the JPEG has {scans} scans, more than an encoder writes; "
            "save it again without progressive scans"
        )


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker and the body of each segment before the pixels."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xDA:
            return

        length = int.from_bytes(content[position + 2 : position + 4], "big")
        yield marker, content[position + 4 : position + 2 + length]
        position += 2 + max(length, 2)


def _webp_size(content: bytes) -> tuple[int, int]:
    """Return (width, height) of a WebP from its header; (1, 1) for another file."""
    kind, head = content[12:16], content[20:30]
    if len(head) < 10:
        return 1, 1
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[6:10])
        return width & 0x3FFF, height & 0x3FFF
    return 1, 1
