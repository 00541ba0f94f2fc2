"""Make projector.safetensors: `python -m vlmbench.models.smol.align [cache folder]`, about a minute
on two cores.

This is the first stage of LLaVA (Liu et al. 2023, arXiv:2304.08485): only the projector trains. It
learns to predict the decoder's word embeddings of what an image shows. The images are crops of
everyday photos in scikit-image, and the words are the photos' names. No experiment uses these
images.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
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
    features = _encode([crop for crop, _ in crops])

    projector = model.projector
    projector.mean.copy_(features.mean(0))
    projector.spread.copy_(features.std(0).clamp(min=1e-3))
    word_embeddings = model.get_input_embeddings().weight.detach()

    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for _, word in crops]
    names = torch.stack([word_embeddings[word_ids].mean(0) for word_ids in ids])

    optimizer = torch.optim.AdamW(projector.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    for _ in tqdm(range(STEPS), desc="align"):
        batch = torch.from_numpy(rng.choice(len(crops), BATCH, replace=False))
        images = projector.image_tokens(features[batch])
        loss = (images - names[batch]).square().mean()

        (loss / word_embeddings.var()).backward()
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


if __name__ == "__main__":
    cache = Path(sys.argv[1] if len(sys.argv) > 1 else ".cache")
    projector = align(cache).projector
    weights = {
        name: tensor.contiguous()
        for name, tensor in projector.state_dict().items()
        if not name.startswith("readout.")  # each run fits its own
    }

    target = Path(__file__).parent / PROJECTOR
    save_file(weights, target)
    target.chmod(0o644)
