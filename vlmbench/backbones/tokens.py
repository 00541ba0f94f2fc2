"""A chat backbone that computes the vision tokens of each image alone, so that they can be stored.

A family opts in when the plain path works: it derives from `TokenBackbone`, and gives the methods
`vision_modules`, `prepare_image`, `encode_image`, `insert_tokens`, `text_length` and `tower_cost`.
With `token_map` too, baselines can read the tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from vlmbench.backbones.answers import continue_text, score_labels
from vlmbench.backbones.batches import PENDING, Batch, PaddingSide, make_attention_mask, positions
from vlmbench.backbones.chat import ChatBackbone
from vlmbench.backbones.contract import VisionCost
from vlmbench.backbones.devices import in_lanes, pin_memory, prefetch, to_device
from vlmbench.backbones.layout import Layout, Size
from vlmbench.backbones.maps import FeatureMap, NoFeaturesError, to_host
from vlmbench.backbones.towers import weights_hash
from vlmbench.config import BuildRequest, Engine, Vision
from vlmbench.types import LazyImage, Sample

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vlmbench.features.store import Fetched, TokenStore

# A batch's inputs so far, and the function that returns those still on their way to the device.
PlacedTokens = tuple[Batch, Callable[[], Batch]]


class TokenBackbone(ChatBackbone, ABC):
    """A chat backbone whose frozen tower encodes each image once, and whose prefix is cached.

    Raise `revision` when the numbers of tokens change: stored ones must not be used then. A GPU
    works on `lanes` images at once.
    """

    revision: ClassVar[int] = 1
    lanes: ClassVar[int] = 1

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        layout: Layout,
        request: BuildRequest,
    ) -> None:
        super().__init__(model, processor, layout=layout, request=request)
        self._use_lean_layers(request)
        self.store = self._open_store(request)
        # A frozen tower encodes each image alone, stored or not: the tokens are the same.
        self.reads_tokens = request.vision is Vision.frozen and request.weights

    @abstractmethod
    def vision_modules(self) -> Sequence[Any]:
        """Return the tower and the projector: all modules that an image's tokens depend on."""

    @abstractmethod
    def prepare_image(self, image: Image) -> Batch:
        """Return the inputs of the tower for one image. Several threads call this at once."""

    @abstractmethod
    def encode_image(self, inputs: Batch) -> Tensor:
        """Return the tokens of one prepared image after the projector: (tokens, hidden)."""

    @abstractmethod
    def insert_tokens(
        self,
        texts: list[str],
        fetched: Fetched,
        counts: list[int],
        padding_side: PaddingSide,
    ) -> PlacedTokens:
        """Return the model's inputs for texts and the tokens of their images.

        `counts` are the images of each text. The lengths of the tokens are known at once. The
        tokens themselves may still be on their way: only the returned function may wait for them.
        """

    @abstractmethod
    def text_length(self, text: str, sizes: Sequence[Size]) -> int:
        """Return the positions of a text with images of these (width, height)."""

    @abstractmethod
    def tower_cost(self, size: Size) -> tuple[int, float]:
        """Return the tokens of one image of `size` (width, height), and the tower's operations."""

    # A family may override these.

    def token_map(self, tokens: Tensor, size: Size) -> Tensor:
        """Return the tokens of an image of `size` by location: (rows, columns, hidden)."""
        family = type(self.model.get_base_model()).__name__
        raise NoFeaturesError(
            f"the tokens of {family} have no known location; give its backbone a method token_map"
        )

    def with_training_mask(self, batch: Batch) -> Batch:
        """Return the training batch with the attention mask in its cheapest form."""
        mask = batch["attention_mask"]
        mask = make_attention_mask(self.model, mask, mask.shape[1])
        return batch | {"attention_mask": mask}

    def continue_prefix(self, prefix: Batch, num_new: int) -> Batch:
        """Return the inputs that `num_new` more tokens after the prefix change."""
        return continue_text(prefix, num_new)

    def can_reuse_prefix(self, prefix: Batch, label_ids: Sequence[Sequence[int]]) -> bool:
        """Return whether the prefix's keys and values still hold when a label follows."""
        return True

    # The contract.

    def make_inputs(
        self,
        texts: list[str],
        images: list[list[LazyImage]],
        padding_side: PaddingSide,
    ) -> Batch:
        if self.reads_tokens:
            fetched = self._fetch([image for row in images for image in row])
            counts = [len(row) for row in images]
            inputs, arrive = self.insert_tokens(texts, fetched, counts, padding_side)
            batch = {**inputs, PENDING: arrive}
        else:
            batch = super().make_inputs(texts, images, padding_side)

        batch["position_ids"] = positions(batch["attention_mask"])
        return batch

    def train_batch(self, samples: Sequence[Sample]) -> Batch:
        return self.with_training_mask(super().train_batch(samples))

    def vision_cost(self, size: Size) -> VisionCost:
        weight = next(self.vision_modules()[0].parameters())
        num_tokens, flops = self.tower_cost(size)
        hidden = int(self.model.config.text_config.hidden_size)
        return VisionCost(num_bytes=num_tokens * hidden * weight.element_size(), flops=flops)

    def score(self, samples: Sequence[Sample], labels: Sequence[str]) -> Tensor:
        """Score the labels after one pass over the prefix."""
        prefix = self.collate(samples, with_answer=False, padding_side="left")
        label_ids = [self._ids(label) for label in labels]
        is_cached = self.can_reuse_prefix(prefix, label_ids)
        return score_labels(
            self.model,
            to_device(prefix, self.model),
            label_ids,
            continuation=self.continue_prefix,
            cached=is_cached,
        )

    def feature_maps(self, images: Sequence[LazyImage]) -> list[FeatureMap]:
        """Return the stored tokens by their location: an image is encoded once."""
        tokens = self._fetch(images).wait()
        return [
            to_host(self.token_map(own, image.size))
            for own, image in zip(tokens, images, strict=True)
        ]

    def _use_lean_layers(self, request: BuildRequest) -> None:
        """Make what trains in mixed precision cheaper: a tower, and a decoder on a GPU.

        A CPU trains in float32, and Unsloth has kernels of its own. The frozen tower stays as it
        is, so that stored tokens hold.
        """
        from vlmbench.backbones._lean import use_lean_layers

        vision = [part for module in self.vision_modules() for part in module.modules()]
        if request.vision is not Vision.frozen:
            use_lean_layers(vision)

        is_on_gpu = next(self.model.parameters()).is_cuda
        if request.engine is Engine.transformers and is_on_gpu:
            own = set(vision)
            use_lean_layers(part for part in self.model.modules() if part not in own)

    # Vision tokens.

    def encode(self, images: Sequence[LazyImage]) -> list[Tensor]:
        """Return the projected tokens of each image, without padding: (tokens, hidden)."""
        return list(self._encode_each(images))

    def _encode_each(self, images: Iterable[LazyImage]) -> Iterator[Tensor]:
        """Return the tokens of each image, encoded alone; prepare images ahead of the tower.

        In a batch, the last bits of an image's tokens would depend on the other images.
        """
        return in_lanes(
            self._encode_prepared,
            prefetch(self._open_and_prepare, images),
            lanes=self.lanes,
            device=next(self.model.parameters()).device,
        )

    def _encode_prepared(self, inputs: Batch) -> Tensor:
        import torch

        with torch.no_grad():
            return self.encode_image(to_device(inputs, self.model))

    def _open_and_prepare(self, image: LazyImage) -> Batch:
        return pin_memory(self.prepare_image(image.rgb), self.model)

    def _fetch(self, images: Sequence[LazyImage]) -> Fetched:
        if self.store is not None:
            return self.store.fetch(images, self._encode_each)

        from vlmbench.features.store import Fetched

        return Fetched.of(self.encode(images))

    def _open_store(self, request: BuildRequest) -> TokenStore | None:
        is_frozen = request.vision is Vision.frozen
        if not is_frozen or not request.store.enabled or not request.weights:
            return None

        from vlmbench.features.store import TokenStore, refuse_trainable

        refuse_trainable(*self.vision_modules())
        device = next(self.model.parameters()).device
        folder = request.cache_dir / "features"
        return TokenStore(folder, self.fingerprint(), device=device, settings=request.store)

    def fingerprint(self) -> str:
        """Return a hash of everything that `encode` depends on, except the image.

        That is the processor's settings, the weights, and what changes rounding: engine, kind of
        device, version of torch.
        """
        import torch

        device = next(self.model.parameters()).device
        settings = self.processor.image_processor.to_json_string()
        platform = f"{self.engine} {device.type} {torch.__version__} {self.revision}"
        return weights_hash(f"{settings} {platform}", *self.vision_modules())
