"""Image files that cannot be used."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from tests.conftest import image


def huge_png(path: Path, width: int, height: int) -> None:
    """Write a PNG of a few bytes whose header claims a huge size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def spoil(path: Path, how: str) -> None:
    image(0, (64, 64)).save(path)
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif how == "text":
        path.write_text("not an image")
    elif how == "huge":
        huge_png(path, 30_000, 30_000)
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "JPEG named png":
        image(0).save(path, format="JPEG")
    elif how == "svg":
        path.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
