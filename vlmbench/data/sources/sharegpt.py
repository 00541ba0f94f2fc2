"""ShareGPT's JSON with images: rows of {"images", "conversations"} or {"images", "messages"}.

Turns in "messages" have a role and a content.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from vlmbench.config import schema
from vlmbench.data.rows.conversations import (
    Conversation,
    ConversationConfig,
    NamedTurn,
    RoleTurn,
    Turn,
)
from vlmbench.types import UserError


class ShareGptRow(msgspec.Struct):
    """A row. `system` is the system's message before the question."""

    images: list[str]
    conversations: list[NamedTurn] = []
    messages: list[RoleTurn] = []
    system: str = ""


@schema("source", "sharegpt")
@dataclass(kw_only=True)
class ShareGptConfig(ConversationConfig):
    """Conversations in a file of ShareGPT's format."""

    def conversation(self, row: msgspec.Raw) -> Conversation:
        fields = msgspec.json.decode(row, type=ShareGptRow)
        if bool(fields.conversations) == bool(fields.messages):
            raise UserError(
                "the row must have either `conversations` or `messages`; keep one of them"
            )

        turns = [turn.to_turn() for turn in fields.conversations or fields.messages]
        if fields.system:
            turns.insert(0, Turn(speaker="system", text=fields.system))

        return Conversation(images=tuple(fields.images), turns=tuple(turns))
