"""Secrets in recipes: which keys hold one, and what is written in its place."""

import os
import re
from collections.abc import Mapping
from typing import Any, Final

REDACTED: Final = "<redacted>"
_MIN_SECRET_LENGTH = 8  # shorter values of the environment would match ordinary words
# Whole words only, "key" and "token" only as the last one: api_key and HF_TOKEN hold secrets, max_tokens
# and key_column do not.
_SECRET = re.compile(
    r"(?:^|[_\-. ])(?:(?:secret|password|passwd|credentials?)(?:$|[_\-. ])|(?:token|key|apikey)$)", re.IGNORECASE
)
_TEXT_TOKEN = re.compile(r"(?:per|pad|eos|bos|unk|end|start|stop|special)_token$", re.IGNORECASE)


def is_secret_key(name: str) -> bool:
    """Whether a key or an environment variable of this name holds a secret."""
    return _SECRET.search(name) is not None and _TEXT_TOKEN.search(name) is None


def redact(value: Any, key: str = "", environment: Mapping[str, str] = os.environ) -> Any:
    """`value` without secrets, at any depth.

    A secret that an environment variable holds becomes `${env:NAME}`, so that the result still
    loads where that variable is set; any other value of a secret key becomes `<redacted>`.
    """
    if isinstance(value, dict):
        return {name: redact(item, str(name), environment) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item, key, environment) for item in value]
    if isinstance(value, str):
        value = without_secrets(value, environment)
        if value.startswith("${env:"):
            return value
    return REDACTED if value is not None and is_secret_key(key) else value


def without_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """`text` with `${env:NAME}` wherever the value of a secret environment variable stood in it."""
    for name, secret in environment.items():
        if is_secret_key(name) and len(secret) >= _MIN_SECRET_LENGTH:
            text = text.replace(secret, f"${{env:{name}}}")
    return text
