"""A small deterministic ray caster for upright prisms and cylinders with defects.

The camera looks at the part obliquely from above.
"""

from vlmbench.data.generated.render.image import Scene, render
from vlmbench.data.generated.render.part import (
    CYLINDER_EDGES,
    Bite,
    Finish,
    Hole,
    Material,
    Part,
    Scratch,
    Vector,
)

__all__ = [
    "CYLINDER_EDGES",
    "Bite",
    "Finish",
    "Hole",
    "Material",
    "Part",
    "Scene",
    "Scratch",
    "Vector",
    "render",
]
