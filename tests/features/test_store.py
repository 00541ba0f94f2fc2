"""A picture is encoded once, and never served with another's tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import picture
from vlmbench.features.store import TokenStore


class Encoder:
    """Counts its calls; the tokens are the picture's mean colour."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: Image.Image) -> torch.Tensor:
        self.calls += 1
        return torch.tensor(image.resize((1, 1)).getpixel((0, 0)), dtype=torch.float32)


def test_each_picture_is_encoded_once_and_shared_by_processes(tmp_path: Path) -> None:
    encode = Encoder()
    store = TokenStore(tmp_path, "f")
    first = store.get([picture(0), picture(1), picture(0)], encode)
    assert encode.calls == 2
    assert torch.equal(first[0], first[2])
    later = TokenStore(tmp_path, "f").get([picture(1)], encode)
    assert encode.calls == 2
    assert torch.equal(later[0], first[1])


def test_another_fingerprint_shares_nothing(tmp_path: Path) -> None:
    encode = Encoder()
    TokenStore(tmp_path, "f").get([picture(0)], encode)
    TokenStore(tmp_path, "g").get([picture(0)], encode)
    assert encode.calls == 2


def test_pixels_in_another_shape_are_another_picture(tmp_path: Path) -> None:
    encode = Encoder()
    wide, tall = Image.new("RGB", (4, 2), "red"), Image.new("RGB", (2, 4), "red")
    TokenStore(tmp_path, "f").get([wide, tall], encode)
    assert encode.calls == 2


@pytest.mark.parametrize("content", [b"", b"not tokens", None])
def test_a_damaged_entry_is_encoded_again(tmp_path: Path, content: bytes | None) -> None:
    encode = Encoder()
    expected = TokenStore(tmp_path, "f").get([picture(0)], encode)[0]
    (entry,) = tmp_path.rglob("*.safetensors")
    entry.write_bytes(entry.read_bytes()[:-4] if content is None else content)
    assert torch.equal(TokenStore(tmp_path, "f").get([picture(0)], encode)[0], expected)
    assert encode.calls == 2
    assert torch.equal(TokenStore(tmp_path, "f").get([picture(0)], encode)[0], expected)
    assert encode.calls == 2
