"""The one list of what a data report can find, with how grave each is unless a project says otherwise.

Knows nothing about how anything is found.
"""

from enum import StrEnum


class Severity(StrEnum):
    """How grave a finding is."""

    INFO = "info"  # worth knowing; nothing to mend
    WARNING = "warning"  # the tune will be worse for it
    BLOCKING = "blocking"  # training on it is most likely wrong
    UNUSABLE = "unusable"  # cannot be trained on at all: every job refuses it


class Kind(StrEnum):
    """What can be found."""

    INVALID_JSON = "invalid_json"
    INVALID_EXAMPLE = "invalid_example"
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    CONTRADICTION = "contradiction"
    SPLIT_LEAK = "split_leak"
    PII = "pii"
    SECRET = "secret"  # noqa: S105 (a kind of finding)
    SPECIAL_TOKEN = "special_token"  # noqa: S105 (a kind of finding)
    REFUSAL = "refusal"
    INCONSISTENT_FORMAT = "inconsistent_format"
    INCONSISTENT_SYSTEM_PROMPT = "inconsistent_system_prompt"
    TRUNCATED = "truncated"
    NO_TRAINABLE_TOKENS = "no_trainable_tokens"
    LABEL_IMBALANCE = "label_imbalance"
    TOO_FEW_EXAMPLES = "too_few_examples"
    ENCODING_DAMAGE = "encoding_damage"
    LANGUAGE_MIX = "language_mix"
    KNOWLEDGE = "knowledge"


SEVERITIES = dict.fromkeys(Kind, Severity.WARNING) | {
    Kind.INVALID_JSON: Severity.UNUSABLE,
    Kind.INVALID_EXAMPLE: Severity.UNUSABLE,
    Kind.NO_TRAINABLE_TOKENS: Severity.BLOCKING,
    Kind.SECRET: Severity.BLOCKING,
    Kind.SPLIT_LEAK: Severity.BLOCKING,
    Kind.LANGUAGE_MIX: Severity.INFO,
}
"""How grave each kind is where no project says otherwise."""
