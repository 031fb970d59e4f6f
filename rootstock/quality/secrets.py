"""Credentials in a text, told by their published prefixes, or by entropy after a word that announces one.

Knows nothing about examples.
"""
# ruff: noqa: E501 (lists of words and patterns)

import math
import re
from collections import Counter

_KNOWN = re.compile(
    r"\b(?:sk-(?:proj-|ant-|or-|svcacct-|rs-)?[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{18,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|xox[abeprs]-[A-Za-z0-9-]{10,}|AIza[\w-]{35}|hf_[A-Za-z0-9]{30,}|[srp]k_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{40,}|dop_v1_[a-f0-9]{40,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----"
)
_URL = re.compile(r"\b[a-z][a-z0-9+]{2,20}://[^\s:/@]{1,64}:([^\s:/@]{4,128})@[\w.-]+")
_NAMED = re.compile(
    r"(?:api[ _-]?key|secret(?:[ _-]?key)?|access[ _-]?key(?:[ _-]?id)?|(?:access|auth|api|bearer|refresh)[ _-]?token|token|bearer|"
    r"client[ _-]?secret|passw(?:or)?d|passwort|kennwort|passphrase|pwd|contraseña|mot de passe|senha|wachtwoord)"
    r"[\"'`]?\s*(?::=|=>|[:=]|\s(?:is|was|ist|lautet|es|est|are|é)\b:?|\s)\s*[\"'`]?([^\s\"'`,;<>]{6,200})",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"x{3,}|\*{3,}|•|\.{3}|…|^[<${%\[(]|your|example|placeholder|redacted|changeme|dummy|sample|removed|hidden|insert|todo|none|null",
    re.IGNORECASE,
)
_HINTS = ("key", "ecret", "oken", "earer", "pass", "PASS", "KEY", "OKEN", "ECRET", "pwd", "PWD", "ennwor", "ontrase", "enha", "wachtw", "Pass", "Key")  # fmt: skip
_LEAST_BITS = 2.8  # per character: words of a language lie below when they hold digits or mixed case


def found_in(text: str) -> bool:
    """Whether the text holds a key, a token, a private key or a password."""
    if any(not _PLACEHOLDER.search(match[0]) for match in _KNOWN.finditer(text)):
        return True
    if "://" in text and any(not _PLACEHOLDER.search(match[1]) for match in _URL.finditer(text)):
        return True
    if not any(hint in text for hint in _HINTS):
        return False
    return any(_random(match[1].rstrip(".!?)")) for match in _NAMED.finditer(text))


def _random(value: str) -> bool:
    if len(value) < 6 or _PLACEHOLDER.search(value) or "://" in value or value.startswith(("/", "#", "@")):
        return False
    sorts = [any(map(sort, value)) for sort in (str.isdigit, str.islower, str.isupper)]
    mixed = sum(sorts) + (not value.isalnum())
    counts = Counter(value).values()
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts)
    # Numbers alone are orders and dates, letters alone are words: a secret mixes.
    return sorts[0] and mixed >= 2 and bits >= _LEAST_BITS - (mixed >= 3) * 0.4 and any(map(str.isalpha, value))
