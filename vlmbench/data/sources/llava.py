"""LLaVA's JSON: rows of {"id", "image", "conversations": [...]}.

The conversation of a row is [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}].
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from vlmbench.config import schema
from vlmbench.data.rows.conversations import Conversation, ConversationConfig, NamedTurn


class LlavaRow(msgspec.Struct):
    """A row. `image` is one path, or two paths: the reference, then the query."""

    conversations: list[NamedTurn]
    image: str | list[str]


@schema("source", "llava")
@dataclass(kw_only=True)
class LlavaConfig(ConversationConfig):
    """Conversations in a file of LLaVA's format."""

    def conversation(self, row: msgspec.Raw) -> Conversation:
        fields = msgspec.json.decode(row, type=LlavaRow)
        images = [fields.image] if isinstance(fields.image, str) else fields.image
        turns = tuple(turn.to_turn() for turn in fields.conversations)

        return Conversation(images=tuple(images), turns=turns)
