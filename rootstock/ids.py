"""Identifiers: prefixed, random, opaque. Knows nothing about what they identify.

The prefixes are the ones of the OpenAI API (`file-`, `ftjob-`, `ftevent-`, `ftckpt_`, ...), because client code
and support scripts recognise them. 24 base-36 characters carry 124 bits, so ids cannot be guessed and are never
reused.
"""

import hashlib
import re
import secrets
import string

_ALPHABET = string.ascii_lowercase + string.digits
_SHORT_ALPHABET = string.ascii_letters + string.digits
_RANDOM_CHARS = 24

ADAPTER_ID = re.compile(r"[a-z0-9][a-z0-9-]{7,63}")
"""Adapter ids name folders, object keys and vLLM models, so nothing else may ever be looked up as one."""

_PLAIN = re.compile(r"[\x21-\x7e]{1,512}")


def new(prefix: str) -> str:
    """A fresh id such as `ftjob-8k2…`; `prefix` carries its separator (`"file-"`, `"ftckpt_"`)."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARS))


def derived(prefix: str, source: str) -> str:
    """The one id that belongs to `source` (which holds an id of `new`, so this cannot be guessed either).

    For what a worker makes again after it died: it finds what it left behind instead of adding to it.
    """
    return prefix + hashlib.sha256(source.encode()).hexdigest()[:_RANDOM_CHARS]


def short() -> str:
    """Eight alphanumerics, the last field of a tuned model's name (`ft:base:org:suffix:7p4lURel`)."""
    return "".join(secrets.choice(_SHORT_ALPHABET) for _ in range(8))


def is_adapter_id(text: str) -> bool:
    """Whether `text` may be looked up as an adapter id (a closed alphabet: no dots, slashes or colons)."""
    return ADAPTER_ID.fullmatch(text) is not None


def is_plain(text: str) -> bool:
    """Whether `text` could be an id or a model name at all: printable ASCII, no spaces.

    Anything else is simply not found, and must not reach a database: PostgreSQL refuses NUL, both refuse surrogates.
    """
    return _PLAIN.fullmatch(text) is not None
