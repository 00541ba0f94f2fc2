"""The form of a model's image features: flat in the store, as its forward takes them at the seam.

`get_image_features` returns `pooler_output` as a tensor, a tuple or a list, and some types return
features for deeper layers of the language model beside it ("deepstack"). Stored features of one
image are (tokens, levels, hidden): level 0 is `pooler_output`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Packed features stand in a batch's `pixel_values`, with this many dimensions. No processor makes
# pixels of more than six.
NUM_DIMENSIONS = 7


def is_packed(pixel_values: Any) -> bool:
    """Return whether a batch's `pixel_values` are stored features."""
    return getattr(pixel_values, "ndim", 0) == NUM_DIMENSIONS


def pack(images: Sequence[Tensor]) -> Tensor:
    """Return the features of several images (tokens, levels, hidden) as one batch's pixels."""
    import torch

    return torch.cat(list(images))[:, :, None, None, None, None, :]


def num_levels(config: Any) -> int:
    """Return the levels that a model's configuration names, 1 without deeper layers."""
    vision = getattr(config, "vision_config", None)
    deeper = getattr(vision, "deepstack_visual_indexes", None)
    if deeper is not None:
        return 1 + len(deeper)

    by_layer = getattr(config, "deepstack_layer_map", None)
    if by_layer is not None:
        return len(by_layer) + len(getattr(config, "spatial_target_layers", None) or [])
    return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureForm:
    """How `pooler_output` and the deeper levels are wrapped.

    `rows` are the tokens of one tile if `pooler_output` is one tensor (tiles, rows, hidden).
    `layers` names the language model's layer of each level, for types that say it.
    """

    wrapper: type | None  # list or tuple; None for a tensor
    rows: int | None
    has_pooled: bool
    layers: tuple[int, ...] | None

    @classmethod
    def of(cls, output: Any) -> FeatureForm:
        """Return the form of one image's output."""
        pooled: Any = getattr(output, "pooler_output", None)
        deeper: Any = getattr(output, "deepstack_features", None) or ()
        layers = None
        if len(deeper) > 0 and isinstance(deeper[0], tuple):
            layers = tuple(int(layer) for layer, _ in deeper)
        return cls(
            wrapper=type(pooled) if isinstance(pooled, list | tuple) else None,
            rows=pooled.shape[1] if getattr(pooled, "ndim", 0) == 3 else None,
            has_pooled=pooled is not None,
            layers=layers,
        )

    def flatten(self, output: Any) -> Tensor:
        """Return one image's features (tokens, levels, hidden)."""
        import torch

        levels = [output.pooler_output] if self.has_pooled else []
        for level in getattr(output, "deepstack_features", None) or ():
            levels.append(level if self.layers is None else level[1])
        return torch.stack([_flat(level) for level in levels], 1)

    def rebuild(self, packed: Tensor) -> SimpleNamespace:
        """Return what `get_image_features` returns for packed features of a whole batch."""
        levels = list(packed[:, :, 0, 0, 0, 0].unbind(1))
        pooled: Any = levels.pop(0) if self.has_pooled else None
        if self.rows is not None:
            pooled = pooled.unflatten(0, (-1, self.rows))
        if self.wrapper is not None:
            pooled = self.wrapper([pooled])

        deeper: list[Any] = levels
        if self.layers is not None:
            deeper = [(layer, [one]) for layer, one in zip(self.layers, levels, strict=True)]
        return SimpleNamespace(pooler_output=pooled, deepstack_features=deeper)


def _flat(features: Any) -> Tensor:
    import torch

    if isinstance(features, list | tuple):
        features = torch.cat([_flat(one) for one in features])
    flat: Tensor = features.flatten(0, -2)
    return flat
