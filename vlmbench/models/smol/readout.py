"""The read-out of the small model: linear scores of the possible answers, from image features.

The read-out is fitted before training, in seconds, because the decoder does not learn to compare
two images in minutes. Its result becomes a token: the word that it expects as the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

ROWS = 128  # answers that a read-out can hold, with those that several questions share
NO_KEY, UNUSED = -1, 0  # a missing key, and the key of a row that holds no answer
MAX_RECORDS = 8_000  # that are fitted: 220 MB of features in double precision
MAX_ITERATIONS = 100
# Strength of the fit, as C of scikit-learn. From 0.003 to 0.1, AUROC on parts changes by 0.02.
STRENGTH = 0.01
FLOOR = 0.05  # of the mean spread: a feature that hardly varies must not count more


class SmolReadout(nn.Module):
    """Score answers: each has a sum of rows of `weight` (ROWS, 2 * features), found by their keys.

    Everything is a buffer: the rows are fitted, and gradients do not change them. Without a fit,
    all scores are 0.
    """

    keys: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, vision_size: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.full((ROWS,), UNUSED))
        self.register_buffer("weight", torch.zeros(ROWS, 2 * vision_size))
        self.register_buffer("bias", torch.zeros(ROWS))

    @torch.no_grad()
    def forward(self, features: Tensor, answer_keys: Tensor) -> Tensor:
        """Return scores (B, C) of the answers with `answer_keys` (B, C, R).

        `features` (B, N, 864) are of the images. An unknown key adds nothing.
        """
        with torch.autocast(features.device.type, enabled=False):
            rows = compare_features(features.float()) @ self.weight.float().T + self.bias.float()
            is_row = answer_keys[..., None] == self.keys

            return (is_row * rows[:, None, None]).sum((2, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The possible answers to a record, by the keys of their rows (C, R), and the true one."""

    keys: Sequence[Sequence[int]]
    truth: int


def compare_features(features: Tensor) -> Tensor:
    """Return [|query - reference|, query] (B, 2 * 864) of the first and the last image."""
    reference, query = features[:, 0], features[:, -1]

    return torch.cat([(query - reference).abs(), query], dim=-1)


def key_of(text: str) -> int:
    """Return the key of a text, a positive integer."""
    return int.from_bytes(sha256(text.encode()).digest()[:7]) + 1


def fit_readout(readout: SmolReadout, features: Tensor, choices: Sequence[Choice]) -> None:
    """Fit the rows to `features` (n, N, 864) and the true answers.

    This is a conditional logit (McFadden 1974) with an L2 penalty. It is convex, so it has one
    result, whatever the seed.
    """
    with torch.enable_grad():
        keys = _common_keys(choices)
        mean, spread = _mean_and_spread(features.double())
        inputs = compare_features((features.double() - mean) / spread)
        inputs = pad(inputs, (0, 1), value=inputs.shape[1] ** 0.5)  # the bias, hardly penalised

        truth = torch.tensor([choice.truth for choice in choices])
        weight = _minimise(inputs, _is_row(choices, keys), _exists(choices), truth)

    half = features.shape[-1]
    by_difference, by_query = weight[:, :half] / spread, weight[:, half:-1] / spread
    bias = weight[:, -1] * inputs[0, -1] - by_query @ mean

    readout.keys.fill_(UNUSED)
    readout.weight.zero_()
    readout.bias.zero_()
    readout.keys[: len(keys)] = torch.tensor(keys)
    readout.weight[: len(keys)] = torch.cat([by_difference, by_query], dim=1).float()
    readout.bias[: len(keys)] = bias.float()


def _common_keys(choices: Sequence[Choice]) -> list[int]:
    """Return the keys that the most records have, at most ROWS; none of a single record."""
    counts = Counter(key for choice in choices for keys in choice.keys for key in set(keys))
    counts.pop(NO_KEY, None)
    repeated = [key for key, count in counts.items() if count > 1]
    ordered = sorted(repeated, key=lambda key: (-counts[key], key))

    return ordered[:ROWS]


def _mean_and_spread(features: Tensor) -> tuple[Tensor, Tensor]:
    images = features.flatten(0, 1)
    spread = images.std(0)

    return images.mean(0), spread.clamp(min=max(FLOOR * float(spread.mean()), 1e-6))


def _is_row(choices: Sequence[Choice], keys: Sequence[int]) -> Tensor:
    """Return (n, C, rows): 1 for the rows of an answer, else 0."""
    num_answers = max(len(choice.keys) for choice in choices)
    row_of = {key: row for row, key in enumerate(keys)}

    is_row = torch.zeros(len(choices), num_answers, len(keys), dtype=torch.float64)
    for record, choice in enumerate(choices):
        for answer, answer_keys in enumerate(choice.keys):
            for key in answer_keys:
                if key in row_of:
                    is_row[record, answer, row_of[key]] = 1

    return is_row


def _exists(choices: Sequence[Choice]) -> Tensor:
    """Return (n, C): whether a record has so many answers. Others must not compete with them."""
    counts = torch.tensor([len(choice.keys) for choice in choices])
    return torch.arange(int(counts.max())) < counts[:, None]


def _minimise(inputs: Tensor, is_row: Tensor, exists: Tensor, truth: Tensor) -> Tensor:
    """Return the weights (rows, inputs) with the least penalised loss."""
    weight = torch.zeros(is_row.shape[-1], inputs.shape[1], dtype=inputs.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight],
        max_iter=MAX_ITERATIONS,
        history_size=20,
        tolerance_grad=1e-3,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = torch.einsum("nk,nck->nc", inputs @ weight.T, is_row)
        scores = scores.masked_fill(~exists, -torch.inf)
        loss = cross_entropy(scores, truth, reduction="sum")
        penalised = loss + weight.square().sum() / (2 * STRENGTH)
        penalised.backward()
        return penalised

    optimizer.step(closure)
    return weight.detach()
