"""Any model that inserts its own vision tokens: stored features replace `get_image_features`.

Most types of transformers call `self.get_image_features(...)` in `forward`, and then do the rest
themselves: placeholders, positions in two or three dimensions, masks that see both ways, features
for deeper layers. The seam is that call. On 13 types, logits with stored features differed by at
most 2e-7 from those with pixels. Features put into `inputs_embeds` instead were wrong by up to 0.4
for Qwen2.5-VL, Qwen3-VL, Qwen3.5 and GLM-4V, without an error.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from vlmbench.backbones.batches import PENDING, Batch, PaddingSide
from vlmbench.backbones.chat import NUM_CACHED, USUAL_PATCH, ChatBackbone
from vlmbench.backbones.devices import pin_memory, to_device
from vlmbench.backbones.features import FeatureForm, is_packed, num_levels, pack
from vlmbench.backbones.layout import Layout, Size
from vlmbench.backbones.maps import square_map
from vlmbench.backbones.rows import RowMaker, pad_rows
from vlmbench.backbones.template import render_template
from vlmbench.backbones.tokens import PlacedTokens, TokenBackbone
from vlmbench.backbones.towers import tower_flops, weights_hash
from vlmbench.backbones.turns import close_thoughts, find_turn_end
from vlmbench.config import BuildRequest
from vlmbench.types import LazyImage, Sample, UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vlmbench.features.store import Fetched

BLANK_SIZE = (224, 224)  # of the image that shows the form of a model's features
TRIED_SIZES = (BLANK_SIZE, (640, 480), (1600, 900))  # that show whether company matters


class SeamBackbone(TokenBackbone):
    """A model whose `get_image_features` returns stored features where the batch brings them."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        layout: Layout,
        request: BuildRequest,
    ) -> None:
        self.owner = find_owner(model.get_base_model())
        self._encode_pixels = self.owner.get_image_features
        processor.tokenizer.eos_token = find_turn_end(processor)
        self._rows = RowMaker(processor)

        super().__init__(model, processor, layout=layout, request=request)
        self.owner.get_image_features = self._features

    def _features(self, pixel_values: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return stored features if `pixel_values` are such, else what the tower sees in pixels."""
        if is_packed(pixel_values):
            return self._form.rebuild(pixel_values)
        return self._encode_pixels(pixel_values, *args, **kwargs)

    @cached_property
    def _form(self) -> FeatureForm:
        """The form in which this model's forward takes features, seen on a blank image."""
        import torch
        from PIL import Image

        inputs = self._on_device(self.prepare_image(Image.new("RGB", BLANK_SIZE)))
        with torch.no_grad():
            return FeatureForm.of(self._encode_pixels(**inputs))

    # The parts that differ by type.

    def vision_modules(self) -> Sequence[Any]:
        """Return the tower, then all other modules beside the language model."""
        return [module for _, module in vision_children(self.model.get_base_model())]

    @cached_property
    def _inputs_of_encoder(self) -> frozenset[str]:
        return frozenset(inspect.signature(self._encode_pixels).parameters)

    @cached_property
    def _company_matters(self) -> bool:
        """Whether an image has other tokens in a pair than alone, as for LLaVA-OneVision."""
        return any(
            self._num_tokens((size, size)) != 2 * self._num_tokens((size,)) for size in TRIED_SIZES
        )

    def _num_tokens(self, sizes: tuple[Size, ...]) -> int:
        """Return the vision tokens of a record with images of these sizes."""
        row = self._rows.row(self._prompt("?", len(sizes)), sizes)
        return int((row["input_ids"] == self.image_token_id).sum())

    def prepare_image(self, image: Image, num_images: int = 1) -> Batch:
        """Return the encoder's inputs of an image that is one of `num_images` in its record."""
        inputs = self._rows.image_inputs(self._prompt("?", num_images), [image] * num_images)
        return {name: value for name, value in inputs.items() if name in self._inputs_of_encoder}

    def _open_and_prepare(self, image: LazyImage) -> Batch:
        num_images = image.num_images if isinstance(image, InCompany) else 1
        inputs = pin_memory(self.prepare_image(image.rgb, num_images), self.model)
        return {**inputs, "num_images": num_images}

    def _on_device(self, inputs: Batch) -> Batch:
        """Return the inputs on the tower's device, their numbers in its type."""
        dtype = next(self.vision_modules()[0].parameters()).dtype
        moved = to_device(inputs, self.model)
        return {
            name: value.to(dtype) if _is_floating(value) else value for name, value in moved.items()
        }

    def encode_image(self, inputs: Batch) -> Tensor:
        num_images = inputs.pop("num_images")
        features = self._form.flatten(self._encode_pixels(**self._on_device(inputs)))
        return features[: len(features) // num_images]

    # The contract's parts.

    def make_inputs(
        self,
        texts: list[str],
        images: list[list[LazyImage]],
        padding_side: PaddingSide,
    ) -> Batch:
        """Return the inputs without `position_ids`: the model makes its own."""
        if not self.reads_tokens:
            return ChatBackbone.make_inputs(self, texts, images, padding_side)

        fetched = self._fetch_rows(images)
        sizes = [tuple(image.size for image in row) for row in images]
        rows = [self._rows.row(text, row) for text, row in zip(texts, sizes, strict=True)]
        inputs = pad_rows(rows, pad_id=self.tokenizer.pad_token_id, padding_side=padding_side)
        self._check_lengths(inputs, fetched.lengths)
        return {**inputs, PENDING: lambda: {"pixel_values": pack(fetched.wait())}}

    def _fetch_rows(self, images: list[list[LazyImage]]) -> Fetched:
        """Return the tokens of all images. An image of a pair is another one if company matters."""
        if self._company_matters:
            images = [
                [InCompany(image, len(row)) for image in row] if len(row) > 1 else row
                for row in images
            ]
        return self._fetch([image for row in images for image in row])

    def _check_lengths(self, inputs: Batch, lengths: Sequence[int]) -> None:
        """Raise UserError if the text has other room than the images have tokens."""
        room = int((inputs["input_ids"] == self.image_token_id).sum())
        if room != sum(lengths):
            raise UserError(
                f"the processor leaves room for {room} vision tokens, and the tower makes "
                f"{sum(lengths)}: the sizes in the processor's files and in config.json disagree; "
                "take both from the same base model"
            )

    @property
    def image_token_id(self) -> int:
        """The token that stands for one vision token."""
        config = self.model.config
        for name in ("image_token_id", "image_token_index"):
            if getattr(config, name, None) is not None:
                return int(getattr(config, name))
        raise UserError(
            f"a model of type {config.model_type} names no image token in its config.json; "
            "use a folder with the publisher's files"
        )

    def insert_tokens(
        self,
        texts: list[str],
        fetched: Fetched,
        counts: list[int],
        padding_side: PaddingSide,
    ) -> PlacedTokens:
        raise NotImplementedError  # `make_inputs` needs the sizes of the images too

    def text_length(self, text: str, sizes: Sequence[Size]) -> int:
        return int(self._rows.row(text, tuple(sizes))["input_ids"].shape[1])

    def tower_cost(self, size: Size) -> tuple[int, float]:
        num_tokens = self._num_tokens((size,))
        patch = getattr(self.model.config.vision_config, "patch_size", USUAL_PATCH)
        edge = patch[0] if isinstance(patch, list | tuple) else patch
        num_patches = self._rows.num_pixel_values(size) // (3 * int(edge) ** 2)
        flops = tower_flops(self.vision_modules()[0], num_patches, pairs=0, layers=0, width=0)
        return num_tokens * num_levels(self.model.config), flops

    def with_training_mask(self, batch: Batch) -> Batch:
        """Return the batch as it is: the model makes its own mask."""
        return batch

    def train_batch(self, samples: Sequence[Sample]) -> Batch:
        forward = type(self.model.get_base_model()).forward
        if "logits_to_keep" in inspect.signature(forward).parameters:
            return super().train_batch(samples)
        return self.start_batch(samples, with_answer=True, padding_side=self.train_padding)

    def score(self, samples: Sequence[Sample], labels: Sequence[str]) -> Tensor:
        """Score each label over the whole sequence: not every type's cache can be continued."""
        return ChatBackbone.score(self, samples, labels)

    def token_map(self, tokens: Tensor, size: Size) -> Tensor:
        """Return the first level's tokens by location: a grid, square tiles, or a column."""
        first = tokens[:, 0]
        grid = self._rows.row(self._prompt("?", 1), (size,)).get("image_grid_thw")
        if grid is not None:
            _, height, width = (int(number) for number in grid[0])
            merge = round((height * width / len(first)) ** 0.5)
            return first.unflatten(0, (height // merge, width // merge))

        rows = self._form.rows or len(first)
        try:
            tiles = [square_map(tile[None], "") for tile in first.split(rows)]
        except UserError:
            return first[:, None]
        return _cat(tiles)

    def fingerprint(self) -> str:
        """Return a hash of what `encode` depends on, with weights beside the modules."""
        config, processor = self.model.config, self.processor
        settings = {
            name: repr(value)
            for name, value in sorted(vars(processor).items())
            if isinstance(value, int | float | str) and name != "chat_template"
        }
        chosen = ("model_type", "vision_feature_layer", "vision_feature_select_strategy")
        shown = [repr(getattr(config, name, None)) for name in chosen]
        loose = _Loose(dict(self.owner.named_parameters(recurse=False)))
        return weights_hash(f"{super().fingerprint()} {settings} {shown}", loose)

    # Texts.

    @cached_property
    def _prompt(self) -> Callable[[str, int], str]:
        can_think = "enable_thinking" in str(self.processor.chat_template)
        quiet = {"enable_thinking": False} if can_think else {}

        @lru_cache(NUM_CACHED)
        def prompt(question: str, num_images: int) -> str:
            self._refuse_markers("question", question)
            content = [{"type": "image"}] * num_images + [{"type": "text", "text": question}]
            messages = [{"role": "user", "content": content}]
            text = render_template(self.processor, messages, **quiet)
            return close_thoughts(text)

        return prompt


class InCompany(LazyImage):
    """An image that is one of `num_images` in its record, with an entry of its own in the store."""

    def __init__(self, image: LazyImage, num_images: int) -> None:
        super().__init__(lambda: image.rgb)
        self._image, self.num_images = image, num_images

    @property
    def hash(self) -> str:
        return hashlib.sha256(f"{self._image.hash} of {self.num_images}".encode()).hexdigest()

    @property
    def size(self) -> Size:
        return self._image.size

    @property
    def is_hashed(self) -> bool:
        return self._image.is_hashed


class _Loose:
    """Weights that are in no module of their own, in the form that `weights_hash` reads."""

    def __init__(self, weights: dict[str, Any]) -> None:
        self._weights = weights

    def state_dict(self) -> dict[str, Any]:
        return self._weights


def find_owner(base: Any) -> Any:
    """Return the module whose forward calls its own `get_image_features`."""
    inner = getattr(base, getattr(base, "base_model_prefix", "") or "model", None)
    for module in (inner, getattr(base, "model", None), base):
        if module is not None and hasattr(module, "get_image_features"):
            return module
    raise UserError(
        f"{type(base).__name__} has no get_image_features, so vlmbench cannot serve it; "
        "set model=qwen3_vl or model=llama32"
    )


def find_decoder(base: Any) -> Any:
    """Return the language model within a vision-language model."""
    decoder = base.get_decoder()
    if decoder is base or decoder is find_owner(base):
        raise UserError(
            f"the language model of {type(base).__name__} is not found by its usual names, so "
            "vlmbench cannot serve it; set model=qwen3_vl or model=llama32"
        )
    return decoder


def vision_children(base: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and module of the tower, then of all others beside the language model."""
    owner, decoder = find_owner(base), find_decoder(base)
    tower = base.get_encoder(modality="image")
    children = [
        (name, module)
        for name, module in owner.named_children()
        if decoder not in set(module.modules()) and module is not base.get_output_embeddings()
    ]
    # The tower first; the sort keeps the others in order.
    yield from sorted(children, key=lambda item: tower not in set(item[1].modules()))


def linear_layers(base: Any, module: Any) -> str:
    """Return a regular expression of the linear layers of `module`, a part of `base`.

    Layers that route or gate get no adapters. The expression holds whole names: Qwen2.5-VL has a
    convolution with the last name of a linear layer. A number at the end is kept: the next module
    in a sequence may be of another kind.
    """
    import torch

    inside = set(module.modules())
    skipped = re.compile(r"(^|[._])(gate|router|head)$|\.in_proj_[ab]$|\.per_layer[^.]*$")
    names = {
        re.sub(r"\d+(?=\\\.)", r"\\d+", re.escape(name))
        for name, layer in base.named_modules()
        if layer in inside and isinstance(layer, torch.nn.Linear) and not skipped.search(name)
    }
    return "|".join(sorted(names))


def _cat(tensors: list[Tensor]) -> Tensor:
    import torch

    return torch.cat(tensors)


def _is_floating(value: Any) -> bool:
    return hasattr(value, "is_floating_point") and bool(value.is_floating_point())
