"""Copies of an image are found whatever was done to them; other images are not taken for copies."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ManifestBuilder
from vlmbench.data.generated.render import Part, Scene, render
from vlmbench.data.generated.specimens import rng_of
from vlmbench.data.images import THUMBNAIL, ImageFacts, image_facts
from vlmbench.data.likeness.detail import INVERSE, NUM_ORIENTATIONS, details_of, orient
from vlmbench.data.manifest import SPLITS, open_manifest
from vlmbench.data.near_duplicates import likenesses, near_duplicates
from vlmbench.data.nearest import describe_near, near_images
from vlmbench.data.sources.parts import design_part
from vlmbench.types import Split

Change = Callable[[Image.Image], Image.Image]


def product(number: int) -> Image.Image:
    """One of many parts of one product at one station: only texture, noise and light differ."""
    rng = rng_of(1, f"product-{number}")
    part: Part = design_part(0, 1)
    part = replace(part, material=replace(part.material, seed=int(rng.integers(2**32))))
    scene = replace(Scene.draw(rng_of(0, "station")), seed=int(rng.integers(2**32)))

    return render(part, replace(scene, light=scene.light * rng.uniform(0.98, 1.02)), 160)


@pytest.fixture(scope="module")
def products() -> list[Image.Image]:
    return [product(number) for number in range(24)]


def facts_of(image: Image.Image, name: str) -> ImageFacts:
    """Return the facts that `image_facts` reads from a file."""
    grey = image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return ImageFacts(
        sha256=name, width=image.width, height=image.height, phash=0, thumbnail=np.asarray(grey)
    )


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer).convert("RGB")


def shift(image: Image.Image) -> Image.Image:
    """Return the image one pixel to the left and two up; the edge is repeated."""
    padded = np.pad(np.asarray(image), ((0, 2), (0, 1), (0, 0)), "edge")
    return Image.fromarray(padded[2:, 1:])


def crop(image: Image.Image) -> Image.Image:
    return image.crop((2, 1, image.width - 1, image.height - 2))  # 2 % of 160 pixels


CHANGES: dict[str, Change] = {
    "brightness": lambda image: image.point(lambda level: level * 1.02),
    "contrast": lambda image: image.point(lambda level: 30 + level * 0.7),
    "shift": shift,
    "crop": crop,
    "mirror": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turn": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "mirrored turn": lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    "jpeg": jpeg,
    "resize": lambda image: image.resize((80, 80), Image.Resampling.BICUBIC),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found_among_parts_of_one_product(
    change: str, products: list[Image.Image]
) -> None:
    copy = facts_of(CHANGES[change](products[5]), "copy")
    facts = [facts_of(image, f"{i}") for i, image in enumerate(products)]
    assert near_duplicates([*facts, copy]) == [(5, len(facts))]


def test_parts_of_one_product_are_no_copies(products: list[Image.Image]) -> None:
    facts = [facts_of(image, f"{i}") for i, image in enumerate(products)]
    pairs = likenesses(facts)
    assert len(pairs) >= len(facts) // 2
    assert min(pair.whole for pair in pairs) > 0.98  # they do look alike
    assert min(pair.distance for pair in pairs) > 1


def test_eight_copies_of_one_image_are_all_found(products: list[Image.Image]) -> None:
    copies = [products[0].point(lambda level, i=i: level * (1 - 0.01 * i)) for i in range(1, 9)]
    facts = [facts_of(image, f"{i}") for i, image in enumerate([*copies, *products])]
    apart = np.array([1] * len(copies) + [0] * len(products))
    found = {one.first for one in likenesses(facts, apart=apart) if one.is_near_duplicate}
    assert found == set(range(8))


def test_a_likeness_names_the_turn_that_makes_the_second_image_like_the_first(
    products: list[Image.Image],
) -> None:
    turned = facts_of(products[3].transpose(Image.Transpose.ROTATE_90), "turned")
    others = [facts_of(image, f"{i}") for i, image in enumerate(products)]
    for facts, expected in (([*others, turned], 270), ([turned, *others], 90)):
        nearest = likenesses(facts)[0]
        assert nearest.is_near_duplicate
        assert nearest.orientation == f"turned by {expected} degrees"


def test_images_without_detail_and_the_same_file_are_compared_with_nothing() -> None:
    plain = [facts_of(Image.new("RGB", (64, 64), (level,) * 3), f"{level}") for level in (9, 99)]
    assert likenesses(plain) == []
    twice = facts_of(product(0), "file")
    assert likenesses([twice, twice]) == []
    assert likenesses([]) == []


def test_features_suggest_pairs_that_the_pixels_do_not(products: list[Image.Image]) -> None:
    facts = [facts_of(image, f"{i}") for i, image in enumerate(products)]
    without = {(one.first, one.second) for one in likenesses(facts)}
    new = next((2, other) for other in range(3, len(facts)) if (2, other) not in without)

    features = np.random.default_rng(0).normal(size=(len(facts), 8))
    features[new[1]] = features[2]
    pairs = {(one.first, one.second) for one in likenesses(facts, features=features)}
    assert new in pairs


@pytest.mark.parametrize("orientation", range(NUM_ORIENTATIONS))
def test_each_orientation_has_an_inverse(orientation: int) -> None:
    image = np.arange(12.0).reshape(3, 4)
    assert (orient(orient(image, orientation), INVERSE[orientation]) == image).all()


def test_detail_does_not_depend_on_brightness_and_contrast() -> None:
    levels = np.random.default_rng(0).integers(0, 100, (1, THUMBNAIL, THUMBNAIL)).astype(np.uint8)
    changed = (2 * levels + 40).astype(np.uint8)
    assert np.allclose(details_of(levels).images, details_of(changed).images, atol=0.01)


def in_two_splits(manifest: ManifestBuilder) -> tuple[list, np.ndarray, dict]:
    """Return a manifest with a mirrored copy in another split, its splits and its facts."""
    folder = manifest.folder / "img"
    product(0).save(folder / "0-bad.png")
    product(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "9-bad.png")
    records = open_manifest(manifest.write())
    splits = np.array(
        [
            SPLITS.index(Split.TEST if record.group == "part-9" else Split.TRAIN)
            for record in records
        ],
        np.int8,
    )
    facts = {
        int(key): image_facts(image.path)
        for record, keys in zip(records, records.images, strict=True)
        for image, key in zip(record.images, keys, strict=False)
    }
    return records, splits, facts


def test_the_nearest_pair_is_named_and_cached(manifest: ManifestBuilder, tmp_path: Path) -> None:
    records, splits, facts = in_two_splits(manifest)
    cache = tmp_path / "cache"
    near = near_images(records, splits, facts, cache_dir=cache)
    first = describe_near(records, near)[0]
    assert set(first["images"]) == {"img/0-bad.png", "img/9-bad.png"}
    assert set(first["splits"]) == {"train", "test"}
    assert (first["orientation"], first["judgement"]) == ("mirrored", "near-duplicate")

    (stored,) = (cache / "likeness").iterdir()
    assert near_images(records, splits, facts, cache_dir=cache) == near
    stored.write_bytes(b"damaged")
    assert near_images(records, splits, facts, cache_dir=cache) == near
