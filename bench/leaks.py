"""Which copies of an image does the leak search find, and are different images taken for copies?

    python -m bench.leaks [--copies 60] [--images 20000]

Images of five kinds are searched. They are generated parts, patches of surfaces and patches of
photos. Two kinds are many parts of one product at one station, with and without jitter of their
pose.

`found` has the copies of each kind that are near-duplicates (an error), and those that are shown as
perhaps a copy. Its intervals are Wilson's. `false_alarms` has the images whose nearest different
image was taken for a copy. `another_pose` has pairs of images of one generated part. `speed` has
the time of a search among many images.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from bench import record
from vlmbench.data.generated.render import Scene, render
from vlmbench.data.generated.specimens import rng_of
from vlmbench.data.images import THUMBNAIL, ImageFacts
from vlmbench.data.near_duplicates import NEAR_DUPLICATE, SUSPECT, Likeness, likenesses
from vlmbench.data.sources.parts import design_part
from vlmbench.data.sources.surfaces import PATCH, cut_blocks
from vlmbench.stats.estimates import estimate_rate
from vlmbench.types import Rate

PARTS = 320
PRODUCTS = 160
SIZE = 160  # pixels of a generated image
PHOTO_PATCH = 192
PHOTOS = (
    *("astronaut.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png"),
    *("hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png"),
    *("retina.jpg", "rocket.jpg"),
)

Rng = np.random.Generator
Change = Callable[[Image.Image, Rng], Image.Image]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Images of one kind; images of one `group` may be alike."""

    name: str
    images: list[Image.Image]
    groups: list[int]


