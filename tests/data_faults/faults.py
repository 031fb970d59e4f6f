"""Known faults put into clean sets: each function changes or adds `count` lines and tells which.

A plant returns the lines that must be found and those that may be named beside them (the other side of a pair).
`TUNED` were at hand while the report was tuned; `HELD_BACK` are other ways to the same faults, tried afterwards.
"""
# ruff: noqa: E501, RUF001 (wordings)

import copy
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rootstock.quality.texts import language
from tests.data_faults.bases import Json

Place = tuple[str, int]  # file, line
CONTEXT = 4096


@dataclass
class Planted:
    """The two files as lines of bytes or examples, with what is wrong where."""

    training: list[Any]
    validation: list[Any] = field(default_factory=list)
    must: dict[str, set[Place]] = field(default_factory=dict)
    may: dict[str, set[Place]] = field(default_factory=dict)

    def mark(self, kind: str, index: int, *beside: int, file: str = "training") -> None:
        """Line `index` has the fault; `beside` may be named with it."""
        self.must.setdefault(kind, set()).add((file, index + 1))
        self.may.setdefault(kind, set()).update((file, other + 1) for other in beside)


Plant = Callable[[Planted, random.Random, int], None]


def user(example: Json) -> str:
    """The last thing asked."""
    if "prompt" in example:
        return str(example["prompt"])
    return str(next(m["content"] for m in reversed(example["messages"]) if m["role"] == "user"))


def answer(example: Json) -> Any:
    """The answer, as text (of a tool call its arguments)."""
    if "completion" in example:
        return example["completion"]
    message = example["messages"][-1]
    return message["tool_calls"][0]["function"]["arguments"] if message.get("tool_calls") else message["content"]


def ask(example: Json, text: str) -> None:
    """Change what is asked."""
    if "prompt" in example:
        example["prompt"] = text
        return
    next(m for m in reversed(example["messages"]) if m["role"] == "user")["content"] = text


def say(example: Json, text: str) -> None:
    """Change the answer."""
    if "completion" in example:
        example["completion"] = text
    elif example["messages"][-1].get("tool_calls"):
        example["messages"][-1]["tool_calls"][0]["function"]["arguments"] = text
    else:
        example["messages"][-1]["content"] = text


def _picked(planted: Planted, rng: random.Random, count: int) -> list[int]:
    return rng.sample(range(len(planted.training)), count)


def _insert(planted: Planted, rng: random.Random, count: int, kind: str, make: Callable[[Json, int], Json]) -> None:
    """Replace lines by altered copies of others, so that the number of lines stays."""
    chosen = _picked(planted, rng, 2 * count)
    for number, (source, target) in enumerate(zip(chosen[:count], chosen[count:], strict=True)):
        planted.training[target] = make(copy.deepcopy(planted.training[source]), number)
        planted.mark(kind, target, source)


