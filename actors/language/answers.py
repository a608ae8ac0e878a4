"""What a language model gives instead of a text that can be used."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BadReply:
    """Say why an answer was turned down: `reason` is counted, `detail` is for a person."""

    reason: str
    detail: str
