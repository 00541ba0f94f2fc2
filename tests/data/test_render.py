"""Rendered parts: rays, cuts, shading and planted defects."""

import math
from dataclasses import replace

import numpy as np
import pytest

from vlmbench.data.generated.defects import KINDS, drill_hole, plant_defect
from vlmbench.data.generated.render import (
    CYLINDER_EDGES,
    Bite,
    Finish,
    Material,
    Part,
    Scene,
    Scratch,
    render,
)
from vlmbench.data.generated.render.trace import intersect, trace

STEEL = Material(colour=(0.6, 0.6, 0.6), finish=Finish.CAST, gloss=0.0, shininess=10.0, seed=1)
CUBE = Part(edges=4, radius=40 * math.sqrt(2), height=50.0, bevel=0.0, facing=0.0, material=STEEL)
DOWN = np.array([0.0, 0.0, -1.0], np.float32)
OBLIQUE = np.array([-0.001, 0.0, -1.0], np.float32)  # not parallel to the wall of a hole
# The camera is straight and the sensor has no noise: two images differ only by the part.
STILL = Scene(
    angles=(0.0, 0.0, 0.0),
    shift=(0.0, 0.0),
    scale=1.0,
    light_azimuth=math.radians(180),
    light_elevation=math.radians(50),
    light=1.0,
    ambient=0.35,
    background=(0.5, 0.5, 0.5),
    slope=(0.0, 0.0),
    noise=0.0,
    seed=7,
)


def rays_from_above(*points: tuple[float, float], height: float = 25.0) -> np.ndarray:
    """Return the origins of rays above the points, (3, rays)."""
    return np.array([[x, y, height] for x, y in points], np.float32).T


def changed_pixels(first: Part, second: Part) -> np.ndarray:
    """Return rows and columns of the pixels that differ by more than 8 levels, (pixels, 2)."""
    a, b = (np.asarray(render(part, STILL, 160), int) for part in (first, second))
    difference = np.abs(a - b).max(axis=2)

    return np.argwhere(difference > 8)


def test_a_ray_from_above_enters_a_prism_by_its_top_and_leaves_by_its_bottom():
    # The ray starts at z = 25. The top is at z = 50, 25 behind it, the ground 25 ahead.
    enter, leave, plane = intersect(CUBE, rays_from_above((10, -5)), DOWN)

    assert (enter[0], leave[0], plane[0]) == (-25, 25, 0)


def test_a_ray_beside_the_prism_misses_it():
    # The circle around the square has the radius 40 * sqrt(2), so the side faces are at 40.
    rays, _ = trace(CUBE, rays_from_above((39.9, 0), (40.1, 0), (0, -39.9), (0, -40.1)), DOWN)

    assert rays.tolist() == [0, 2]


def test_a_bevel_at_45_degrees_cuts_as_far_down_as_in():
    # Bevel 6: it starts on the top at 34 from the axis and ends on the side face at z = 44.
    # At 37 from the axis it is at z = 47.
    _, hits = trace(replace(CUBE, bevel=6.0), rays_from_above((33, 0), (37, 0)), DOWN)

    assert hits.points[2] == pytest.approx([50, 47])
    assert hits.normals[:, 1] == pytest.approx([math.sqrt(0.5), 0, math.sqrt(0.5)], abs=1e-6)


def test_a_ray_into_the_hole_meets_its_floor():
    part = drill_hole(CUBE)
    assert part.hole is not None
    # 0.27 * 40 + 2 = 12.8 wide; 0.6 of 50 = 30 deep, so the floor is at z = 20.
    assert part.hole.radius == pytest.approx(12.8)
    _, hits = trace(part, rays_from_above((12.7, 0), (12.9, 0)), OBLIQUE)
    assert hits.points[2] == pytest.approx([20, 50])


