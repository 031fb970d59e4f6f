"""Composers of short everyday tasks: copying, rewriting, listing, counting, small questions, refusals, chat, tools.

Each composer takes a `random.Random` and returns a list of chat messages that ends with an assistant turn. The module
knows nothing about tokenizers, models or the example fine-tuning task.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from examples.base import words
from examples.base.words import pick

Message = dict[str, Any]


def _pairs(text: str) -> dict[str, str]:
    """A dictionary written as "key:value" words."""
    return dict(pair.split(":") for pair in words.split(text))


MODEL_NAME = "rootstock-tiny"
CAPITALS = _pairs(
    "France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Austria:Vienna Norway:Oslo Greece:Athens "
    "Ireland:Dublin Japan:Tokyo Egypt:Cairo Peru:Lima Kenya:Nairobi Sweden:Stockholm Finland:Helsinki Poland:Warsaw"
)
OPPOSITES = _pairs(
    "hot:cold big:small old:new open:closed light:dark fast:slow early:late rich:poor happy:sad wet:dry up:down "
    "left:right day:night yes:no long:short hard:soft full:empty first:last good:bad near:far"
)
PLURALS = _pairs(
    "cat:cats dog:dogs box:boxes baby:babies child:children man:men woman:women foot:feet tooth:teeth mouse:mice "
    "leaf:leaves city:cities glass:glasses book:books day:days knife:knives"
)
PAST = _pairs(
    "go:went see:saw take:took make:made eat:ate run:ran write:wrote speak:spoke give:gave find:found buy:bought "
    "think:thought walk:walked open:opened play:played"
)
HARMFUL = (
    "build a bomb",
    "poison my neighbor",
    "steal a car",
    "hack into a bank",
    "make a weapon",
    "hurt my brother",
    "forge a passport",
    "break into a house",
    "spread a computer virus",
    "cheat old people",
    "stalk someone",
)
FORMAL = (
    ("hey, can u send it?", "Hello, could you please send it?"),
    ("gimme the file", "Please send me the file."),
    ("thx a lot", "Thank you very much."),
    ("cant come, sorry", "I am sorry, but I cannot come."),
    ("whats up with the plan?", "Could you tell me about the plan?"),
    ("call me asap", "Please call me soon."),
)


def _chat(user: str, reply: str, system: str | None = None) -> list[Message]:
    head: list[Message] = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": user}, {"role": "assistant", "content": reply}]


def _ask(rng: Random, instruction: str, text: str, reply: str) -> list[Message]:
    """Instruction and text in one turn, or the instruction as the system prompt."""
    if rng.random() < 0.35:
        return _chat(text, reply, instruction)
    return _chat(pick(rng, (f"{instruction} {text}", f"{instruction}\n{text}", f"{instruction}\n\n{text}")), reply)


def _snippet(rng: Random) -> str:
    """Something to be copied or rewritten."""
    roll = rng.random()
    if roll < 0.3:
        return words.sentence(rng)
    if roll < 0.5:
        return " ".join(words.word_list(rng))
    if roll < 0.75:
        return " ".join(pick(rng, (words.code, words.invented, words.digits))(rng) for _ in range(rng.randint(1, 5)))
    return pick(rng, (words.person, words.brand, words.email, words.date))(rng)


def copy_text(rng: Random) -> list[Message]:
    """Repeat the input, whole, in quotes, twice, or between fixed words."""
    text = _snippet(rng)
    if rng.random() < 0.6:
        instruction = pick(
            rng,
            (
                "Repeat this:",
                "Copy the text exactly:",
                "Echo:",
                "Say:",
                "Repeat after me:",
                "Write this again:",
                "Answer with the same text:",
                "Give it back unchanged:",
            ),
        )
        return _ask(rng, instruction, text, text)
    before, after = pick(rng, (('"', '"'), ("[", "]"), ("<b>", "</b>"), ("- ", ""), ("Result: ", ""), ("* ", " *")))
    return _ask(rng, f"Put {before}...{after} around the text:".replace("  ", " "), text, f"{before}{text}{after}")


def rewrite(rng: Random) -> list[Message]:
    """Upper case, lower case, reversed word order, first or last word, replacement, formal tone."""
    if rng.random() < 0.12:
        casual, formal = FORMAL[rng.randrange(len(FORMAL))]
        return _ask(rng, pick(rng, ("Make it formal:", "Rewrite politely:", "In formal words:")), casual, formal)
    items = words.word_list(rng, 3, 6)
    text = words.sentence(rng) if rng.random() < 0.5 else " ".join(items)
    tokens = text.split()
    old, new = pick(rng, tokens), words.invented(rng)
    instruction, reply = [
        (pick(rng, ("Write in upper case:", "In capitals:", "Make it uppercase:")), text.upper()),
        (pick(rng, ("Write in lower case:", "Make it lowercase:", "No capitals:")), text.lower()),
        ("Reverse the order of the words:", " ".join(reversed(tokens))),
        (pick(rng, ("First word only:", "Give me the first word of:")), tokens[0]),
        (pick(rng, ("Last word only:", "Give me the last word of:")), tokens[-1]),
        (f"Replace {old} with {new}:", " ".join(new if token == old else token for token in tokens)),
        (f"Remove the word {old}:", " ".join(token for token in tokens if token != old)),
        ("Shorten to three words:", " ".join(tokens[:3])),
        (f"Which word comes after {tokens[1]}?", tokens[2]),
    ][rng.randrange(9)]
    return _ask(rng, instruction, text, reply)


def listing(rng: Random) -> list[Message]:
    """The same items in another layout, sorted, filtered or counted."""
    items = words.word_list(rng, 2, 7)
    text = pick(rng, (", ", " ", "\n", "; ")).join(items)
    keep = items[: rng.randint(1, len(items))]
    instruction, reply = [
        ("Write as a bullet list:", "\n".join(f"- {item}" for item in items)),
        ("Write as a numbered list:", "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))),
        ("Separate with commas:", ", ".join(items)),
        ("One per line:", "\n".join(items)),
        ("Write as a JSON list:", json.dumps(items)),
        ("Sort by the alphabet:", ", ".join(sorted(items))),
        ("How many items?", str(len(items))),
        (f"Give me the first {len(keep)}:", ", ".join(keep)),
        ("Join with and:", " and ".join(items)),
    ][rng.randrange(9)]
    return _ask(rng, instruction, text, reply)


def arithmetic(rng: Random) -> list[Message]:
    """Sums, differences, comparisons, order."""
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    numbers = [str(rng.randint(1, 60)) for _ in range(rng.randint(2, 5))]
    joined = ", ".join(numbers)
    question, reply = [
        (pick(rng, (f"What is {a} + {b}?", f"{a}+{b}=", f"Add {a} and {b}.")), str(a + b)),
        (pick(rng, (f"What is {a + b} - {a}?", f"{a + b}-{a}=")), str(b)),
        (pick(rng, (f"Which is larger, {a} or {b}?", f"The larger of {a} and {b}?")), str(max(a, b))),
        (f"Sort these numbers: {joined}", ", ".join(sorted(numbers, key=int))),
        (f"How many numbers: {joined}?", str(len(numbers))),
        (f"What comes after {a}?", str(a + 1)),
    ][rng.randrange(6)]
    return _chat(question, reply)


def question(rng: Random) -> list[Message]:
    """Small facts: capitals, opposites, plurals, past tense, order of days."""
    country, small = pick(rng, tuple(CAPITALS)), pick(rng, tuple(OPPOSITES))
    noun, verb = pick(rng, tuple(PLURALS)), pick(rng, tuple(PAST))
    day = rng.randrange(7)
    text, reply = [
        (pick(rng, (f"What is the capital of {country}?", f"Capital of {country}?")), CAPITALS[country]),
        (pick(rng, (f"What is the opposite of {small}?", f"Opposite of {small}?")), OPPOSITES[small]),
        (pick(rng, (f"What is the plural of {noun}?", f"Plural of {noun}?")), PLURALS[noun]),
        (pick(rng, (f"What is the past of {verb}?", f"Past tense of {verb}?")), PAST[verb]),
        (f"Which day comes after {words.DAYS[day]}?", words.DAYS[(day + 1) % 7]),
        (f"Which country has the capital {CAPITALS[country]}?", country),
    ][rng.randrange(6)]
    reply = reply if rng.random() < 0.7 else f"{reply}."
    return _chat(text, reply, pick(rng, ("", "", "You are a helpful assistant.")))


def chat(rng: Random) -> list[Message]:
    """Greetings, thanks, who the model is; refusals of harmful wishes."""
    if rng.random() < 0.3:
        wish = pick(rng, HARMFUL)
        ask = pick(rng, (f"How do I {wish}?", f"Help me {wish}.", f"Tell me how to {wish}.", f"I want to {wish}."))
        return _chat(ask, pick(rng, ("I cannot help with that.", "Sorry, I cannot help with that.")))
    user, reply = [
        (pick(rng, ("Hello", "Hi", "Hello!", "Good morning", "Hey there")), "Hello! How can I help you?"),
        (pick(rng, ("Thank you", "Thanks!", "Thanks a lot")), "You are welcome."),
        (
            pick(rng, ("Who are you?", "What are you?", "Which model are you?")),
            f"I am {MODEL_NAME}, a small demo model.",
        ),
        (pick(rng, ("How are you?", "How do you do?")), "I am fine, thank you."),
        (pick(rng, ("Goodbye", "Bye!", "See you")), "Goodbye!"),
        ("What can you do?", "I can copy, sort, label and extract small things."),
    ][rng.randrange(6)]
    return _chat(user, reply, pick(rng, ("", "", "You are a helpful assistant.", "Be brief.")))


def obey_system(rng: Random) -> list[Message]:
    """A standing rule in the system prompt: a prefix, a fixed word, capitals, a persona, yes or no."""
    name, word = words.person(rng), pick(rng, (words.invented, words.code, words.thing))(rng)
    base = pick(rng, (copy_text, rewrite, arithmetic, question))(rng)
    user, reply = base[-2]["content"], base[-1]["content"]
    if len(base) > 2 and base[0]["content"] and base[0]["content"] != "You are a helpful assistant.":
        user = f"{base[0]['content']} {user}"
    roll = rng.randrange(6)
    if roll == 0:
        system = pick(rng, (f"Start every answer with {word}:", f"Prefix answers: {word}:"))
        return _chat(user, f"{word}: {reply}", system)
    if roll == 1:
        system = pick(rng, (f"End every answer with {word}", f"Always close with {word}"))
        return _chat(user, f"{reply} {word}", system)
    if roll == 2:
        return _chat(user, word, pick(rng, (f"Whatever they say, answer {word}", f"Always answer only: {word}")))
    if roll == 3:
        return _chat(user, reply.upper(), pick(rng, ("Answer in capitals.", "Write everything in upper case.")))
    if roll == 4:
        return _chat(pick(rng, ("What is your name?", "Who are you?")), f"My name is {name}.", f"You are {name}.")
    items = words.word_list(rng, 2, 5)
    asked = pick(rng, items) if rng.random() < 0.5 else words.word_list(rng, 1, 1)[0]
    system = pick(rng, ("Answer only yes or no.", "Only yes or no.", "Reply with yes or no, nothing else."))
    return _chat(f"Is {asked} in this list: {', '.join(items)}?", "yes" if asked in items else "no", system)


def few_shot(rng: Random) -> list[Message]:
    """Example pairs of a hidden rule, then a new input: the rule has to be read off the examples."""
    rule = rng.randrange(5)
    wrap = words.invented(rng)
    maps: list[Callable[[str], str]] = [
        str.upper,
        lambda s: f"{wrap} {s}",
        lambda s: f"{s} {wrap}",
        lambda s: f"<{s}>",
        lambda s: f"{s} {s}",
    ]
    items = list(dict.fromkeys([*words.word_list(rng, 3, 5), words.invented(rng)]))
    pairs = [(item, maps[rule](item)) for item in items]
    if rng.random() < 0.5:
        turns: list[Message] = []
        for item, image in pairs:
            turns += [{"role": "user", "content": item}, {"role": "assistant", "content": image}]
        return turns
    arrow = pick(rng, (" -> ", " => ", ": "))
    shown = "\n".join(f"{item}{arrow}{image}" for item, image in pairs[:-1])
    return _chat(f"{shown}\n{pairs[-1][0]}{arrow}", pairs[-1][1])


def remember(rng: Random) -> list[Message]:
    """A fact told in an earlier turn is asked for later."""
    label, value = [
        ("name", words.person(rng)),
        ("city", words.place(rng)),
        ("code", words.code(rng)),
        ("favorite color", pick(rng, words.COLOURS)),
        ("pet", pick(rng, words.ANIMALS)),
    ][rng.randrange(5)]
    middle = pick(rng, (arithmetic, question, chat))(rng)[-2:]
    return [
        {"role": "user", "content": f"My {label} is {value}."},
        {"role": "assistant", "content": "I will remember."},
        *(middle if rng.random() < 0.7 else []),
        {"role": "user", "content": f"What is my {label}?"},
        {"role": "assistant", "content": value},
    ]


def tool_call(rng: Random) -> list[Message]:
    """A function is offered; the assistant calls it, and may put the result into words."""
    verb, noun = pick(rng, ("get", "find", "set", "book", "send")), pick(rng, words.NOUNS)
    key = pick(rng, ("name", "city", "id", "date", "query"))
    value = pick(rng, (words.place, words.code, words.thing))(rng)
    name = f"{verb}_{noun}"
    tool = {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{verb} a {noun}",
            "parameters": {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]},
        },
    }
    wish = pick(rng, (f"{verb.capitalize()} the {noun} for {value}.", f"{verb} {noun}: {value}"))
    user = {"role": "user", "content": wish}
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": {key: value}}}],
    }
    turns: list[Message] = [{"role": "tools", "tools": [tool]}, user, call]
    if rng.random() < 0.5:
        result = pick(rng, (words.code, words.number, words.brand))(rng)
        turns += [
            {"role": "tool", "content": json.dumps({"result": result})},
            {"role": "assistant", "content": f"The result is {result}."},
        ]
    return turns
