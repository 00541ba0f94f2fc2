"""LLaVA's JSON: rows of {"id", "image", "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}]}."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from vlmbench.config import schema
from vlmbench.data.rows.conversations import ConversationConfig, NamedTurn, Talk, named_turns


class LlavaRow(msgspec.Struct):
    """`image` is one path, or a list of them: the reference, then the query."""

    conversations: list[NamedTurn]
    image: str | list[str]


@schema("source", "llava")
@dataclass(kw_only=True)
class LlavaConfig(ConversationConfig):
    def talk(self, row: msgspec.Raw) -> Talk:
        found = msgspec.json.decode(row, type=LlavaRow)
        pictures = [found.image] if isinstance(found.image, str) else found.image
        return Talk(pictures=tuple(pictures), turns=named_turns(found.conversations))