def test_a_ball_taken_out_of_the_top_leaves_its_lower_half():
    # A ball of radius 10 around the top's middle. Straight below its centre the surface is 10
    # lower, at offset 6 it is sqrt(100 - 36) = 8 lower, at offset 11 it is unchanged.
    part = replace(CUBE, bites=(Bite(centre=(0.0, 0.0, 50.0), radius=10.0, rough=False),))
    _, hits = trace(part, rays_from_above((0, 0), (6, 0), (11, 0)), DOWN)

    assert hits.points[2] == pytest.approx([40, 42, 50])
    assert hits.normals[:, 1] == pytest.approx([-0.6, 0, 0.8], abs=1e-6)


def test_a_ball_taken_out_of_an_edge_lets_rays_past_the_part():
    # At y = 0 and x = 39 the ball around (40, 0, 25) of radius 30 reaches from above the top to
    # below the ground.
    part = replace(CUBE, bites=(Bite(centre=(40.0, 0.0, 25.0), radius=30.0, rough=True),))
    _, hits = trace(part, rays_from_above((39, 0), (0, 0)), DOWN)

    assert hits.alive.tolist() == [False, True]


def test_a_cylinder_is_shaded_as_a_round_one():
    cylinder = Part(
        edges=CYLINDER_EDGES, radius=40.0, height=50.0, bevel=0.0, facing=0.0, material=STEEL
    )
    angle = math.radians(-70)
    origin = np.array([[100 * math.cos(angle)], [100 * math.sin(angle)], [20]], np.float32)
    # Rays must start in the plane through the middle. The surface is behind them, 60 back.
    _, hits = trace(
        cylinder,
        np.array([[0], [0], [20]], np.float32),
        -origin[:, 0] * [1, 1, 0] / np.float32(100),
    )
    assert hits.normals[:, 0] == pytest.approx([math.cos(angle), math.sin(angle), 0], abs=1e-5)


def test_the_same_part_and_scene_give_the_same_image():
    scene = Scene.draw(np.random.default_rng(3))
    assert render(CUBE, scene, 96).tobytes() == render(CUBE, scene, 96).tobytes()


def test_an_image_of_twice_the_size_shows_the_same_part():
    # Scaled to half its size, the large image is the small one except for noise and edges.
    small = np.asarray(render(CUBE, STILL, 80).convert("L"), float)
    large = np.asarray(render(CUBE, STILL, 160).convert("L").resize((80, 80)), float)
    assert np.abs(small - large).mean() < 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edges", [3, 4, 6, CYLINDER_EDGES])
@pytest.mark.parametrize("by_design", [True, False])
def test_every_defect_changes_the_image_and_only_locally(kind, edges, by_design):
    part = replace(CUBE, edges=edges, radius=54.0, bevel=2.5, facing=0.2)
    part = drill_hole(part) if by_design else part
    for seed in range(5):
        broken, defect = plant_defect(kind, part, np.random.default_rng(seed))
        assert defect.kind == kind
        pixels = changed_pixels(part, broken)
        assert len(pixels) >= 20, f"seed {seed}: {len(pixels)} pixels"
        assert np.ptp(pixels, axis=0).max() < 70


def test_a_scratch_has_its_length():
    # Along x on the top face 40 units are 40 pixels, except for the ends, which thin out (an
    # eighth of half at each).
    scratch = Scratch(
        centre=(0.0, 0.0, 50.0),
        along=(1.0, 0.0, 0.0),
        across=(0.0, 1.0, 0.0),
        length=40.0,
        width=3.0,
        contrast=-0.7,
        bend=0.0,
    )
    rows, columns = np.ptp(changed_pixels(CUBE, replace(CUBE, scratches=(scratch,))), axis=0)
    assert 34 <= columns <= 41
    assert rows <= 5


def test_the_words_for_a_hole_depend_on_the_design():
    plain = [
        plant_defect("hole", CUBE, np.random.default_rng(seed))[1].phrase for seed in range(30)
    ]
    bored = [
        plant_defect("hole", drill_hole(CUBE), np.random.default_rng(seed))[1].phrase
        for seed in range(30)
    ]
    assert set(plain) == {"there should be no hole"}
    assert set(bored) == {"the hole is missing", "the hole is off centre"}