def main() -> None:
    """Search, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--copies", type=int, default=60, help="copies of each kind and world")
    parser.add_argument("--images", type=int, default=20_000, help="images of the speed test")
    parser.add_argument("--out", default="", help="end of the result file's name")
    arguments = parser.parse_args()

    found, alarms, poses = [], [], []
    for world in worlds():
        alarms.append(false_alarms(world))
        found += [find_copies(world, kind, arguments.copies) for kind in CHANGES]
        if world.name == "parts":
            poses.append(find_poses(world))
        print(f"{world.name}: {len(world.images)} images", flush=True)

    figures = {
        "found": found,
        "pooled": [pool(found, kind) for kind in CHANGES],
        "false_alarms": alarms,
        "another_pose": poses,
        "speed": [speed(arguments.images)],
    }
    for name, rows in figures.items():
        print(f"\n{name}\n{record.table(rows)}")
    limits = {"near_duplicate": NEAR_DUPLICATE, "perhaps_a_copy": SUSPECT}
    print(record.write(record.result_name("leaks", arguments.out), {"limits": limits, **figures}))


def worlds() -> Iterator[World]:
    """Yield the images of each world. They are always the same."""
    images, groups = [], []
    for number in range(PARTS):
        for pose in range(2):
            scene = Scene.draw(rng_of(7, f"{number}-{pose}"))
            images.append(render(design_part(7, number), scene, SIZE))
            groups.append(number)
    yield World(name="parts", images=images, groups=groups)

    for name, jitter in (("one product", 0.0), ("one product, jitter", 0.7)):
        images = [product(number, jitter) for number in range(PRODUCTS)]
        yield World(name=name, images=images, groups=list(range(PRODUCTS)))

    patches = [(number, patch) for number, patch in enumerate(_surfaces())]
    yield World(
        name="surfaces",
        images=[patch for _, patch in patches],
        groups=[number for number, _ in patches],
    )
    photos = list(_photos())
    yield World(name="photos", images=photos, groups=list(range(len(photos))))


def product(number: int, jitter: float) -> Image.Image:
    """Return part `number` of one product at one station.

    Parts have the same design. Texture, noise and light (by 2 %) differ, and with `jitter` also the
    pose (standard deviation in degrees and in pixels).
    """
    rng = rng_of(1, f"product-{number}")
    part = design_part(0, 1)
    texture = replace(part.material, seed=int(rng.integers(2**32)))
    station = Scene.draw(rng_of(0, "station"))
    turn, forwards, across = station.angles + np.radians(rng.normal(0, jitter, 3))
    right, up = station.shift + rng.normal(0, jitter, 2)

    scene = replace(
        station,
        angles=(float(turn), float(forwards), float(across)),
        shift=(float(right), float(up)),
        light=station.light * rng.uniform(0.98, 1.02),
        seed=int(rng.integers(2**32)),
    )
    return render(replace(part, material=texture), scene, SIZE)


def _surfaces() -> Iterator[Image.Image]:
    for block in cut_blocks(6):
        edge = round(PATCH * len(block.pixels))
        yield Image.fromarray(block.pixels[:edge, :edge].astype(np.uint8)).convert("RGB")


def _photos() -> Iterator[Image.Image]:
    """Yield patches of scikit-image's and scikit-learn's photos, which do not overlap."""
    import skimage
    import sklearn

    folder = Path(skimage.__file__).parent / "data"
    more = Path(sklearn.__file__).parent / "datasets" / "images"
    for path in [*(folder / name for name in PHOTOS), more / "china.jpg", more / "flower.jpg"]:
        photo = Image.open(path).convert("RGB")
        for top in range(0, photo.height - PHOTO_PATCH + 1, PHOTO_PATCH):
            for left in range(0, photo.width - PHOTO_PATCH + 1, PHOTO_PATCH):
                yield photo.crop((left, top, left + PHOTO_PATCH, top + PHOTO_PATCH))


def find_copies(world: World, kind: str, copies: int) -> dict[str, Any]:
    """Return how many copies of one kind are found in another split than all originals."""
    rng = np.random.default_rng([len(kind), copies])
    step = max(1, len(world.images) // copies)
    originals = list(range(0, len(world.images), step))[:copies]
    changed = [CHANGES[kind](world.images[index], rng) for index in originals]

    facts = [facts_of(image, f"{number}") for number, image in enumerate(world.images)]
    facts += [facts_of(image, f"copy {number}") for number, image in enumerate(changed)]
    apart = np.array([0] * len(world.images) + [1] * len(changed))

    expected = {(index, len(world.images) + i) for i, index in enumerate(originals)}
    pairs = likenesses(facts, apart=apart)
    hits = [pair for pair in pairs if (pair.first, pair.second) in expected]
    return {"world": world.name, "kind": kind, **_counts(hits, len(originals))}


def false_alarms(world: World) -> dict[str, Any]:
    """Return how many images have a different image that was taken for a copy."""
    facts = [facts_of(image, f"{number}") for number, image in enumerate(world.images)]
    started = time.process_time()
    pairs = likenesses(facts, apart=np.array(world.groups))
    seconds = time.process_time() - started

    nearest: dict[int, Likeness] = {}
    for pair in pairs:
        nearest.setdefault(pair.first, pair)
        nearest.setdefault(pair.second, pair)
    counts = _counts(list(nearest.values()), len(facts))
    smallest = pairs[0].distance if pairs else None
    ms = 1000 * seconds / len(facts)
    return {"world": world.name, **counts, "smallest_distance": smallest, "cpu_ms_an_image": ms}


def find_poses(world: World) -> dict[str, Any]:
    """Return how many parts have two images in other poses that were taken for copies."""
    facts = [facts_of(image, f"{number}") for number, image in enumerate(world.images)]
    apart = np.arange(len(facts)) % 2  # the first pose of each part, and the second
    pairs = likenesses(facts, apart=apart)
    hits = [pair for pair in pairs if world.groups[pair.first] == world.groups[pair.second]]
    return {"world": world.name, **_counts(hits, PARTS)}


def pool(rows: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the counts of a kind over all worlds."""
    of_kind = [row for row in rows if row["kind"] == kind]
    n = sum(row["n"] for row in of_kind)
    errors = sum(row["near_duplicates"] for row in of_kind)
    shown = sum(row["with_perhaps_a_copy"] for row in of_kind)
    return {"kind": kind, **_shares(errors, shown, n)}


def speed(number: int) -> dict[str, Any]:
    """Return the processor time of a search among `number` different patches of photos."""
    rng = np.random.default_rng(0)
    photos = list(_photos())
    facts = []
    for index in range(number):
        photo = photos[index % len(photos)]
        left, top = rng.integers(0, PHOTO_PATCH - 96, 2)
        patch = photo.crop((left, top, left + 96, top + 96))
        facts.append(facts_of(patch, f"{index}"))

    apart = rng.choice(3, len(facts), p=(0.7, 0.1, 0.2))
    started, cpu = time.perf_counter(), time.process_time()
    pairs = likenesses(facts, apart=apart)
    return {
        "images": number,
        "pairs": len(pairs),
        "seconds": time.perf_counter() - started,
        "cpu_ms_an_image": 1000 * (time.process_time() - cpu) / number,
    }


def facts_of(image: Image.Image, name: str) -> ImageFacts:
    """Return the facts that are read from a file with these pixels."""
    grey = image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return ImageFacts(
        sha256=name, width=image.width, height=image.height, phash=0, thumbnail=np.asarray(grey)
    )


def _counts(pairs: Sequence[Likeness], n: int) -> dict[str, Any]:
    errors = sum(pair.distance <= NEAR_DUPLICATE for pair in pairs)
    shown = sum(pair.distance <= SUSPECT for pair in pairs)
    return _shares(errors, shown, n)


