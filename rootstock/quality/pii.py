"""Personal data in a text, by kind, told by form and checksum. Names and postal addresses are not looked for.

Left out on purpose: the domains and numbers that are reserved for examples, addresses of roles (`support@`), free-call
numbers, private networks. Knows nothing about examples.
"""
# ruff: noqa: E501 (lists of words and patterns)

import ipaddress
import re

_EMAIL = re.compile(
    r"(?<![\w.+-])([A-Za-z0-9][\w.+-]{0,63})@((?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,24})(?![\w-])"
)
_RESERVED = re.compile(
    r"(?:^|\.)(?:example|test|invalid|localhost|local)$|(?:^|\.)example\.(?:com|org|net|de|es|fr|eu)$"
)
_ROLES = frozenset(
    "support info help contact sales noreply no-reply donotreply service services admin billing team office hello kontakt "
    "hilfe care customerservice customercare webmaster postmaster abuse security privacy press jobs careers orders returns "
    "feedback name user username you your.name email soporte ayuda contacto aide kundenservice".split()
)
_DIGITS = re.compile(r"(?<![\w.,/-])[+(]?\d[\d ()./\-\u00a0]{5,24}\d(?![\w-])")
_SSN = re.compile(r"(?!000|666|9)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){3,7}(?::?[0-9A-Fa-f]{1,4})+(?![\w:])")
_VERSION = re.compile(r"(?:\bv|version|release|firmware|build|os)\.?\s*$", re.IGNORECASE)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,4})?\b")
_IBAN_CHARS = {
    "AD": 24, "AT": 20, "BE": 16, "BG": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "EE": 20, "ES": 24, "FI": 18,
    "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IS": 26, "IT": 27, "LI": 21, "LT": 20, "LU": 20, "LV": 21,
    "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TR": 26,
}  # fmt: skip
_PHONE_WORD = re.compile(
    r"(?:phone|call(?:ed| me)?|tel|mobile|cell|handy|telefon\w*|nummer|rufnummer|teléfono|móvil|téléphone|numéro|portable|"
    r"whatsapp|sms|text me|reach me|ring me|number is|llám\w*|appele\w*|joignable|telefono|cellulare|telefone|celular|fax)"
    r"[^\d+(]{0,25}$",
    re.IGNORECASE,
)
_US_PHONE = re.compile(r"(?:\+?1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}")
_NATIONAL = re.compile(r"0\d{1,4}[ /.-](?:\d{2,8}[ .-]?){1,4}\d{2,}|0\d(?:[ .]\d\d){4}")
_FREE = re.compile(r"(?:\+?1[ .-]?)?\(?8(?:00|88|77|66|55|44|33)\b|0800|\+\d\d ?800")
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}\b|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}\b")


def kinds_of(text: str) -> set[str]:
    """Which kinds of personal data are in the text: `email`, `phone`, `card`, `ssn`, `iban`, `ip`."""
    found: set[str] = set()
    if "@" in text and any(not _harmless(match[1], match[2]) for match in _EMAIL.finditer(text)):
        found.add("email")
    if not any(map(text.__contains__, "0123456789")):
        return found
    for match in _DIGITS.finditer(text):
        if (kind := _of_digits(match[0].strip(), text[max(0, match.start() - 40) : match.start()])) is not None:
            found.add(kind)
    if any(map(_is_iban, _IBAN.findall(text))):
        found.add("iban")
    if "." in text and any(_is_address(m[0], text[max(0, m.start() - 12) : m.start()]) for m in _IPV4.finditer(text)):
        found.add("ip")
    if ":" in text and any(_is_address(match[0], "") for match in _IPV6.finditer(text)):
        found.add("ip")
    return found


def _harmless(local: str, domain: str) -> bool:
    return local.lower() in _ROLES or bool(_RESERVED.search(domain.lower()))


def _of_digits(text: str, before: str) -> str | None:
    digits = "".join(filter(str.isdigit, text))
    if _SSN.fullmatch(text):
        return "ssn"
    if 13 <= len(digits) <= 19 and not text.startswith("+") and digits[0] in "23456" and _luhn(digits):
        return "card"
    return "phone" if 7 <= len(digits) <= 15 and _is_phone(text, digits, before) else None


def _is_phone(text: str, digits: str, before: str) -> bool:
    if _FREE.match(text) or _DATE.match(text) or len(set(digits)) < 3 or digits[-7:-2] == "55501":
        return False
    if text.startswith("+"):
        return len(digits) >= 9
    return bool(_US_PHONE.fullmatch(text) or _NATIONAL.fullmatch(text) or _PHONE_WORD.search(before))


def _luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def _is_iban(text: str) -> bool:
    packed = text.replace(" ", "")
    while packed and len(packed) > _IBAN_CHARS.get(packed[:2], 0):  # the pattern may have taken a word that follows
        packed = packed[:-1]
    if len(packed) != _IBAN_CHARS.get(packed[:2]):
        return False
    return int("".join(str(int(char, 36)) for char in packed[4:] + packed[:4])) % 97 == 1


def _is_address(text: str, before: str) -> bool:
    if _VERSION.search(before):
        return False
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False
