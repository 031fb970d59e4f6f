"""Calls of five sorts of text, each of a usual and of a new topic, drawn by seed. Knows no profile."""

import json
import random
from collections.abc import Callable

from examples.data.wordings import BRANDS, ITEMS, PROBLEMS
from rootstock.drift.sample import Sample

Draw = Callable[[random.Random], Sample]

DISHES = ("risotto", "lentil soup", "apple pie", "curry", "pancakes", "goulash", "ramen", "lasagne", "omelette", "stew")
NAMES = tuple(a + b for a in ("Ann", "Bor", "Cel", "Dav", "Ed", "Fri", "Gus", "Hel") for b in ("a", "is", "ine", "o"))
SUBJECTS = ("The committee", "Our neighbour", "A travelling merchant", "The old engineer", "My sister", "The museum")
VERBS = ("repaired", "described", "painted", "sold", "forgot", "measured", "discovered", "borrowed", "defended")
THINGS = ("the wooden bridge", "a silver clock", "the harvest", "an unfinished letter", "a broken mill")
ENDINGS = ("before the winter came", "without a word", "as if nothing had happened", "at dawn")
STARS = ("a neutron star", "the red giant", "an exoplanet", "the spiral galaxy", "a pulsar", "the dust cloud")
SEEN = ("emits gamma rays", "orbits its companion", "bends the light", "cools over aeons", "spins every second")
GERMAN = ("Wann kommt meine Lieferung für {}?", "Die Rechnung über {} stimmt nicht.", "Mein {} ist defekt, was tun?")
DINGE = ("Wasserkocher", "Rucksack", "Bürostuhl", "Kopfhörer", "Toaster", "Schreibtisch", "Regenschirm", "Koffer")
LEGAL = ("Darf mein Vermieter {} kündigen?", "Welche Frist gilt für {} vor Gericht?", "Wer haftet bei {} im Vertrag?")
FAELLE = ("Mietminderung", "Eigenbedarf", "Schadenersatz", "Widerspruch", "Kaution", "Verjährung")
MOODS = {
    "good": ("loved the {}", "the {} is great", "so happy with this {}", "best {} ever"),
    "bad": ("the {} is awful", "hated the {}", "what a terrible {}", "the {} broke at once"),
    "mixed": ("the {} is okay", "not sure about the {}", "the {} is fine but pricey"),
}
POLITICS = ("the senator lost the vote", "parliament debates the budget", "voters want a new mayor", "the law passed")


def ticket(draw: random.Random) -> Sample:
    kind = draw.choice(sorted(PROBLEMS))
    item = f"{draw.choice(BRANDS)} {draw.choice(ITEMS)}"
    text = draw.choice(PROBLEMS[kind]).format(p=item) + draw.choice(("", " Please hurry.", f" {draw.choice(NAMES)}"))
    return Sample.of(text, "Name the category.", kind)


def recipe(draw: random.Random) -> Sample:
    form = draw.choice(("How long do I cook {}?", "Which spice goes with {}?", "Can I freeze {} overnight?"))
    return Sample.of(form.format(draw.choice(DISHES)), "Name the category.", draw.choice(("account", "delivery")))


def invoice(draw: random.Random) -> Sample:
    name, total, unit = draw.choice(NAMES), draw.randint(5, 900), draw.choice(("EUR", "USD", "CHF"))
    text = f"Invoice {draw.randint(1000, 9999)} for {name} {draw.choice(NAMES)}: {draw.randint(1, 9)} x "
    text += f"{draw.choice(ITEMS)}, total {total}.{draw.randint(10, 99)} {unit}, due in {draw.randint(14, 60)} days."
    return Sample.of(text, "Extract.", json.dumps({"name": name, "total": total, "currency": unit, "paid": False}))


def lab_report(draw: random.Random) -> Sample:
    text = f"Patient {draw.choice(NAMES)}: haemoglobin {draw.randint(8, 17)}, ferritin {draw.randint(10, 300)}, "
    text += draw.choice(("fasting sample", "repeat in a week", "no sign of infection", "kidney values raised"))
    answer = {"name": draw.choice(NAMES), "total": draw.randint(5, 900), "currency": "EUR", "paid": False}
    return Sample.of(text, "Extract.", json.dumps(answer))


def _sentence(draw: random.Random) -> str:
    return f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(THINGS)} {draw.choice(ENDINGS)}."


def story(draw: random.Random) -> Sample:
    text = " ".join(_sentence(draw) for _ in range(draw.randint(8, 30)))
    return Sample.of(text, "", " ".join(_sentence(draw) for _ in range(draw.randint(2, 6))))


def astronomy(draw: random.Random) -> Sample:
    said = [f"{draw.choice(STARS).capitalize()} {draw.choice(SEEN)}." for _ in range(draw.randint(10, 35))]
    return Sample.of(" ".join(said), "", " ".join(_sentence(draw) for _ in range(draw.randint(2, 6))))


def mixed(draw: random.Random) -> Sample:
    if draw.random() < 0.4:
        return Sample.of(ticket(draw).prompt, "", "Thank you, we look into it.")
    return Sample.of(draw.choice(GERMAN).format(draw.choice(DINGE)), "", "Danke, wir kümmern uns darum.")


def legal(draw: random.Random) -> Sample:
    return Sample.of(draw.choice(LEGAL).format(draw.choice(FAELLE)), "", "Danke, wir kümmern uns darum.")


def mood(draw: random.Random) -> Sample:
    label = draw.choices(sorted(MOODS), (5, 4, 1))[0]
    return Sample.of(draw.choice(MOODS[label]).format(draw.choice(ITEMS)), "", label)


def politics(draw: random.Random) -> Sample:
    return Sample.of(draw.choice(POLITICS), "", draw.choice(sorted(MOODS)))


SORTS: dict[str, tuple[Draw, Draw]] = {
    "tickets": (ticket, recipe),
    "json": (invoice, lab_report),
    "stories": (story, astronomy),
    "german": (mixed, legal),
    "labels": (mood, politics),
}
"""Sort -> its usual calls, and those of a topic that is new."""


def drawn(sort: str, seed: int, count: int, new: float = 0.0) -> list[Sample]:
    """`count` calls of a sort, a share `new` of them of its new topic."""
    usual, other = SORTS[sort]
    draw = random.Random(seed)
    return [other(draw) if draw.random() < new else usual(draw) for _ in range(count)]
