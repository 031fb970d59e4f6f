"""Word lists and open-vocabulary value generators for the pre-training text of the example model.

Everything is drawn from a `random.Random` handed in, so the same seed gives the same text. Invented names and codes
are deliberately open-ended: a value that cannot be memorised can only be answered by copying it from the prompt, and
copying is the skill that later fine-tuning leans on. The module knows nothing about messages, tokenizers or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


def split(text: str) -> tuple[str, ...]:
    """The words of a string: lists of words read best as running text."""
    return tuple(text.split())


FIRST_NAMES = split(
    "Anna Ben Carla David Elena Farid Grace Hugo Ines Jonas Keiko Liam Maya Nadia Oscar Priya Quentin Rosa Samuel "
    "Tara Umar Vera Walter Ximena Yusuf Zoe Alice Bruno Chen Dina Erik Fatima George Hana Igor Julia Karim Laura "
    "Miguel Nora Olga Peter Rita Stefan Thea Uma Victor Wendy Amir Bella Clara Dmitri Emma Felix Greta Henry Iris "
    "Jack Kofi Lena"
)
CITIES = split(
    "Paris Berlin Lisbon Oslo Madrid Rome Vienna Prague Dublin Athens Cairo Nairobi Lagos Delhi Tokyo Seoul Lima "
    "Bogota Toronto Boston Denver Seattle Austin Chicago Munich Hamburg Zurich Geneva Milan Turin Porto Seville "
    "Krakow Warsaw Riga Tallinn Helsinki Stockholm Bergen Leeds York Bristol Glasgow Cardiff Sydney Perth Auckland "
    "Hanoi"
)
NOUNS = split(
    "lamp chair table window door garden river mountain bottle basket mirror carpet pillow blanket kitchen bedroom "
    "bicycle engine wheel ladder hammer bucket candle clock camera radio guitar piano violin drum book letter paper "
    "pencil notebook ticket map suitcase umbrella jacket shirt shoe glove hat scarf ring bridge tower market "
    "station airport harbor museum library school office hospital bakery farm forest island beach desert valley "
    "storm cloud rain snow wind sun moon star planet rocket ship boat train bus truck car plane apple banana orange "
    "lemon grape tomato potato carrot onion bread cheese butter milk coffee tea sugar salt pepper soup rice pasta "
    "fish chicken dog cat horse cow sheep goat rabbit mouse bear wolf fox tiger lion eagle owl duck frog snake "
    "whale shark bee teacher doctor nurse farmer painter singer writer pilot driver baker butcher lawyer engineer "
    "student child parent neighbor friend guest captain soldier king queen story song picture dream idea question "
    "answer problem plan rule game team"
)
ADJECTIVES = split(
    "small large old new red blue green yellow black white quiet loud warm cold bright dark clean dirty heavy light "
    "soft hard smooth rough sweet sour fresh dry wet open closed empty full early late quick slow simple strange "
    "plain gentle brave clever lazy happy sad angry calm proud shy kind rich poor tall short wide narrow deep "
    "wooden golden"
)
VERBS = split(
    "finds makes takes sees likes wants brings carries opens closes paints cleans repairs sells buys watches "
    "follows remembers forgets draws builds counts hides moves holds keeps drops throws catches washes cooks eats "
    "needs uses"
)
COLOURS = split("red blue green yellow black white purple orange brown pink grey silver golden turquoise")
ANIMALS = split("dog cat horse cow sheep goat rabbit mouse bear wolf fox tiger lion eagle owl duck frog whale bee")
FOODS = split("soup salad pizza pasta curry rice bread cheese cake pie stew omelette sandwich pancakes dumplings tacos")
JOBS = split("teacher doctor nurse farmer painter singer writer pilot driver baker lawyer engineer gardener plumber")
DAYS = split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = split("January February March April May June July August September October November December")
NUMBER_WORDS = split("zero one two three four five six seven eight nine ten eleven twelve")

_ONSETS = split("b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kl pr sh sl st th tr qu")
_VOWELS = split("a e i o u a e i o ai ea ee io ou y")
_CODAS = split("n r l s t m x k d nd rn th ck ss lt")


def pick(rng: Random, items: Sequence[T]) -> T:
    """One item, uniformly."""
    return items[int(rng.random() * len(items))]


def invented(rng: Random) -> str:
    """A pronounceable word that exists nowhere, lower case."""
    syllables = 2 if rng.random() < 0.75 else 3
    word = "".join(pick(rng, _ONSETS) + pick(rng, _VOWELS) for _ in range(syllables))
    return word + (pick(rng, _CODAS) if rng.random() < 0.6 else "")


def person(rng: Random) -> str:
    """A first name, sometimes with a family name, sometimes fully invented."""
    first = pick(rng, FIRST_NAMES) if rng.random() < 0.6 else invented(rng).capitalize()
    return f"{first} {invented(rng).capitalize()}" if rng.random() < 0.4 else first


def place(rng: Random) -> str:
    """A town, real or invented."""
    return pick(rng, CITIES) if rng.random() < 0.5 else invented(rng).capitalize()


def brand(rng: Random) -> str:
    """A title of one or two words in capitals, such as a ship, shop or machine would carry."""
    head = invented(rng).capitalize() if rng.random() < 0.6 else pick(rng, NOUNS + ADJECTIVES).capitalize()
    roll = rng.random()
    if roll < 0.35:
        return f"{head} {pick(rng, NOUNS).capitalize()}"
    if roll < 0.5:
        return f"{head} {rng.randint(2, 900)}"
    if roll < 0.65:
        return f"{head} {pick(rng, NOUNS)}"
    return head


def thing(rng: Random) -> str:
    """A concrete noun, often with an adjective."""
    return f"{pick(rng, ADJECTIVES)} {pick(rng, NOUNS)}" if rng.random() < 0.6 else pick(rng, NOUNS)


def digits(rng: Random, low: int = 2, high: int = 7) -> str:
    """A string of digits, the first one not zero."""
    return str(rng.randint(1, 9)) + "".join(str(rng.randint(0, 9)) for _ in range(rng.randint(low, high) - 1))


def letters(rng: Random, low: int = 1, high: int = 3) -> str:
    """Random capital letters."""
    return "".join(pick(rng, tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")) for _ in range(rng.randint(low, high)))


def code(rng: Random) -> str:
    """An identifier in one of many common shapes: 48213, B-771, QX-20-44, 7f3a."""
    shape = rng.randint(0, 7)
    if shape == 0:
        return digits(rng, 3, 7)
    if shape <= 2:
        return f"{letters(rng)}-{digits(rng, 2, 6)}"
    if shape == 3:
        return letters(rng) + digits(rng, 2, 6)
    if shape == 4:
        return f"{letters(rng)}-{digits(rng, 2, 3)}-{digits(rng, 2, 4)}"
    if shape == 5:
        return f"#{digits(rng, 3, 6)}"
    if shape == 6:
        return f"{digits(rng, 2, 4)}/{letters(rng)}"
    return "".join(pick(rng, tuple("abcdef0123456789")) for _ in range(rng.randint(4, 7)))


def clock_time(rng: Random) -> str:
    """A time of day."""
    return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}" if rng.random() < 0.6 else f"{rng.randint(1, 12)} pm"


def date(rng: Random) -> str:
    """A calendar date, long or ISO."""
    if rng.random() < 0.5:
        return f"{rng.randint(1, 28)} {pick(rng, MONTHS)}"
    return f"20{rng.randint(10, 39)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def email(rng: Random) -> str:
    """An e-mail address nobody owns."""
    return f"{invented(rng)}@{invented(rng)}.example"


def amount(rng: Random) -> str:
    """A price as people write it."""
    return f"{rng.randint(2, 900)}.{rng.randint(0, 99):02d}" if rng.random() < 0.5 else str(rng.randint(2, 900))


def number(rng: Random) -> str:
    """A whole number with one to three digits."""
    return str(rng.randint(1, 999) if rng.random() < 0.3 else rng.randint(1, 60))


def sentence(rng: Random) -> str:
    """A short grammatical sentence of no particular meaning."""
    subject = pick(rng, FIRST_NAMES) if rng.random() < 0.5 else f"The {thing(rng)}"
    tail = pick(rng, ("", "", f" in {place(rng)}", f" on {pick(rng, DAYS)}", f" near the {pick(rng, NOUNS)}", " again"))
    return f"{subject} {pick(rng, VERBS)} {pick(rng, ('a', 'the', 'every', 'one', 'my'))} {thing(rng)}{tail}."


def word_list(rng: Random, low: int = 2, high: int = 7) -> list[str]:
    """Distinct nouns, names, colours or invented words."""
    pool = pick(rng, ("nouns", "names", "mixed", "invented"))
    count = rng.randint(low, high)
    if pool == "nouns":
        return rng.sample(NOUNS, count)
    if pool == "names":
        return rng.sample(FIRST_NAMES, count)
    if pool == "mixed":
        return rng.sample(NOUNS + ADJECTIVES + CITIES, count)
    return [invented(rng) for _ in range(count)]
