"""PaliGemma: a prompt that sees itself both ways, an answer that sees what came before it.

PaliGemma has no chat template. Its prompt is its images, a start token, the question and the end of
a line. `token_type_ids` are 1 in the answer: without them, the answer would see its own end.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.backbones.batches import IGNORED, Batch, PaddingSide
from vlmbench.backbones.seam import SeamBackbone
from vlmbench.types import Sample


class PrefixBackbone(SeamBackbone):
    """The prompt is a prefix, the answer a suffix."""

    def start_batch(
        self,
        samples: Sequence[Sample],
        *,
        with_answer: bool,
        padding_side: PaddingSide,
    ) -> Batch:
        batch = super().start_batch(samples, with_answer=with_answer, padding_side=padding_side)
        is_answer = batch["labels"] != IGNORED if with_answer else batch["input_ids"] < 0
        return batch | {"token_type_ids": is_answer.long()}
