"""Llama-3.2-Vision: transformers' own MllamaForConditionalGeneration, and its tiny random twin."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vlmbench.backbones.batches import Batch, PaddingSide
from vlmbench.backbones.family import ChatFamily
from vlmbench.backbones.hub import HubConfig
from vlmbench.backbones.layout import Layout, Size
from vlmbench.backbones.maps import crop_map
from vlmbench.backbones.tiny import TinyConfig
from vlmbench.backbones.tokens import PlacedTokens, TokenBackbone
from vlmbench.backbones.towers import tower_flops
from vlmbench.config import BuildRequest, schema, setting

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vlmbench.backbones._tile_tower import TileTower
    from vlmbench.features.store import Fetched

# transformers prints this warning once a layer and batch. Remove the filter with transformers 5.20.
warnings.filterwarnings("ignore", message="`hidden_state` is deprecated", category=FutureWarning)


class Llama32Backbone(TokenBackbone):
    """The images stand next to each other before the text.

    With text between the images, Mllama hides the first one.
    """

    lanes = 2

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        layout: Layout,
        request: BuildRequest,
    ) -> None:
        from vlmbench.backbones._attention import use_lean_cross_attention

        super().__init__(model, processor, layout=layout, request=request)
        decoder = model.get_base_model().model.language_model
        decoder.register_forward_pre_hook(attend_to_own_images, with_kwargs=True)
        use_lean_cross_attention(decoder)
        self.tower = self._make_tower()

    def _make_tower(self) -> TileTower | None:
        """Return what encodes one image if the tower is frozen; else give it lean attention."""
        from vlmbench.backbones._attention import unused_tiles_are_equal, use_tile_attention
        from vlmbench.backbones._tile_tower import TileTower

        tower, projector = self.vision_modules()
        if self.reads_tokens:
            return TileTower(tower, projector, equal_tiles=unused_tiles_are_equal(tower))
        use_tile_attention(tower)
        return None

    def vision_modules(self) -> Sequence[Any]:
        base = self.model.get_base_model().model
        return base.vision_model, base.multi_modal_projector

    def prepare_image(self, image: Image) -> Batch:
        inputs = self.processor.image_processor(images=[[image]], return_tensors="pt")
        num_tiles = int(inputs["num_tiles"][0][0])
        if self.tower is None:
            return {**inputs, "num_tiles": num_tiles}

        used = inputs["pixel_values"][0, 0, :num_tiles]
        return {"pixels": used, "ratio": inputs["aspect_ratio_ids"].flatten()}

    def encode_image(self, inputs: Batch) -> Tensor:
        if self.tower is not None:
            return self.tower(inputs["pixels"], inputs["ratio"])

        num_tiles = inputs.pop("num_tiles")
        vision_model, projector = self.vision_modules()
        states: Tensor = projector(vision_model(**inputs).last_hidden_state)
        return states[0, 0, :num_tiles].flatten(0, 1)

    def insert_tokens(
        self,
        texts: list[str],
        fetched: Fetched,
        counts: list[int],
        padding_side: PaddingSide,
    ) -> PlacedTokens:
        """Put each record's used tiles in one row, like one long image that all words see."""
        inputs = self.processor.tokenizer(texts, **self.text_settings(texts, padding_side))
        ends = np.cumsum(counts)
        spans = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]

        num_patches = int(self.vision_modules()[0].num_patches)
        num_tiles = [length // num_patches for length in fetched.lengths]
        mask = _tile_mask(
            inputs["input_ids"].tolist(),
            [num_tiles[span] for span in spans],
            self.model.config.image_token_index,
        )

        def arrive() -> Batch:
            tokens = fetched.wait()
            return {"cross_attention_states": _join_rows([tokens[span] for span in spans])}

        return {**inputs, "cross_attention_mask": mask}, arrive

    def text_length(self, text: str, sizes: Sequence[Size]) -> int:
        return len(self._ids(text))  # an image takes one position

    def tower_cost(self, size: Size) -> tuple[int, float]:
        from transformers.models.mllama.image_processing_pil_mllama import get_optimal_tiled_canvas

        processor, tower = self.processor.image_processor, self.vision_modules()[0]
        max_tiles, edge = processor.max_image_tiles, processor.size["height"]
        width, height = size
        canvas_height, canvas_width = get_optimal_tiled_canvas(height, width, max_tiles, edge)
        num_tiles = (canvas_height // edge) * (canvas_width // edge)

        # The tower always has room for `max_tiles`. Used tiles attend to all of that room, empty
        # tokens only to the used tiles. A single unused tile is computed.
        num_used = num_tiles * tower.num_patches
        num_computed = min(num_tiles + 1, max_tiles) * tower.num_patches
        num_pairs = num_used * max_tiles * tower.num_patches
        num_pairs += (num_computed - num_used) * num_used

        config = tower.config
        num_layers = config.num_hidden_layers + config.num_global_layers
        flops = tower_flops(
            tower, num_computed, pairs=num_pairs, layers=num_layers, width=config.hidden_size
        )
        return num_used, flops

    def shown_size(self, size: Size) -> Size:
        """Return the pixels in which the model sees an image of `size` (width, height)."""
        from transformers.models.mllama.image_processing_pil_mllama import (
            get_image_size_fit_to_canvas,
            get_optimal_tiled_canvas,
        )

        processor, (width, height) = self.processor.image_processor, size
        tile = processor.size["height"]
        canvas = get_optimal_tiled_canvas(height, width, processor.max_image_tiles, tile)
        canvas_height, canvas_width = (int(edge) for edge in canvas)
        fitted = get_image_size_fit_to_canvas(height, width, canvas_height, canvas_width, tile)
        new_height, new_width = (int(edge) for edge in fitted)
        return new_width, new_height

    def token_map(self, tokens: Tensor, size: Size) -> Tensor:
        """Return the patches of all used tiles as one large image, without class tokens."""
        from transformers.models.mllama.image_processing_pil_mllama import get_optimal_tiled_canvas

        processor, config = self.processor.image_processor, self.vision_modules()[0].config
        tile, (width, height) = processor.size["height"], size
        canvas = get_optimal_tiled_canvas(height, width, processor.max_image_tiles, tile)
        canvas_height, canvas_width = (int(edge) for edge in canvas)
        new_width, new_height = self.shown_size(size)

        edge = config.image_size // config.patch_size
        rows, columns = canvas_height // tile, canvas_width // tile
        patches = tokens.unflatten(0, (rows, columns, -1))[:, :, 1:]
        grid = patches.unflatten(2, (edge, edge)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
        return crop_map(
            grid, canvas=(canvas_width, canvas_height), box=(0, 0, new_width, new_height)
        )

    def continue_prefix(self, prefix: Batch, num_new: int) -> Batch:
        """Let the new tokens see the images that the prefix's last token saw."""
        import torch

        seen = prefix["cross_attention_mask"]
        mask = torch.cat([seen, seen[:, -1:].expand(-1, num_new, -1, -1)], 1)
        return super().continue_prefix(prefix, num_new) | {"cross_attention_mask": mask}


class Llama32Family(ChatFamily):
    backbone = Llama32Backbone
    vision_targets = r".*vision_model\..*\.(q_proj|k_proj|v_proj|o_proj|fc1|fc2)"

    def load_processor(self, path: str) -> Any:
        """Return the processor by its classes' names: AutoProcessor would choose by torchvision."""
        from transformers import MllamaImageProcessorPil, MllamaProcessor

        processor = MllamaProcessor.from_pretrained(path, trust_remote_code=False)
        processor.image_processor = MllamaImageProcessorPil.from_pretrained(path)
        return processor


@schema("model", "llama32")
@dataclass(kw_only=True)
class Llama32Config(Llama32Family, HubConfig):
    """Settings of conf/model/llama32.yaml."""

    licence = (
        "Llama 3.2 Vision is under the Llama 3.2 Community License and its Acceptable Use Policy, "
        'and so is this model: pass both on with it, say "Built with Llama", and begin its name '
        'with "Llama" if you distribute it.'
    )
    model_type = "mllama"
    gigabytes: ClassVar[Mapping[int, int]] = {16: 28, 4: 12}
    kept_whole = ("vision_model", "multi_modal_projector")
    # Its records have few positions: 231 records/s on Unsloth, 167 on transformers (H100).
    unsloth_from = 45_000

    path: str = setting(
        "meta-llama/Llama-3.2-11B-Vision-Instruct", "Name on the hub, or a local folder."
    )


@schema("model", "llama32_tiny")
@dataclass(kw_only=True)
class Llama32TinyConfig(Llama32Family, TinyConfig):
    """Settings of conf/model/llama32_tiny.yaml."""

    def make(self) -> tuple[Any, Any]:
        from vlmbench.models import llama32_tiny

        processor = llama32_tiny.tiny_processor()
        model = llama32_tiny.tiny_mllama(processor.tokenizer, max_tokens=self.max_tokens)
        return model, processor


AttentionInputs = tuple[Any, dict[str, Any]]


def attend_to_own_images(
    decoder: Any,
    args: tuple[Any, ...],
    inputs: dict[str, Any],
) -> AttentionInputs:
    """A hook before Mllama's decoder: let words before the images attend to the record's images.

    Such words see no image, and Mllama lets them attend to every tile instead. That includes the
    padding of an image and of a record beside longer ones. Here they attend to what the record's
    later words see. So an answer depends on nothing else in its batch.
    """
    import torch

    mask = inputs.get("cross_attention_mask")
    sees_images = inputs.get("full_text_row_masked_out_mask")
    if mask is None or sees_images is None:
        return args, inputs

    # Unsloth's mask is True where a word may attend. transformers' mask is added, and 0 there.
    is_bool = mask.dtype == torch.bool
    allowed = mask if is_bool else mask == 0
    by_later_words = (allowed & (sees_images != 0)).any(dim=2, keepdim=True)
    allowed = torch.where(sees_images != 0, allowed, by_later_words)

    if is_bool:
        return args, inputs | {"cross_attention_mask": allowed}
    lowest = torch.finfo(mask.dtype).min
    added = torch.zeros_like(mask).masked_fill(~allowed, lowest)
    return args, inputs | {"cross_attention_mask": added}


def _tile_mask(rows: list[list[int]], num_tiles: list[list[int]], image_token_id: int) -> Tensor:
    """Return a mask (B, L, most tiles of a record, 1): 1 if the word sees the tile.

    `rows` are the tokens of each record, `num_tiles` the tiles of each of its images.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers.models.mllama.processing_mllama import (
        convert_sparse_cross_attention_mask_to_dense,
        get_cross_attention_token_mask,
    )

    spans = [get_cross_attention_token_mask(row, image_token_id) for row in rows]
    by_image = convert_sparse_cross_attention_mask_to_dense(
        spans, num_tiles=[[1] * len(row) for row in num_tiles], max_num_tiles=1, length=len(rows[0])
    )

    by_tile = []
    for seen, row in zip(by_image, num_tiles, strict=True):
        repeated = np.repeat(seen[:, : len(row), 0], row, axis=1)
        by_tile.append(torch.from_numpy(repeated.T))
    padded = pad_sequence(by_tile, batch_first=True)  # (B, tiles, L)
    return padded.transpose(1, 2)[..., None]


def _join_rows(rows: list[list[Tensor]]) -> Tensor:
    """Return (B, most tokens of a record, hidden) from the tokens of each record's images."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    lengths = {sum(len(tokens) for tokens in row) for row in rows}
    if len(lengths) == 1:  # one copy instead of two
        whole = torch.cat([tokens for row in rows for tokens in row])
        return whole.view(len(rows), -1, whole.shape[-1])
    return pad_sequence([torch.cat(row) for row in rows], batch_first=True)
