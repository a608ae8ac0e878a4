"""What comes from the terminal and what reaches it: no credentials, and no character by which a name could steer it."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TextIO, cast

from engine.credentials import WHERE_THEY_BELONG, redact
from engine.errors import UserError

# Control characters but tab and line feed; marks that turn the direction of writing, which show a text as another.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def shown(text: str) -> str:
    """Return a text as it may be shown: without credentials, and with control characters as escapes such as \\x1b."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], redact(text))


def refuse_arguments(arguments: Sequence[str]) -> None:
    """Raise UserError, which repeats none of them, where the command line holds credentials."""
    for argument in arguments:
        if (without := redact(argument)) != argument:
            raise UserError(
                f"{without}: every user of this machine can read credentials of a command line in its list of "
                f"processes: {WHERE_THEY_BELONG}"
            )


@contextmanager
def plain_output() -> Iterator[None]:
    """Have everything that is printed in the body go through `shown`."""
    with redirect_stdout(cast(TextIO, _Shown(sys.stdout))):
        yield


class _Shown:
    """Stand for a text stream; only what is written to it changes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text as it may be shown."""
        return self._stream.write(shown(text))

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
