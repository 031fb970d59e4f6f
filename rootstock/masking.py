"""The two forms of a setting's value: as another process reads it, and as a person may see it. Knows no setting."""

import json
import re
from pathlib import Path
from typing import Any

from pydantic import SecretStr


def plain(value: Any) -> str:
    """The value as an environment variable holds it, secrets included."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, dict) else str(value)


def masked(name: str, value: Any) -> Any:
    """The value of the setting `name` as it may be shown: secrets and the passwords in URLs are starred out."""
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str) and name.endswith(("_url", "_urls")):
        return re.sub(r"//([^:/@,]*):[^@,]*@", r"//\1:********@", value)
    return value