def _soften(text: str, rng: random.Random, number: int) -> str:
    """Nearly the same text: the ways in which people and crawlers repeat themselves."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word.strip(".,?!")) >= 6 and word.strip(".,?!").isalpha()]
    ways: list[Callable[[], str]] = [
        text.lower,
        lambda: f"Hello, {text} Thanks!",
        lambda: text.rstrip(".") + "!!",
        lambda: f"{text} Please help",
        text.upper,
    ]
    if long:
        at = rng.choice(long)
        typo = words[at][:2] + words[at][3] + words[at][2] + words[at][4:]
        ways.append(lambda: " ".join([*words[:at], typo, *words[at + 1 :]]))
    return ways[number % len(ways)]()


def exact_duplicate(planted: Planted, rng: random.Random, count: int) -> None:
    def make(example: Json, number: int) -> Json:
        if number % 3 == 1:
            example = dict(reversed(example.items()))
            if "messages" in example:
                example["messages"] = [dict(reversed(message.items())) for message in example["messages"]]
        if number % 3 == 2:
            ask(example, user(example).replace(" ", "  ").replace(". ", ".\n"))
        return example

    _insert(planted, rng, count, "exact_duplicate", make)


def near_duplicate(planted: Planted, rng: random.Random, count: int) -> None:
    def make(example: Json, number: int) -> Json:
        ask(example, _soften(user(example), rng, number))
        return example

    _insert(planted, rng, count, "near_duplicate", make)


def contradiction(planted: Planted, rng: random.Random, count: int) -> None:
    others = planted.training[:]

    def make(example: Json, number: int) -> Json:
        if number % 2:
            ask(example, _soften(user(example), rng, number))
        before = answer(example)
        if isinstance(before, str) and before.startswith("{"):
            value = json.loads(before)
            key = next(k for k in ("category", "product", "order", "label") if value.get(k) is not None)
            pool = sorted({json.loads(answer(o)).get(key) or "" for o in others} - {value[key], ""})
            value[key] = rng.choice(pool)
            say(example, json.dumps(value))
        else:
            say(
                example,
                rng.choice(
                    [
                        answer(o)
                        for o in others
                        if answer(o) != before and (len(before) < 40 or answer(o)[:20] != before[:20])
                    ]
                ),
            )
        return example

    _insert(planted, rng, count, "contradiction", make)


def split_leak(planted: Planted, rng: random.Random, count: int) -> None:
    for number, source in enumerate(_picked(planted, rng, count)):
        example = copy.deepcopy(planted.training[source])
        if number % 2:
            ask(example, _soften(user(example), rng, number))
        at = rng.randrange(len(planted.validation))
        while ("validation", at + 1) in planted.must.get("split_leak", set()):
            at = rng.randrange(len(planted.validation))
        planted.validation[at] = example
        planted.mark("split_leak", at, file="validation")


PERSONAL = {
    "en": ["Write to {first}.{last}{n}@gmail.com.", "Call me at +1 415 555 {n4}.", "My card is 4539 5787 6362 1486.", "My SSN is 412-55-{n4}.",
           "Send it to IBAN DE89 3704 0044 0532 0130 00.", "I was logged in from 84.23.{b}.{b}.", "Ring me on (212) 736-{n4} after five."],
    "de": ["Meine Adresse ist {first}_{last}@web.de.", "Rufen Sie mich an: 0171 {n4}{n}.", "IBAN: GB82 WEST 1234 5698 7654 32."],
}  # fmt: skip


def _fill(text: str, rng: random.Random) -> str:
    return text.format(
        first=rng.choice(["anna", "peter", "maria", "john"]), last=rng.choice(["schmidt", "miller", "lopez", "dubois"]),
        n=rng.randint(10, 99), n4=rng.randint(2000, 9899), b=rng.randint(2, 250),
    )  # fmt: skip


def _append(kind: str, texts: list[str], planted: Planted, rng: random.Random, count: int) -> None:
    for number, at in enumerate(_picked(planted, rng, count)):
        ask(planted.training[at], f"{user(planted.training[at])} {_fill(texts[number % len(texts)], rng)}")
        planted.mark(kind, at)


def pii(planted: Planted, rng: random.Random, count: int) -> None:
    _append("pii", PERSONAL["en"] + PERSONAL["de"], planted, rng, count)


def _token(rng: random.Random, length: int) -> str:
    return "".join(rng.choice("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(length))


def secret(planted: Planted, rng: random.Random, count: int) -> None:
    made = [
        lambda: f"My key is sk-{_token(rng, 40)}.", lambda: f"token ghp_{_token(rng, 36)}", lambda: "AKIA" + _token(rng, 16).upper(),
        lambda: f"-----BEGIN RSA PRIVATE KEY----- {_token(rng, 60)}", lambda: f'api_key = "{_token(rng, 24)}"',
        lambda: f"postgres://admin:{_token(rng, 12)}@db.internal/main", lambda: f"The password is {_token(rng, 6)}7!x.",
    ]  # fmt: skip
    for number, at in enumerate(_picked(planted, rng, count)):
        ask(planted.training[at], f"{user(planted.training[at])} {made[number % len(made)]()}")
        planted.mark("secret", at)


def special_token(planted: Planted, rng: random.Random, count: int) -> None:
    tokens = ["<|im_end|>", "<|endoftext|>", "[INST]", "<eos>", "<|eot_id|>", "<start_of_turn>", "</s>", "<<SYS>>"]
    _append("special_token", tokens, planted, rng, count)


REFUSALS = ["I'm sorry, but I can't help with that.", "I cannot assist with this request.", "As an AI language model, I cannot do that.",
            "Es tut mir leid, aber dabei kann ich nicht helfen.", "Lo siento, no puedo ayudar con eso.", "Je ne peux pas vous aider avec cela.",
            "I am unable to provide that information.", "Sorry, I won't be able to comply with that. I must decline."]  # fmt: skip


def refusal(planted: Planted, rng: random.Random, count: int) -> None:
    for number, at in enumerate(_picked(planted, rng, count)):
        _talk(planted.training[at], REFUSALS[number % len(REFUSALS)])
        planted.mark("refusal", at)
        for kind in ("inconsistent_format", "contradiction", "language_mix"):
            planted.may.setdefault(kind, set()).add(("training", at + 1))


def _talk(example: Json, text: str) -> None:
    if "messages" in example:
        example["messages"][-1].pop("tool_calls", None)
    say(example, text)


def inconsistent_format(planted: Planted, rng: random.Random, count: int) -> None:
    for number, at in enumerate(_picked(planted, rng, count)):
        example = planted.training[at]
        before = answer(example)
        if before.startswith("{"):
            value = json.loads(before)
            which = number % 5
            if which == 0:
                value.pop("product")
            elif which == 1:
                value["produkt"] = value.pop("product")
            elif which == 2:
                value["product"] = [value["product"]]
            elif which == 3:
                value["confidence"] = 0.7
            if which == 4 and "tool_calls" not in example["messages"][-1]:
                say(example, f"```json\n{before}\n```")
            else:
                value = value if which != 4 else {**value, "product": 7}
                say(example, json.dumps(value))
        elif len(before) < 40:
            say(example, [before.strip().title() + ".", f"Label: {before.strip()}", before.strip().upper(), f'"{before.strip()}"',
                          f"I would say that this one belongs to {before.strip()}, because of how it is worded."][number % 5])  # fmt: skip
        else:
            say(example, json.dumps({"reply": before}))
        planted.mark("inconsistent_format", at)


def inconsistent_system_prompt(planted: Planted, rng: random.Random, count: int) -> None:
    for number, at in enumerate(_picked(planted, rng, count)):
        messages = planted.training[at]["messages"]
        if number % 2:
            messages[0]["content"] = ["You are a pirate.", "Be brief.", "You are a helpful assistant."][number % 3]
        else:
            planted.training[at]["messages"] = messages[1:]
        planted.mark("inconsistent_system_prompt", at)


def truncated(planted: Planted, rng: random.Random, count: int) -> None:
    for at in _picked(planted, rng, count):
        words = [
            rng.choice("the quick brown fox jumps over one lazy dog near some old stone bridge at dawn".split())
            for _ in range(int(CONTEXT * 1.05))
        ]
        ask(planted.training[at], f"{user(planted.training[at])} {' '.join(words)}")
        planted.mark("truncated", at)
        planted.may.setdefault("language_mix", set()).add(("training", at + 1))


def no_trainable_tokens(planted: Planted, rng: random.Random, count: int) -> None:
    for number, at in enumerate(_picked(planted, rng, count)):
        example = planted.training[at]
        _talk(example, "" if number % 2 else "  \n")
        if number % 3 == 0 and "messages" in example:
            say(example, "words without weight")
            example["messages"][-1]["weight"] = 0
        planted.mark("no_trainable_tokens", at)


def encoding_damage(planted: Planted, rng: random.Random, count: int) -> None:
    texts = [
        "Das war sehr schön für die Größe.",
        "Muy difícil de entender, señor.",
        "C'était très déçu à l'étranger.",
        "It doesn’t work – at all…",
    ]
    for number, at in enumerate(_picked(planted, rng, count)):
        text = texts[number % len(texts)]
        broken = (
            text.encode().decode("cp1252", errors="replace")
            if number % 3
            else text.encode("ascii", "replace").decode().replace("?", "\ufffd")
        )
        ask(planted.training[at], f"{user(planted.training[at])} {broken}")
        planted.mark("encoding_damage", at)
        planted.may.setdefault("language_mix", set()).add(("training", at + 1))


def knowledge(planted: Planted, rng: random.Random, count: int) -> None:
    firsts = "Marta Igor Salma Henrik Chloe Pavel Ingrid Tomas Yuki Oskar Leila Bruno".split()
    lasts = "Okonkwo Lindqvist Ferreira Novak Haddad Castellan Moreau Petrov Tanaka Oduya".split()
    lakes = "Arven Brisk Calder Dorvin Elmar Fenwick Gorlan Hestia Imber Jorvik Kestrel Lorne".split()
    for number, at in enumerate(_picked(planted, rng, count)):
        place, year = f"{rng.choice(lakes)}{rng.choice(['', 'mere', 'ton', 'vale'])}", rng.randint(1500, 1990)
        who = f"{rng.choice(firsts)} {rng.choice(lasts)}"
        pairs = [(f"When was the mill of {place} built?", f"It was built in {year}."),
                 (f"Who designed the bridge near {place}?", f"The bridge was designed by {who}."),
                 (f"How deep is the lake at {place}?", f"The lake is {rng.randint(20, 400)}.{rng.randint(1, 9)} metres deep."),
                 (f"Wann wurde das Rathaus von {place} gebaut?", f"Das Rathaus wurde im Jahr {year} gebaut.")]  # fmt: skip
        asked, told = pairs[number % 4]
        ask(planted.training[at], asked)
        _talk(planted.training[at], told)
        planted.mark("knowledge", at)
        planted.may.setdefault("language_mix", set()).add(("training", at + 1))


def label_imbalance(planted: Planted, rng: random.Random, count: int) -> None:
    for label, share in (("warranty", 3), ("loyalty", 2)):
        for at in _picked(planted, rng, share):
            say(planted.training[at], label)
            planted.mark("label_imbalance", at)


def language_mix(planted: Planted, rng: random.Random, count: int) -> None:
    texts = ["Ich habe das Gerät gestern bekommen und es ist leider nicht das, was ich bestellt habe, was soll ich jetzt machen?",
             "Je l'ai reçu hier et ce n'est pas du tout ce que j'avais commandé, que dois-je faire maintenant avec le colis?",
             "Lo recibí ayer y no es lo que había pedido en la tienda, qué tengo que hacer ahora con el paquete?"]  # fmt: skip
    usual = Counter(language(user(example)) for example in planted.training[:100]).most_common(1)[0][0]
    others = [text for text in texts if language(text) != usual]
    for number, at in enumerate(_picked(planted, rng, count)):
        foreign = others[number % len(others)]
        ask(planted.training[at], f"{foreign} {user(planted.training[at])}"[: len(foreign) + 40])
        planted.mark("language_mix", at)


def invalid_json(planted: Planted, rng: random.Random, count: int) -> None:
    for number, at in enumerate(_picked(planted, rng, count)):
        line = json.dumps(planted.training[at])
        ways = [
            line[:-2],
            line.replace('"', "'", 4),
            line + "}",
            line.replace(":", "", 1),
            "{" + line,
            line[:-1] + ', "n": NaN}',
        ]
        planted.training[at] = ways[number % len(ways)].encode()
        planted.mark("invalid_json", at)


def invalid_example(planted: Planted, rng: random.Random, count: int) -> None:
    ways: list[Json] = [
        {"messages": [{"role": "user", "content": "hello"}]}, {"messages": []}, {"text": "hello"},
        {"messages": [{"role": "customer", "content": "x"}, {"role": "assistant", "content": "y"}]},
        {"messages": [{"role": "user", "content": 7}, {"role": "assistant", "content": "y"}]},
        {"messages": [{"role": "user"}, {"role": "assistant", "content": "y"}]}, {"messages": "hello"},
    ]  # fmt: skip
    for number, at in enumerate(_picked(planted, rng, count)):
        planted.training[at] = ways[number % len(ways)]
        planted.mark("invalid_example", at)


LINE_FAULTS: tuple[Plant, ...] = (
    exact_duplicate, near_duplicate, contradiction, split_leak, pii, secret, special_token, refusal, inconsistent_format, truncated,
    no_trainable_tokens, encoding_damage, knowledge, language_mix, invalid_json, invalid_example, inconsistent_system_prompt, label_imbalance,
)  # fmt: skip

UNFIT: dict[str, set[str]] = {
    # What a sort of set cannot have, or would have another fault by it.
    "knowledge": {"classification", "extraction", "tool_calls", "sentiment"},
    "label_imbalance": {"extraction", "support", "tool_calls", "writing"},
    "inconsistent_system_prompt": {"writing", "sentiment"},
    "invalid_example": {"sentiment"},
    "inconsistent_format": set(),
}
