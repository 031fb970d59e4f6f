"""Texts as words that can be compared: normalised, and told apart into those that carry meaning and those that do not.

Word lists cover English, German, Spanish, French, Italian, Portuguese and Dutch; texts of other languages are compared
word for word. Knows nothing about examples.
"""
# ruff: noqa: E501, RUF001 (lists of words and patterns)

import itertools
import re
import unicodedata
from collections.abc import Iterable

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+(?:['’.][^\W_]+)*"
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")

_STOP_LISTS = {
    "en": "the a an of to in on at for with and or is are was were be been am i you he she it we they my your his her our "
    "their this that these those do does did have has had will would can could should from by as but if so what which "
    "how there here me us them just also very really its im ive id about when where who why some any",
    "de": "der die das den dem des ein eine einen einem einer eines und oder ist sind war waren bin bist ich du er sie es "
    "wir ihr mein meine meinen meiner dein deine sein ihre unser mich mir dich dir uns euch zu im in an am auf für mit von "
    "vom zum zur bei aus nach über wie was wer wo wann warum welche welcher welches auch noch nur sehr so dass wenn aber "
    "hat habe haben hatte wird werden wurde kann können möchte",
    "es": "el la los las un una unos unas de del al a en con por para y o u es son era fue ser estar está están yo tú él "
    "ella nosotros mi mis tu tus su sus me te se nos le les lo que qué cual cuál como cómo cuando cuándo donde dónde quien "
    "este esta esto ese esa eso muy más también pero si ha he han hay puedo puede",
    "fr": "le la les un une des de du d l à au aux en dans avec pour par sur et ou est sont était être je j tu il elle on "
    "nous vous ils elles mon ma mes ton ta tes son sa ses notre votre vos nos leur ce cet cette ces c qui que qu quoi quel "
    "quelle comment quand où pourquoi très aussi plus mais si a ai as ont avez avons y me m te t se s",
    "it": "il lo la i gli le un uno una di del della dei delle a al alla in nel nella con su per da dal dalla e o è sono "
    "era essere io tu lui lei noi voi loro mio mia miei tuo tua suo sua nostro mi ti ci vi si che chi cosa quale come "
    "quando dove perché molto anche ma se ho ha hanno questo questa",
    "pt": "o a os as um uma uns umas de do da dos das em no na nos nas com por para e ou é são era foi ser estar está eu "
    "você ele ela nós meu minha meus minhas seu sua me te se que quem qual como quando onde muito também mas se tem tenho "
    "ao à isso este esta",
    "nl": "de het een van in op aan met voor en of is zijn was waren ben ik jij je hij zij ze wij we mijn jouw uw onze "
    "dit dat deze die wat wie waar wanneer hoe waarom ook nog zeer maar als heb heeft hebben kan kunnen te er",
}
STOP_WORDS = {name: frozenset(words.split()) for name, words in _STOP_LISTS.items()}
"""Language -> its commonest words."""

_FILLERS = frozenset(
    "please pls plz thanks thank thx hi hello hey dear kindly regards cheers ok okay well um uh sir madam team greetings "
    "morning afternoon evening good best advance much many lot bitte danke hallo guten tag liebe lieber vielen dank "
    "freundliche grüße gruß hola gracias favor saludos buenos buenas días tardes por bonjour merci salut cordialement svp "
    "plaît ciao grazie salve prego buongiorno saluti olá obrigado obrigada oi graag dank alstublieft hoi groet "
    "help asap anyone somebody someone quick question maybe actually basically simply".split()
)
NEGATIONS = frozenset(
    "no not never none nothing without cannot cant dont doesnt didnt isnt wasnt arent wont wouldnt couldnt havent hasnt "
    "nicht kein keine keinen keiner nie niemals ohne nichts nunca jamás sin nada ningún ninguna ne pas jamais sans rien "
    "aucun aucune non mai senza niente nessun nessuna não nem sem geen niet nooit zonder".split()
)
_INSUBSTANTIAL = frozenset().union(_FILLERS, *STOP_WORDS.values()) - NEGATIONS


def normalised(text: str) -> str:
    """The text with compatible characters unified (NFKC) and runs of white space made one space."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.split())


def words(text: str) -> list[str]:
    """Its words in order: lower case, without punctuation, apostrophes dropped."""
    text = normalised(text).casefold()
    found = _WORD.findall(text)
    if "'" in text or "’" in text:
        found = [word.replace("'", "").replace("’", "") for word in found]
    return found


def loose(text: str) -> list[str]:
    """Its words without politeness, sentences in alphabetical order: the same for what asks the same."""
    sentences = _SENTENCE.split(text)
    if len(sentences) == 1:
        return [word for word in words(text) if word not in _FILLERS] or words(text)
    kept = sorted([w for w in words(sentence) if w not in _FILLERS] for sentence in sentences)
    return [word for sentence in kept for word in sentence] or words(text)


def insubstantial(word: str) -> bool:
    """Whether the word says little: an article, a pronoun, a courtesy."""
    return word in _INSUBSTANTIAL


def numeric(word: str) -> bool:
    """Whether a digit is in it: a number, a date, the name of an order."""
    return any(map(str.isdigit, word))


def bag(texts: Iterable[str]) -> list[str]:
    """Words and pairs of words: what near duplicates have in common."""
    listed = list(texts)
    return listed + [f"{a} {b}" for a, b in itertools.pairwise(listed)]
