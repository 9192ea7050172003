"""`${env:NAME}` in a recipe: the value of an environment variable, the only interpolation there is."""

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

from configs.errors import ConfigError
from configs.redaction import REDACTED, is_secret_key
from configs.yaml_source import Document, KeyPath

logger = logging.getLogger(__name__)

_PLACEHOLDER = re.compile(r"\$\{env:([^}]*)\}")


def fill_placeholders(
    document: Document, environment: Mapping[str, str] = os.environ
) -> tuple[Document, dict[KeyPath, str]]:
    """The document with every placeholder filled, and for each path filled the text it had before.

    ConfigError names variables that are not set; their values are never part of a message.
    """
    filler = _Filler(document, environment)
    data = filler.fill(document.data, ())
    if filler.problems:
        raise ConfigError(filler.problems)
    return Document(name=document.name, data=data, origins=document.origins), filler.hidden


class _Filler:
    def __init__(self, document: Document, environment: Mapping[str, str]) -> None:
        self.document = document
        self.environment = environment
        self.hidden: dict[KeyPath, str] = {}
        self.problems: list[str] = []

    def fill(self, value: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: self.fill(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item, (*path, index)) for index, item in enumerate(value)]
        return self._fill_text(value, path) if isinstance(value, str) else value

    def _fill_text(self, text: str, path: KeyPath) -> str:
        where = f"{'.'.join(map(str, path))} ({self.document.origin(path)})"
        if text == REDACTED:
            self.problems.append(f"{where}: was redacted when this file was written; set it to ${{env:NAME}}")
        names = _PLACEHOLDER.findall(text)
        unset = [name for name in names if name not in self.environment]
        self.problems += [f"{where}: the environment variable {name} is not set" for name in unset]
        if not names and path and is_secret_key(str(path[-1])):
            logger.warning("%s: a secret written out; set it to ${env:NAME} and keep it in the environment", where)
        if not names or unset:
            return text
        self.hidden[path] = text
        return _PLACEHOLDER.sub(lambda match: self.environment[match[1]], text)
