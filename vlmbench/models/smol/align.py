"""Make projector.safetensors: `python -m vlmbench.models.smol.align [cache folder]`, about two minutes on two cores.

The first stage of LLaVA (Liu et al. 2023, arXiv:2304.08485): the projector alone learns to say what a picture shows in
the decoder's own words, here against the decoder's word embeddings. The pictures are crops of everyday photos that
scikit-image carries, the words are their names, "equal" and "changed": none of them occurs in an experiment.
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
CROPS = 60  # of each photo
STEPS, BATCH, LEARNING_RATE = 600, 64, 1e-3


def align(cache_dir: Path, *, seed: int = 0) -> SmolForConditionalGeneration:
    """The small model with its projector aligned, everything else untouched."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, tokenizer = load_model(cache_dir, aligned=False), load_tokenizer(cache_dir)
    crops = [(crop, word) for file, word in PHOTOS.items() for crop in _crops(file, rng)]
    originals = _describe([crop for crop, _ in crops])
    again = _describe([_moved(crop, rng) for crop, _ in crops])
    changed = _describe([_changed(crop, rng) for crop, _ in crops])
    projector = model.projector
    projector.mean.copy_(originals.mean(0))
    projector.spread.copy_(originals.std(0).clamp(min=1e-3))
    table = model.get_input_embeddings().weight.detach()

    def embeddings(words: list[str]) -> Tensor:
        return torch.stack([table[tokenizer(word, add_special_tokens=False)["input_ids"]].mean(0) for word in words])

    names = embeddings([word for _, word in crops])
    equal, other = embeddings([" equal", " changed"])
    optimizer = torch.optim.AdamW(projector.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    for _ in tqdm(range(STEPS), desc="align"):
        batch = torch.from_numpy(rng.choice(len(crops), BATCH, replace=False))
        half = torch.from_numpy(rng.random(BATCH) < 0.5)[:, None]
        queries = torch.where(half, again[batch], changed[batch])
        pictures, comparison = projector(torch.stack([originals[batch], queries], 1))
        loss = (pictures - names[batch][:, None]).square().mean() + (
            comparison[:, 0] - torch.where(half, equal, other)
        ).square().mean()
        (loss / table.var()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@torch.no_grad()
def _describe(pictures: list[Image.Image]) -> Tensor:
    tower, processor = load_vision_tower(), smol_image_processor()
    pixels = (processor(images=[picture], return_tensors="pt")["pixel_values"] for picture in tqdm(pictures))
    return torch.cat([tower(values) for values in pixels])


def _crops(file: str, rng: np.random.Generator) -> list[Image.Image]:
    photo = Image.open(Path(skimage.__file__).parent / "data" / file).convert("RGB")
    crops = []
    for _ in range(CROPS):
        side = int(rng.integers(96, min(photo.size) + 1))
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in photo.size)
        crops.append(photo.crop((left, top, left + side, top + side)).resize((224, 224)))
    return crops


def _moved(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The same scene: a little turned, shifted, brighter or darker."""
    turned = crop.rotate(float(rng.uniform(-4, 4)), resample=Image.Resampling.BILINEAR)
    left, top = rng.integers(0, 9, 2).tolist()
    gain = float(rng.uniform(0.85, 1.15))
    return turned.crop((4 + left, 4 + top, 212 + left, 212 + top)).resize((224, 224)).point(lambda v: int(v * gain))


def _changed(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The same scene with something added: a disc or a box in another colour."""
    moved = _moved(crop, rng)
    draw = ImageDraw.Draw(moved)
    x, y = rng.integers(30, 190, 2).tolist()
    radius = int(rng.integers(8, 24))
    shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
    shape((x - radius, y - radius, x + radius, y + radius), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return moved


if __name__ == "__main__":
    cache = Path(sys.argv[1] if len(sys.argv) > 1 else ".cache")
    weights = {name: tensor.contiguous() for name, tensor in align(cache).projector.state_dict().items()}
    target = Path(__file__).parent / PROJECTOR
    save_file(weights, target)
    target.chmod(0o644)
