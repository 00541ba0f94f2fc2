"""Make projector.safetensors: `python -m vlmbench.models.smol.align [cache folder]`, about two
minutes on two cores.

This is the first stage of LLaVA (Liu et al. 2023, arXiv:2304.08485): only the projector trains. It
learns to predict the decoder's word embeddings of what an image shows. The images are crops of
everyday photos in scikit-image. The words are the photos' names, "equal" and "changed". No
experiment uses these images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from vlmbench.models.smol.image_processing_smol import smol_image_processor
from vlmbench.models.smol.modeling_smol import SmolForConditionalGeneration
from vlmbench.models.smol.pretrained import PROJECTOR, load_model, load_tokenizer, load_vision_tower

PHOTOS = {
    "astronaut.png": " woman",
    "camera.png": " camera",
    "chelsea.png": " cat",
    "coffee.png": " coffee",
    "coins.png": " coins",
    "hubble_deep_field.jpg": " stars",
    "moon.png": " moon",
    "page.png": " text",
    "rocket.jpg": " rocket",
    "ihc.png": " cells",
}
CROPS = 60  # crops of each photo
STEPS, BATCH, LEARNING_RATE = 600, 64, 1e-3


def align(cache_dir: Path, *, seed: int = 0) -> SmolForConditionalGeneration:
    """Return the small model with an aligned projector. Its other weights stay unchanged."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, tokenizer = load_model(cache_dir, aligned=False), load_tokenizer(cache_dir)

    crops = [(crop, word) for file, word in PHOTOS.items() for crop in _crops(file, rng)]
    originals = _encode([crop for crop, _ in crops])
    moved = _encode([_move(crop, rng) for crop, _ in crops])
    changed = _encode([_change(crop, rng) for crop, _ in crops])

    projector = model.projector
    projector.mean.copy_(originals.mean(0))
    projector.spread.copy_(originals.std(0).clamp(min=1e-3))
    word_embeddings = model.get_input_embeddings().weight.detach()

    def embeddings(words: list[str]) -> Tensor:
        ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
        return torch.stack([word_embeddings[word_ids].mean(0) for word_ids in ids])

    names = embeddings([word for _, word in crops])
    equal, different = embeddings([" equal", " changed"])

    optimizer = torch.optim.AdamW(projector.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    for _ in tqdm(range(STEPS), desc="align"):
        batch = torch.from_numpy(rng.choice(len(crops), BATCH, replace=False))
        is_equal = torch.from_numpy(rng.random(BATCH) < 0.5)[:, None]
        queries = torch.where(is_equal, moved[batch], changed[batch])
        images, comparison = projector(torch.stack([originals[batch], queries], 1))

        name_loss = (images - names[batch][:, None]).square().mean()
        target = torch.where(is_equal, equal, different)
        comparison_loss = (comparison[:, 0] - target).square().mean()

        ((name_loss + comparison_loss) / word_embeddings.var()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model


@torch.no_grad()
def _encode(images: list[Image.Image]) -> Tensor:
    """Return the tower's features (N, 864) of images."""
    tower, processor = load_vision_tower(), smol_image_processor()
    pixels = (
        processor(images=[image], return_tensors="pt")["pixel_values"] for image in tqdm(images)
    )

    return torch.cat([tower(values) for values in pixels])


def _crops(file: str, rng: np.random.Generator) -> list[Image.Image]:
    photo = Image.open(Path(skimage.__file__).parent / "data" / file).convert("RGB")

    crops = []
    for _ in range(CROPS):
        width = int(rng.integers(96, min(photo.size) + 1))
        left, top = (int(rng.integers(0, extent - width + 1)) for extent in photo.size)
        crops.append(photo.crop((left, top, left + width, top + width)).resize((224, 224)))

    return crops


def _move(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the crop slightly turned, shifted, and brighter or darker."""
    turned = crop.rotate(float(rng.uniform(-4, 4)), resample=Image.Resampling.BILINEAR)
    left, top = rng.integers(0, 9, 2).tolist()
    gain = float(rng.uniform(0.85, 1.15))
    shifted = turned.crop((4 + left, 4 + top, 212 + left, 212 + top)).resize((224, 224))

    return shifted.point(lambda value: int(value * gain))


def _change(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the crop, moved, with a new disc or box in another colour."""
    moved = _move(crop, rng)
    draw = ImageDraw.Draw(moved)
    x, y = rng.integers(30, 190, 2).tolist()
    radius = int(rng.integers(8, 24))
    draw_shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle

    box = (x - radius, y - radius, x + radius, y + radius)
    draw_shape(box, fill=tuple(rng.integers(0, 256, 3).tolist()))

    return moved


if __name__ == "__main__":
    cache = Path(sys.argv[1] if len(sys.argv) > 1 else ".cache")
    projector = align(cache).projector
    weights = {name: tensor.contiguous() for name, tensor in projector.state_dict().items()}

    target = Path(__file__).parent / PROJECTOR
    save_file(weights, target)
    target.chmod(0o644)
