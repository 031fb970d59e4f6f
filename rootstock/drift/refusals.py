"""Whether an answer refuses. Knows no model."""

import re

_REFUSALS = re.compile(
    r"\b(i('m| am)( very| really| so)? sorry,? but|i('m| am) (unable|not able) to|i (can(no|')t|cannot|won't|will not) "
    r"(help|assist|do that|provide|comply|answer|fulfil|create|discuss)|as an ai( language)? model|"
    r"es tut mir leid,? aber|(das|dabei) kann ich (leider )?nicht|ich kann (das |dir |ihnen |dabei )*(leider )?nicht "
    r"(helfen|beantworten|tun)|je ne peux pas|je suis désolée?|no puedo (ayudar|responder)|lo siento,? pero)",
    re.IGNORECASE,
)
_LOOKED_AT_CHARS = 300


def is_refusal(text: str) -> bool:
    """Whether an answer begins by refusing."""
    return _REFUSALS.search(text[:_LOOKED_AT_CHARS].replace("\u2019", "'")) is not None