def _shares(errors: int, shown: int, n: int) -> dict[str, Any]:
    error, either = (_wilson(hits, n) for hits in (errors, shown))
    return {
        "n": n,
        "near_duplicates": errors,
        "low": error[0],
        "high": error[1],
        "with_perhaps_a_copy": shown,
        "with_low": either[0],
        "with_high": either[1],
    }


def _wilson(hits: int, n: int) -> tuple[float, float]:
    """Return Wilson's interval of a share of independent images."""
    rate = Rate(hits=tuple(i < hits for i in range(n)), parts=tuple(map(str, range(n))))
    estimate = estimate_rate(rate)
    return estimate.low, estimate.high


def _levels(function: Callable[[Any], Any]) -> Change:
    """Return a change of the grey levels, 0 to 255."""

    def change(image: Image.Image, rng: Rng) -> Image.Image:
        levels = function(np.asarray(image, np.float64))
        return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))

    return change


def _noise(spread: float) -> Change:
    def change(image: Image.Image, rng: Rng) -> Image.Image:
        levels = np.asarray(image) + rng.normal(0, spread, np.asarray(image).shape)
        return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))

    return change


def _shift(pixels: int) -> Change:
    """Return a shift in a random direction; the edge is repeated."""

    def change(image: Image.Image, rng: Rng) -> Image.Image:
        down, right = pixels * rng.permutation([(0, 1), (1, 0), (1, 1), (-1, 1)])[0]
        padding = ((pixels, pixels), (pixels, pixels), (0, 0))
        padded = Image.fromarray(np.pad(np.asarray(image), padding, "edge"))
        left, top = pixels + right, pixels + down
        return padded.crop((left, top, left + image.width, top + image.height))

    return change


def _crop(share: float) -> Change:
    def change(image: Image.Image, rng: Rng) -> Image.Image:
        width, height = round(image.width * (1 - share)), round(image.height * (1 - share))
        left = int(rng.integers(image.width - width + 1))
        top = int(rng.integers(image.height - height + 1))
        return image.crop((left, top, left + width, top + height))

    return change


def _rotate(degrees: float) -> Change:
    """Return a rotation; the corners are filled with the mean colour."""

    def change(image: Image.Image, rng: Rng) -> Image.Image:
        red, green, blue = np.asarray(image).reshape(-1, 3).mean(0).astype(int).tolist()
        angle = degrees * rng.choice([-1, 1])
        return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=(red, green, blue))

    return change


def _turn(transpose: Image.Transpose) -> Change:
    return lambda image, rng: image.transpose(transpose)


def _jpeg(quality: int) -> Change:
    def change(image: Image.Image, rng: Rng) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return change


def _resize(share: float) -> Change:
    def change(image: Image.Image, rng: Rng) -> Image.Image:
        size = round(image.width * share), round(image.height * share)
        return image.resize(size, Image.Resampling.BICUBIC)

    return change


def _all_of(*changes: Change) -> Change:
    def change(image: Image.Image, rng: Rng) -> Image.Image:
        for each in changes:
            image = each(image, rng)
        return image

    return change


MIRROR = _turn(Image.Transpose.FLIP_LEFT_RIGHT)
CHANGES: dict[str, Change] = {
    "brightness +2 %": _levels(lambda levels: levels * 1.02),
    "brightness +10 %": _levels(lambda levels: levels * 1.1),
    "brightness -10 %": _levels(lambda levels: levels * 0.9),
    "contrast 80 %": _levels(lambda levels: 128 + (levels - 128) * 0.8),
    "gamma 0.8": _levels(lambda levels: 255 * (levels / 255) ** 0.8),
    "shift by 1 pixel": _shift(1),
    "shift by 3 pixels": _shift(3),
    "crop of 1 %": _crop(0.01),
    "crop of 2 %": _crop(0.02),
    "crop of 5 %": _crop(0.05),
    "mirrored": MIRROR,
    "turned by 90 degrees": _turn(Image.Transpose.ROTATE_90),
    "turned by 180 degrees": _turn(Image.Transpose.ROTATE_180),
    "turned by 270 degrees": _turn(Image.Transpose.ROTATE_270),
    "JPEG, quality 60": _jpeg(60),
    "half the size": _resize(0.5),
    "noise of 5 grey levels": _noise(5.0),
    "blur of 1 pixel": lambda image, rng: image.filter(ImageFilter.GaussianBlur(1)),
    "rotated by 1 degree": _rotate(1.0),
    "rotated by 2 degrees": _rotate(2.0),
    "mirrored, crop of 2 %, +5 %": _all_of(
        MIRROR, _crop(0.02), _levels(lambda levels: levels * 1.05)
    ),
}


if __name__ == "__main__":
    main()
