"""A small deterministic ray caster: upright prisms and cylinders with planted flaws, seen from obliquely above."""

from vlmbench.data.render.part import CYLINDER_SIDES, Bite, Finish, Hole, Material, Part, Scratch
from vlmbench.data.render.picture import Scene, render

__all__ = ["CYLINDER_SIDES", "Bite", "Finish", "Hole", "Material", "Part", "Scene", "Scratch", "render"]
