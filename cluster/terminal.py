"""Safe terminal output: no credentials, no control characters of others, and nothing that the terminal cannot show."""

import codecs
import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TextIO, cast

from engine.credentials import WHERE_THEY_BELONG, redact
from engine.errors import UserError

# Control characters except tab and line feed, and bidirectional marks, which can show a text as another.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Our own signs, for a terminal that is not UTF-8; what others write becomes escapes such as \u732b.
_PLAIN = {"\u202f": " ", "−": "-", "–": "-", "…": "...", "→": "->", "≥": ">=", "≤": "<=", "━": "#", "─": "-"}


def shown(text: str) -> str:
    """Return a text without credentials, and with control characters as escapes such as \\x1b."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], redact(text))


def refuse_arguments(arguments: Sequence[str]) -> None:
    """Raise UserError if the command line has credentials; the message does not repeat them."""
    for argument in arguments:
        if (without := redact(argument)) != argument:
            raise UserError(
                f"{without}: every user of this machine can read credentials of a command line in its list of "
                f"processes: {WHERE_THEY_BELONG}"
            )


@contextmanager
def plain_output() -> Iterator[None]:
    """Filter everything that the body prints through `shown`; what stdout or stderr cannot encode is replaced."""
    codecs.register_error(plain_signs.__name__, plain_signs)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=plain_signs.__name__)
    with redirect_stdout(cast(TextIO, _Shown(sys.stdout))):
        yield


def plain_signs(error: UnicodeError) -> tuple[str, int]:
    """Return an ASCII text for characters that cannot be encoded, and their end: an error handler of codecs."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign) or ascii(sign)[1:-1] for sign in unknown), error.end


class _Shown:
    """Wrap a text stream and filter what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the filtered text."""
        return self._stream.write(shown(text))

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
