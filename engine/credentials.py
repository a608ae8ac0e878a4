"""Credentials: detected in configurations, and redacted from texts that are shown or stored."""

import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

HIDDEN = "***"
# Shorter values may be words: to redact every "token" or "1" would garble the text.
MIN_SECRET_CHARS = 8
WHERE_THEY_BELONG = (
    "leave them out: Counterforge takes them from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or "
    "AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN, RAY_AUTH_TOKEN), from ~/.aws/credentials and from "
    "`hf auth login`; code of yours should read its own from the environment too"
)
# A key of S3 may hold a slash, so a password ends at the @ alone; `host:80/` is no user.
_USER = re.compile(r"(?<=://)[^\s/@:]*:(?!\d+/)[^\s@]+(?=@)")
_QUERY = re.compile(
    r"(?i)(?<=[?&;])((?:x-(?:amz|goog)-(?:signature|credential|security-token)|(?:access|secret|api|auth|session)_?-?"
    r"(?:key|token)|secret_access_key|token|sig|signature|password)=)[^&;\s'\"]+"
)
# Tokens of Hugging Face, AWS, GitHub, OpenAI and similar services, Slack and Google.
_TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{22,}"
    r"|sk-(?:[a-z]+-)?[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9-]{10,}|AIza[0-9A-Za-z_-]{35})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_NAMES = re.compile(r"(?i)(?:^|[_-])(?:token|secret|password|passwd|api_?key|access_?key|private_?key)(?:$|[_-])")
# Endings of such names whose value is a location or a mode, not a secret.
_NO_SECRETS = re.compile(r"(?i)[_-](?:path|file|dir|mode|id|url|uri|name)$")


def redact(text: str) -> str:
    """Return a text without credentials in URLs, tokens, and secrets of this process's environment."""
    return _without(text, _secrets_of_environment())


def find_credentials(value: object) -> Iterator[str]:
    """Yield the dotted names of the fields of a tree that hold credentials, by their text or by their own name."""
    yield from _find(value, (), _secrets_of_environment())


def _find(value: object, at: tuple[str, ...], secrets: Sequence[str]) -> Iterator[str]:
    # Not at the top: the command line shows its help without it.
    from pydantic import BaseModel

    match value:
        case str():
            named = bool(at) and _is_secret_name(at[-1]) and _is_secret_value(value)
            if named or _without(value, secrets) != value:
                yield ".".join(at)
        case BaseModel():
            yield from _find(value.model_dump(), at, secrets)
        case dict():
            for name, part in value.items():
                text = str(name)
                # The reported name must not contain the credential.
                shown = _without(text, secrets)
                yield from _find(part, (*at, shown), secrets)
                if shown != text:
                    yield ".".join((*at, shown))
        case list() | tuple():
            for place, part in enumerate(value):
                yield from _find(part, (*at, str(place)), secrets)
        case _:
            pass


def refuse_credentials(value: Any) -> Any:  # noqa: ANN401 any YAML value
    """Return a tree unchanged; ValueError, without their values, where its fields hold credentials."""
    found = list(dict.fromkeys(find_credentials(value)))
    if found:
        holds = f"{', '.join(found)} hold{'s' if len(found) == 1 else ''}"
        raise ValueError(f"{holds} credentials, which the run directory and the report would show: {WHERE_THEY_BELONG}")
    return value


def _without(text: str, secrets: Sequence[str]) -> str:
    text = _USER.sub(HIDDEN, text)
    text = _QUERY.sub(rf"\1{HIDDEN}", text)
    text = _TOKENS.sub(HIDDEN, text)
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def _secrets_of_environment() -> list[str]:
    found = {value for name, value in os.environ.items() if _is_secret_name(name) and _is_secret_value(value)}
    # The longest first: one may be a part of another.
    return sorted(found, key=len, reverse=True)


@lru_cache(4096)
def _is_secret_name(name: str) -> bool:
    return bool(_NAMES.search(name)) and not _NO_SECRETS.search(name)


def _is_secret_value(value: str) -> bool:
    return len(value) >= MIN_SECRET_CHARS and not value.startswith("/") and not any(map(str.isspace, value))
