"""ShareGPT's JSON with pictures: rows of {"images", "conversations"}, or "messages" with role and content."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from vlmbench.config import schema
from vlmbench.data.rows.conversations import ConversationConfig, NamedTurn, RoleTurn, Talk, named_turns, role_turns
from vlmbench.types import UserError


class ShareGptRow(msgspec.Struct):
    """`system` is said before the question."""

    images: list[str]
    conversations: list[NamedTurn] = []
    messages: list[RoleTurn] = []
    system: str = ""


@schema("source", "sharegpt")
@dataclass(kw_only=True)
class ShareGptConfig(ConversationConfig):
    def talk(self, row: msgspec.Raw) -> Talk:
        found = msgspec.json.decode(row, type=ShareGptRow)
        if bool(found.conversations) == bool(found.messages):
            raise UserError("a row needs either conversations or messages; give one of them")
        turns = named_turns(found.conversations) or role_turns(found.messages)
        head = role_turns([RoleTurn(role="system", content=found.system)] if found.system else [])
        return Talk(pictures=tuple(found.images), turns=head + turns)
