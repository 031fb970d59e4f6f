"""What one text gives away: special tokens, damaged encoding, its language, its facts. Knows nothing about examples."""
# ruff: noqa: E501, RUF001 (lists of words and patterns)

import re

import ftfy
from ftfy.badness import is_bad

from rootstock.quality.words import STOP_WORDS

_SPECIAL = re.compile(
    r"<\|[A-Za-z_][\w .-]{0,40}\|>|<｜[^｜\n]{1,40}｜>|<(?:bos|eos|pad|unk|mask|start_of_turn|end_of_turn|end_of_utterance|tool_call|/tool_call|"
    r"tool_response|/tool_response|BOS_TOKEN|EOS_TOKEN|fim_(?:prefix|middle|suffix)|endoftext|im_start|im_end)>"
    r"|\[/?INST\]|<</?SYS>>|\[/?(?:CLS|SEP|PAD|MASK|UNK|BOS|EOS|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<\|(?:end|user|assistant|system)\|>"
)
_ENDS = re.compile(r"\A\s*<s>|</s>\s*\Z")
_C1 = re.compile(r"[\u0080-\u009f\ufffd\ufeff\ufffe]")
_MOJIBAKE = re.compile(r"[ÂÃâÐÑÎÏØÙŽžÅÄåäđŤťĂăаРСв¤€™‚ƒ„†‡ˆ‰]")
_ESCAPED = re.compile(r"\\u(?:00[a-f89][0-9a-f]|201[0-9a-f])", re.IGNORECASE)
_ASKED = re.compile(r"(?<![/=&.?])\b[^\W\d_]{1,20}\?[^\W\d_A-Z]{1,20}\b(?![=/&])")
_TOKEN_WORD = re.compile(r"[^\W\d_]+")


def special_token(text: str) -> str | None:
    """The first control token of a chat template that stands in the text."""
    if "<" not in text and "[" not in text:
        return None
    match = _SPECIAL.search(text)
    if match is None and ("<s>" in text or "</s>" in text):
        match = _ENDS.search(text)
    return match[0].strip() if match else None


def damaged(text: str) -> bool:
    """Whether the text was once decoded with the wrong encoding, or has lost characters."""
    if "\\u" in text and not text.lstrip().startswith(("{", "[")) and _ESCAPED.search(text):
        return True
    if text.isascii():
        return "?" in text and len(_ASKED.findall(text)) >= 2
    if _C1.search(text):
        return True
    if _MOJIBAKE.search(text) and is_bad(text) and ftfy.fix_encoding(text) != text:
        return True
    return "?" in text and len(_ASKED.findall(text)) >= 2


def mended(text: str) -> str:
    """The text with its encoding put right, as far as that can be known."""
    if "\\u" in text and not text.lstrip().startswith(("{", "[")):
        text = _ESCAPED.sub(lambda match: chr(int(match[0][2:], 16)), text)
    return ftfy.fix_encoding(text).replace("\ufeff", "")


_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("zh", re.compile(r"[\u3400-\u9fff]")),
    ("ko", re.compile(r"[\uac00-\ud7af]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
)
_OTHER = re.compile(r"[\u0370-\u0fff\u3040-\ud7af]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WEIGHTS: dict[str, list[tuple[str, float]]] = {}
for _name, _listed in STOP_WORDS.items():
    for _word in _listed:
        _WEIGHTS.setdefault(_word, []).append((_name, 0.0))
for _word, _names in _WEIGHTS.items():
    _WEIGHTS[_word] = [(name, 1.0 / len(_names) ** 2) for name, _ in _names]


def language(text: str) -> str | None:
    """Its language as ISO 639-1, by script or by its commonest words; `None` when that is not clear."""
    if not text.isascii() and len(_OTHER.findall(text[:1000])) * 3 > len(text[:1000]):
        counts = [(len(pattern.findall(text[:1000])), name) for name, pattern in _SCRIPTS]
        most, name = max(counts)
        # Japanese mixes two scripts; a few kana decide.
        return "ja" if counts[0][0] > 2 and name == "zh" else name if most else None
    found = _by_words(text[:600])
    if found is None and len(parts := _SENTENCE.split(text[:600])) > 1:
        # A text of two languages is unclear as a whole: its longest clear sentence decides.
        found = next(filter(None, map(_by_words, sorted(parts, key=len, reverse=True)[:3])), None)
    return found


def _by_words(text: str) -> str | None:
    score: dict[str, float] = {}
    for word in _TOKEN_WORD.findall(text.lower()):
        for name, weight in _WEIGHTS.get(word, ()):
            score[name] = score.get(name, 0.0) + weight
    if not score:
        return None
    best, *others = sorted(score.items(), key=lambda item: -item[1])
    second = others[0][1] if others else 0.0
    return best[0] if best[1] >= 2.0 and best[1] >= 2 * second else None


_FACT = re.compile(
    r"\b\d[\d.,:]*\d\b|\b\d+\b|(?<![.!?:\n] )(?<!^)(?<![\n\"“(*#-])\b(?:[A-ZÀ-ÖØ-Þ][^\W\d_]+(?:[ -](?:of |de |von |van |the |der |di |du )?)?){1,5}"
)
_ENTITY_WORD = re.compile(r"[^\W_]+")


def facts(answer: str, given: str) -> list[str]:
    """Numbers and names in the answer that what was given (any case) does not hold, in lower case, at most 20."""
    found: list[str] = []
    known = set(_ENTITY_WORD.findall(given.lower()))
    for match in _FACT.finditer(answer[:2000]):
        fact = match[0].strip(" -.,:").lower()
        if len(fact) > 1 and not known.issuperset(_ENTITY_WORD.findall(fact)) and fact not in found:
            found.append(fact)
            if len(found) == 20:
                break
    return found
