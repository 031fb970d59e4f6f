"""Composers that hide facts in a message and ask for them back: single values, labels, key-value lines, JSON.

These carry the two skills that fine-tuning later reuses: copying a value from the input into an output slot, and
picking one of the labels that the prompt lists. The module knows nothing about tokenizers, models or the example task.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random

from examples.base import words
from examples.base.fields import COPY_FIELDS, FLAG_FIELDS, CopyField, FlagField
from examples.base.labels import FILLERS, LABEL_FIELDS, LabelField
from examples.base.words import pick

Message = dict[str, str]
Value = str | int | float | bool | None


@dataclass(frozen=True)
class Fact:
    """One thing the message says: its key, the answer, how a schema describes it and the sentence that tells it."""

    key: str
    value: Value
    schema: str
    sentence: str


def _copy_fact(rng: Random, field: CopyField, may_miss: bool) -> Fact:
    key, text = pick(rng, field.keys), field.value(rng)
    noun = field.keys[0].replace("_", " ")
    schema = pick(rng, (f"the {noun}", "string", "text", f"{noun} as written", "copied from the message"))
    if field.is_number:
        schema = pick(rng, ("number", f"the {noun} as a number", "a number"))
    if may_miss and rng.random() < 0.3:
        return Fact(key, None, schema + pick(rng, (" or null", ", null if missing", " or null if not given")), "")
    value: Value = text if not field.is_number else (float(text) if "." in text else int(text))
    return Fact(key, value, schema, pick(rng, field.wordings).replace("{v}", text))


def _flag_fact(rng: Random, field: FlagField) -> Fact:
    truth = rng.random() < 0.5
    sentence = pick(rng, field.yes if truth else field.no)
    return Fact(pick(rng, field.keys), truth, pick(rng, ("true or false", "boolean", "true/false")), sentence)


def _label_fact(rng: Random, field: LabelField) -> Fact:
    labels = list(field.cues)
    rng.shuffle(labels)
    labels = labels[: rng.randint(2, len(labels))]
    label = pick(rng, labels)
    joined = pick(rng, (", ", " | ", "/")).join(labels)
    schema = pick(rng, (f"one of {joined}", f"one of: {joined}", f"{joined}", f"choose from {joined}"))
    sentence = pick(rng, field.cues[label])
    if rng.random() < 0.25:
        sentence += " " + pick(rng, field.cues[label])
    return Fact(pick(rng, field.keys), label, schema, sentence)


def draw_facts(rng: Random, low: int = 1, high: int = 5) -> list[Fact]:
    """Distinct facts in random order; two copied values never share a generator, so the answer stays unambiguous."""
    facts: list[Fact] = []
    used: set[object] = set()
    may_miss = rng.random() < 0.3
    for _ in range(rng.randint(low, high)):
        roll = rng.random()
        table = COPY_FIELDS if roll < 0.6 else FLAG_FIELDS if roll < 0.78 else LABEL_FIELDS
        field = table[int(rng.random() * len(table))]
        identity = field.value if isinstance(field, CopyField) else id(field)
        if identity in used:
            continue
        used.add(identity)
        if isinstance(field, CopyField):
            fact = _copy_fact(rng, field, may_miss)
        else:
            fact = _flag_fact(rng, field) if isinstance(field, FlagField) else _label_fact(rng, field)
        if rng.random() < 0.12:  # an arbitrary key can only be taken from the prompt
            fact = Fact(words.invented(rng), fact.value, f"{fact.key.replace('_', ' ')}, {fact.schema}", fact.sentence)
        facts.append(fact)
    return facts


def write_message(rng: Random, facts: list[Fact]) -> str:
    """The facts' sentences among fillers, shuffled, in one of several layouts."""
    sentences = [fact.sentence for fact in facts if fact.sentence]
    sentences += [pick(rng, FILLERS) for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.3:
        sentences.append(words.sentence(rng))
    rng.shuffle(sentences)
    text = pick(rng, (" ", " ", " ", "\n")).join(sentences) or "Nothing to say."
    return text.lower() if rng.random() < 0.04 and text.isascii() and not _has_capital_value(facts) else text


def _has_capital_value(facts: list[Fact]) -> bool:
    return any(isinstance(fact.value, str) and fact.value != fact.value.lower() for fact in facts)


def _schema_text(rng: Random, facts: list[Fact]) -> str:
    style = rng.randint(0, 5)
    if style == 0:
        return "the keys " + ", ".join(fact.key for fact in facts)
    if style == 1:
        return "these keys:\n" + "\n".join(f"- {fact.key}: {fact.schema}" for fact in facts)
    if style == 2:
        return "the keys " + ", ".join(f'"{fact.key}" ({fact.schema})' for fact in facts)
    if style == 3:
        return "this shape: {" + ", ".join(f'"{fact.key}": {fact.schema}' for fact in facts) + "}"
    if style == 4:
        return "the fields " + "; ".join(f"{fact.key}: {fact.schema}" for fact in facts)
    return "exactly " + " and ".join(f"{fact.key} ({fact.schema})" for fact in facts)


def _plain(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _render(rng: Random, facts: list[Fact], kind: str) -> str:
    mapping = {fact.key: fact.value for fact in facts}
    if kind == "compact":
        return json.dumps(mapping, separators=(",", ":"))
    if kind == "json":
        return json.dumps(mapping)
    if kind == "pretty":
        return json.dumps(mapping, indent=2)
    if kind == "array":
        return json.dumps([fact.value for fact in facts], separators=(",", ":"))
    return "\n".join(f"{fact.key}: {_plain(fact.value)}" for fact in facts)


def _structured_instruction(rng: Random, facts: list[Fact], kind: str) -> str:
    schema = _schema_text(rng, facts)
    what = {
        "compact": ("compact JSON", "strict compact JSON", "one line of compact JSON", "JSON without spaces"),
        "json": ("JSON", "a JSON object", "only JSON", "valid JSON"),
        "pretty": ("indented JSON", "pretty JSON", "JSON over several lines"),
        "array": ("a JSON array of the values only", "a JSON list, values only,"),
        "lines": ("key: value lines", "one line per key", "lines of key: value"),
    }[kind]
    verb = pick(
        rng,
        (
            "Reply with",
            "Answer with",
            "Return",
            "Give me",
            "Write",
            "Extract the facts as",
            "Output",
            "Read the message and return",
            "Turn the message into",
            "Summarize the text as",
        ),
    )
    tail = pick(rng, ("", "", " Nothing else.", " No other text.", " Do not explain.", " Keep the values as written."))
    return f"{verb} {pick(rng, what)} with {schema}.{tail}"


def _attach(rng: Random, instruction: str, text: str) -> list[Message]:
    """The instruction as a system prompt, or before or after the text in the user turn."""
    roll = rng.random()
    if roll < 0.55:
        return [{"role": "system", "content": instruction}, {"role": "user", "content": text}]
    marker = pick(rng, ("", "Text: ", "Message: ", "Input:\n"))
    body = f"{instruction}\n\n{marker}{text}" if roll < 0.85 else f"{marker}{text}\n\n{instruction}"
    return [{"role": "user", "content": body}]


def structured(rng: Random) -> list[Message]:
    """Facts of a message as JSON or key-value lines."""
    facts = draw_facts(rng) or [_flag_fact(rng, FLAG_FIELDS[0])]
    kind = pick(rng, ("compact", "compact", "compact", "compact", "json", "json", "pretty", "array", "lines"))
    messages = _attach(rng, _structured_instruction(rng, facts, kind), write_message(rng, facts))
    return [*messages, {"role": "assistant", "content": _render(rng, facts, kind)}]


def structured_series(rng: Random) -> list[Message]:
    """One set of instructions, then several messages in a row: the format has to stay the same."""
    seed, kind = rng.random(), pick(rng, ("compact", "json", "lines"))
    fields = Random(seed)
    keys = [f.key for f in draw_facts(fields, 1, 3)]
    rounds: list[Message] = []
    schema: list[Fact] = []
    for _ in range(rng.randint(2, 3)):
        facts = [fact for fact in (_refill(rng, key) for key in keys) if fact]
        schema = schema or facts
        rounds.append({"role": "user", "content": write_message(rng, facts)})
        rounds.append({"role": "assistant", "content": _render(rng, facts, kind)})
    if not schema:
        return structured(rng)
    plain = [Fact(f.key, f.value, f.key, "") if f.value is not None else f for f in schema]
    return [{"role": "system", "content": _structured_instruction(rng, plain, kind)}, *rounds]


def _refill(rng: Random, key: str) -> Fact | None:
    """A new fact for a key that the tables know."""
    for table in (COPY_FIELDS, FLAG_FIELDS):
        for field in table:
            if key in field.keys:
                fact = _copy_fact(rng, field, False) if isinstance(field, CopyField) else _flag_fact(rng, field)
                return Fact(key, fact.value, fact.schema, fact.sentence)
    return None


def single_value(rng: Random) -> list[Message]:
    """Only one of the facts is asked for, in plain words."""
    facts = draw_facts(rng, 2, 5)
    candidates = [fact for fact in facts if fact.value is not None]
    if not candidates:
        return structured(rng)
    fact = candidates[int(rng.random() * len(candidates))]
    noun = fact.key.replace("_", " ")
    if isinstance(fact.value, bool):
        question = pick(rng, (f"{noun}? Answer yes or no.", f"Is this true or not: {noun}? Only yes or no."))
    elif fact.sentence and fact.schema.startswith(("one of", "choose")):
        question = f"What is the {noun}? {fact.schema[0].upper()}{fact.schema[1:]}."
    else:
        question = pick(
            rng,
            (
                f"What is the {noun}?",
                f"Which {noun} is mentioned?",
                f"Extract the {noun}.",
                f"Find the {noun} in the text.",
                f"Give me the {noun} only.",
                f"{noun.capitalize()}?",
            ),
        )
    messages = _attach(rng, question, write_message(rng, facts))
    return [*messages, {"role": "assistant", "content": _plain(fact.value)}]


def classify(rng: Random) -> list[Message]:
    """Pick one of the listed labels, or of codes that stand for the labels."""
    field = LABEL_FIELDS[int(rng.random() * len(LABEL_FIELDS))]
    labels = list(field.cues)
    rng.shuffle(labels)
    labels = labels[: rng.randint(2, len(labels))]
    label = pick(rng, labels)
    text = write_message(rng, [Fact("", label, "", pick(rng, field.cues[label]))])
    names = {name: name for name in labels}
    if rng.random() < 0.2:
        names = {name: words.invented(rng) if rng.random() < 0.5 else chr(65 + i) for i, name in enumerate(labels)}
        listing = ", ".join(f"{names[name]} for {name}" for name in labels)
    else:
        listing = pick(rng, (", ", " or ", " / ")).join(labels)
    key = pick(rng, field.keys)
    prompt = pick(
        rng,
        (
            f"Classify the {key}: {listing}.",
            f"What is the {key}? Choose {listing}.",
            f"Pick one: {listing}.",
            f"Label the message with its {key}. Labels: {listing}.",
            f"Answer with one word: {listing}.",
            f"Decide the {key} of the text ({listing}). Answer with the label only.",
        ),
    )
    return [*_attach(rng, prompt, text), {"role": "assistant", "content": names[label]}]


def lookup(rng: Random) -> list[Message]:
    """A table of made-up pairs, one of them asked for, sometimes all of them as JSON: pure in-context recall."""
    names = list(
        dict.fromkeys(
            pick(rng, (words.invented, words.person, words.thing, words.place))(rng) for _ in range(rng.randint(2, 6))
        )
    )
    value = pick(rng, (words.code, words.brand, words.number, words.invented, words.date))
    pairs = {name: value(rng) for name in names}
    link = pick(rng, (": ", " = ", " -> ", " is ", " has "))
    table = pick(rng, ("\n", ", ", "; ")).join(f"{name}{link}{item}" for name, item in pairs.items())
    if rng.random() < 0.3:
        reply = json.dumps(pairs, separators=(",", ":"))
        return [*_attach(rng, "Return the pairs as compact JSON.", table), {"role": "assistant", "content": reply}]
    wanted = pick(rng, names)
    question = pick(rng, (f"What belongs to {wanted}?", f"{wanted}?", f"Look up {wanted}.", f"Value for {wanted}?"))
    return [*_attach(rng, question, table), {"role": "assistant", "content": pairs[wanted]}]


def fill_json(rng: Random) -> list[Message]:
    """Values given as lines, wanted in a JSON object with the keys named in the prompt, or the other way round."""
    keys = list(
        dict.fromkeys(
            words.invented(rng) if rng.random() < 0.4 else pick(rng, words.NOUNS) for _ in range(rng.randint(1, 5))
        )
    )
    makers = (words.code, words.brand, words.invented, words.thing, words.person, words.date)
    mapping = {key: pick(rng, makers)(rng) for key in keys}
    lines = "\n".join(f"{key}: {value}" for key, value in mapping.items())
    packed = json.dumps(mapping, separators=(",", ":"))
    if rng.random() < 0.3:
        return [
            *_attach(rng, pick(rng, ("Write this JSON as lines.", "Turn the JSON into key: value lines.")), packed),
            {"role": "assistant", "content": lines},
        ]
    chosen = [key for key in keys if rng.random() < 0.7] or keys
    reply = json.dumps({key: mapping[key] for key in chosen}, separators=(",", ":"))
    prompt = f"Return compact JSON with the keys {', '.join(chosen)}."
    return [*_attach(rng, prompt, lines), {"role": "assistant", "content": reply}]
