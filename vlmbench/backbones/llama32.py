"""Llama-3.2-Vision: transformers' own MllamaForConditionalGeneration, and the same class small and random for tests."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vlmbench.backbones.base import PENDING, PaddingSide, adapted, tower_flops
from vlmbench.backbones.chat import ChatBackbone, Layout
from vlmbench.backbones.hub import HubConfig, load_adapted, load_exported
from vlmbench.config import BuildRequest, Engine, ModelConfig, Vision, check_range, schema
from vlmbench.types import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vlmbench.features.store import Fetched

LANGUAGE_TARGETS = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"
VISION_TARGETS = r".*vision_model\..*\.(q_proj|k_proj|v_proj|o_proj|fc1|fc2)"


@schema("model", "llama32")
@dataclass(kw_only=True)
class Llama32Config(HubConfig):
    licence = (
        "Llama 3.2 Vision is under the Llama 3.2 Community License and its Acceptable Use Policy, and so is this "
        'model: pass both on with it, say "Built with Llama", and begin its name with "Llama" where it is distributed.'
    )
    gigabytes: ClassVar[Mapping[int, int]] = {16: 28, 4: 12}

    path: str = "meta-llama/Llama-3.2-11B-Vision-Instruct"  # hub name or local folder

    def build(self, request: BuildRequest) -> Llama32Backbone:
        model = load_adapted(
            self,
            request,
            model_type="mllama",
            targets=lambda config: targets(request.vision),
            kept_whole=["vision_model", "multi_modal_projector"],
        )
        return Llama32Backbone(model, load_processor(self.weights_at(request)), layout=self.layout, request=request)


@schema("model", "llama32_tiny")
@dataclass(kw_only=True)
class Llama32TinyConfig(ModelConfig):
    layout: Layout = Layout.two_images
    max_tokens: int = 512  # the longest sequence it takes

    def __post_init__(self) -> None:
        check_range("model.max_tokens", self.max_tokens, 16)

    def requirements(self) -> Sequence[str]:
        return []

    def build(self, request: BuildRequest) -> Llama32Backbone:
        from vlmbench.models.llama32_tiny import tiny_mllama, tiny_processor

        if request.engine is Engine.unsloth:
            raise UserError("trainer.engine=unsloth: llama32_tiny is for tests; set trainer.engine=transformers")
        if request.merged is not None:
            processor, base = load_processor(str(request.merged)), load_exported(request.merged)
        else:
            processor = tiny_processor()
            base = tiny_mllama(processor.tokenizer, max_tokens=self.max_tokens)
        base = base if request.weights else base.to("meta")
        model = adapted(base, request, lora=self.lora, targets=targets(request.vision))
        return Llama32Backbone(model, processor, layout=self.layout, request=request)


def targets(vision: Vision) -> str:
    """The modules that get adapters."""
    return f"{LANGUAGE_TARGETS}|{VISION_TARGETS}" if vision is Vision.lora else LANGUAGE_TARGETS


def load_processor(path: str) -> Any:
    """The processor with the PIL image backend: the same pixels with and without torchvision."""
    from transformers import MllamaImageProcessorPil, MllamaProcessor

    processor = MllamaProcessor.from_pretrained(path)
    processor.image_processor = MllamaImageProcessorPil.from_pretrained(path)
    return processor


# Its warning stands once a layer and batch; transformers mends it in 5.20.
warnings.filterwarnings("ignore", message="`hidden_state` is deprecated", category=FutureWarning)


class Llama32Backbone(ChatBackbone):
    """Pictures stand next to each other before the text: with text between them, Mllama hides the first one."""

    def _vision_modules(self) -> Sequence[Any]:
        base = self.model.get_base_model().model
        return base.vision_model, base.multi_modal_projector

    def __init__(self, model: Any, processor: Any, *, layout: Layout, request: BuildRequest) -> None:
        from vlmbench.backbones._attention import use_lean_cross_attention, use_tile_attention

        super().__init__(model, processor, layout=layout, request=request)
        decoder = model.get_base_model().model.language_model
        decoder.register_forward_pre_hook(see_own_pictures, with_kwargs=True)
        use_lean_cross_attention(decoder)
        use_tile_attention(model.get_base_model().model.vision_model)

    def _process(self, texts: list[str], pictures: list[list[Image]], padding_side: PaddingSide) -> dict[str, Any]:
        return dict(self.processor(text=texts, images=pictures, **self._text_settings(padding_side)))

    def _place(
        self, texts: list[str], fetched: Fetched, counts: list[int], padding_side: PaddingSide
    ) -> dict[str, Any]:
        """Each record's used tiles stand one after the other: as one long picture, if its words see all of them."""
        inputs = self.processor.tokenizer(texts, **self._text_settings(padding_side))
        ends = np.cumsum(counts)
        patches = int(self.model.get_base_model().model.vision_model.num_patches)
        tiles = [length // patches for length in fetched.lengths]
        mask = _seen_tiles(
            inputs["input_ids"].tolist(),
            [tiles[end - count : end] for end, count in zip(ends, counts, strict=True)],
            self.model.config.image_token_index,
        )

        def arrive() -> dict[str, Any]:
            tokens = fetched.wait()
            rows = [tokens[end - count : end] for end, count in zip(ends, counts, strict=True)]
            return {"cross_attention_states": _in_rows(rows)}

        return {**inputs, "cross_attention_mask": mask, PENDING: arrive}

    def _text_settings(self, padding_side: PaddingSide) -> dict[str, Any]:
        # The chat template has the text's beginning.
        return {"padding": True, "padding_side": padding_side, "add_special_tokens": False, "return_tensors": "pt"}

    def _prepare(self, image: Image) -> dict[str, Any]:
        inputs = self.processor.image_processor(images=[[image]], return_tensors="pt")
        return {**inputs, "num_tiles": int(inputs["num_tiles"][0][0])}

    def _encode(self, inputs: dict[str, Any]) -> Tensor:
        tiles = inputs.pop("num_tiles")
        vision_model, projector = self._vision_modules()
        states: Tensor = projector(vision_model(**inputs).last_hidden_state)
        return states[0, 0, :tiles].flatten(0, 1)

    def _tokens_and_flops(self, size: tuple[int, int]) -> tuple[int, float]:
        from transformers.models.mllama.image_processing_pil_mllama import get_optimal_tiled_canvas

        processor, tower = self.processor.image_processor, self._vision_modules()[0]
        side = processor.size["height"]
        canvas = get_optimal_tiled_canvas(size[1], size[0], processor.max_image_tiles, side)
        tiles = (canvas[0] // side) * (canvas[1] // side)
        # The tower sees all places for tiles: what is empty among them bears on the rest, not on itself. One of the
        # tiles that are not used is computed.
        shown = tiles * tower.num_patches
        positions = min(tiles + 1, processor.max_image_tiles) * tower.num_patches
        pairs = shown * processor.max_image_tiles * tower.num_patches + (positions - shown) * shown
        layers = tower.config.num_hidden_layers + tower.config.num_global_layers
        return shown, tower_flops(tower, positions, pairs=pairs, layers=layers, width=tower.config.hidden_size)

    def _length(self, text: str, sizes: Sequence[tuple[int, int]]) -> int:
        return len(self._ids(text))  # a picture takes one position

    def _continued(self, prefix: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
        """The new tokens see the pictures that the prefix's last one saw."""
        import torch

        seen = prefix["cross_attention_mask"]
        mask = torch.cat([seen, seen[:, -1:].expand(-1, n, -1, -1)], 1)
        return super()._continued(prefix, n) | {"cross_attention_mask": mask}


def see_own_pictures(decoder: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A hook before Mllama's decoder.

    Words before a record's pictures see none of them, and Mllama lets them attend to every place instead: to the tiles
    that pad a picture, and to those that pad a record beside longer ones. Here they attend to what the record's later
    words see, so that an answer depends on nothing else in its batch.
    """
    import torch

    mask, sees = inputs.get("cross_attention_mask"), inputs.get("full_text_row_masked_out_mask")
    if mask is None or sees is None:
        return args, inputs
    is_bool = mask.dtype == torch.bool  # Unsloth's: True where a word may look; transformers': 0 there, to be added
    seen = mask if is_bool else mask == 0
    shown = (seen & (sees != 0)).any(dim=2, keepdim=True)
    seen = torch.where(sees != 0, seen, shown)
    own = seen if is_bool else torch.zeros_like(mask).masked_fill(~seen, torch.finfo(mask.dtype).min)
    return args, inputs | {"cross_attention_mask": own}


def _seen_tiles(rows: list[list[int]], tiles: list[list[int]], image_token_id: int) -> Tensor:
    """Mask (B, L, most tiles of a record, 1): 1 where a word sees a tile."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers.models.mllama.processing_mllama import (
        convert_sparse_cross_attention_mask_to_dense,
        get_cross_attention_token_mask,
    )

    spans = [get_cross_attention_token_mask(row, image_token_id) for row in rows]
    by_picture = convert_sparse_cross_attention_mask_to_dense(
        spans, num_tiles=[[1] * len(row) for row in tiles], max_num_tiles=1, length=len(rows[0])
    )
    by_tile = [np.repeat(seen[:, : len(row), 0], row, axis=1).T for seen, row in zip(by_picture, tiles, strict=True)]
    padded = pad_sequence([torch.from_numpy(seen) for seen in by_tile], batch_first=True)  # (B, tiles, L)
    return padded.transpose(1, 2)[..., None]


def _in_rows(rows: list[list[Tensor]]) -> Tensor:
    """(B, most tokens of a record, hidden) from the tokens of each record's pictures."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    if len({sum(len(tokens) for tokens in row) for row in rows}) == 1:  # one copy instead of two
        whole = torch.cat([tokens for row in rows for tokens in row])
        return whole.view(len(rows), -1, whole.shape[-1])
    return pad_sequence([torch.cat(row) for row in rows], batch_first=True)
