"""Clean training sets of four sorts in four languages, made from wordings so that no two lines are alike by accident.

`TUNED` are the sorts that the report was tuned on, `HELD_BACK` those that were only tried afterwards.
"""
# ruff: noqa: E501 (wordings)

import json
import random
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]

THINGS = {
    "en": "toaster kettle blender lamp speaker router monitor keyboard backpack jacket tent drone camera printer heater "
    "mixer scooter helmet guitar microphone headset vacuum fridge dishwasher projector tablet charger thermostat doorbell".split(),
    "de": "Toaster Wasserkocher Mixer Lampe Lautsprecher Router Monitor Tastatur Rucksack Jacke Zelt Drohne Kamera Drucker "
    "Heizlüfter Roller Helm Gitarre Mikrofon Kopfhörer Staubsauger Kühlschrank Beamer Tablet Ladegerät Thermostat".split(),
    "es": "tostadora hervidor batidora lámpara altavoz enrutador monitor teclado mochila chaqueta tienda dron cámara impresora "
    "estufa patinete casco guitarra micrófono auriculares aspiradora nevera proyector tableta cargador termostato".split(),
    "fr": "bouilloire mixeur lampe enceinte routeur écran clavier sac veste tente drone caméra imprimante radiateur trottinette "
    "casque guitare micro aspirateur frigo projecteur tablette chargeur thermostat grille-pain sonnette".split(),
}
COLOURS = {
    "en": "red blue green black white silver yellow purple orange grey".split(),
    "de": "rot blau grün schwarz weiß silbern gelb lila orange grau".split(),
    "es": "rojo azul verde negro blanco plateado amarillo morado naranja gris".split(),
    "fr": "rouge bleu vert noir blanc argenté jaune violet orange gris".split(),
}
CASES: dict[str, dict[str, list[str]]] = {
    "en": {
        "delivery": ["The courier left my {c} {t} at the wrong house", "Tracking for the {c} {t} has been stuck for a week",
                     "My {c} {t} was supposed to arrive on Monday and nobody rang", "Where is the {c} {t} that I ordered last month",
                     "The parcel with the {c} {t} vanished somewhere in the depot"],
        "defect": ["The {c} {t} stopped working after two days", "Smoke came out of the {c} {t} when I switched it on",
                   "There is a crack along the side of my {c} {t}", "My {c} {t} makes a grinding noise and then dies",
                   "One button of the {c} {t} does nothing at all"],
        "billing": ["I was charged twice for the {c} {t}", "The invoice for my {c} {t} shows the wrong amount",
                    "A discount code for the {c} {t} was ignored at checkout", "My card statement lists a {c} {t} I never bought",
                    "The receipt of the {c} {t} lacks the tax number"],
        "account": ["I cannot log in since I registered the {c} {t}", "Please delete the profile I made to buy a {c} {t}",
                    "My new address is not saved when I order the {c} {t}", "The password reset mail never comes, I only wanted a {c} {t}",
                    "Two profiles exist in my name because of the {c} {t}"],
    },
    "de": {
        "versand": ["Der Bote hat {t} in {c} beim Nachbarn abgegeben", "Die Sendung mit {t} in {c} hängt seit Tagen fest",
                    "Seit Montag warte ich auf {t} in {c}", "Das Paket mit {t} in {c} ist im Lager verschwunden"],
        "defekt": ["{t} in {c} ging nach zwei Tagen kaputt", "Aus {t} in {c} kam beim Einschalten Rauch",
                   "An der Seite von {t} in {c} ist ein Riss", "{t} in {c} macht ein lautes Geräusch und geht aus"],
        "rechnung": ["Für {t} in {c} wurde zweimal abgebucht", "Auf der Rechnung für {t} in {c} steht der falsche Betrag",
                     "Der Gutschein für {t} in {c} wurde ignoriert", "Auf dem Beleg von {t} in {c} fehlt die Steuernummer"],
    },
    "es": {
        "envío": ["El mensajero dejó {t} {c} en otra casa", "El seguimiento de {t} {c} lleva una semana parado",
                  "Desde el lunes espero {t} {c}", "El paquete con {t} {c} desapareció en el almacén"],
        "avería": ["{t} {c} dejó de funcionar a los dos días", "Salió humo de {t} {c} al encenderlo",
                   "Hay una grieta en el lado de {t} {c}", "{t} {c} hace un ruido raro y se apaga"],
        "factura": ["Me cobraron dos veces {t} {c}", "La factura de {t} {c} muestra un importe equivocado",
                    "El código de descuento para {t} {c} fue ignorado", "Al recibo de {t} {c} le falta el número fiscal"],
    },
    "fr": {
        "livraison": ["Le livreur a laissé {t} {c} chez quelqu'un d'autre", "Le suivi de {t} {c} est bloqué depuis une semaine",
                      "J'attends {t} {c} depuis lundi", "Le colis avec {t} {c} a disparu au dépôt"],
        "panne": ["{t} {c} a cessé de marcher après deux jours", "De la fumée est sortie de {t} {c}",
                  "Il y a une fissure sur le côté de {t} {c}", "{t} {c} fait un bruit étrange puis s'éteint"],
        "facture": ["On m'a débité deux fois pour {t} {c}", "La facture de {t} {c} montre un montant faux",
                    "Le code promo pour {t} {c} a été ignoré", "Il manque le numéro fiscal sur le reçu de {t} {c}"],
    },
}  # fmt: skip
TAILS = {
    "en": ["", "I tried everything in the manual.", "My neighbour saw it too.", "It was meant as a birthday present.",
           "This is the second time this year.", "I use it for work every morning.", "The shop assistant only shrugged.",
           "I have photos if you need them.", "My patience is wearing thin.", "The box looked fine from outside."],
    "de": ["", "In der Anleitung steht dazu kein Wort.", "Mein Nachbar hat das auch gesehen.", "Es sollte ein Geschenk werden.",
           "Das passiert schon zum zweiten Mal.", "Ich brauche das jeden Morgen zur Arbeit.", "Der Karton sah von außen gut aus."],
    "es": ["", "Probé todo lo que dice el manual.", "Mi vecino también lo vio.", "Era un regalo de cumpleaños.",
           "Es la segunda vez este año.", "Lo uso para trabajar cada mañana.", "La caja parecía intacta por fuera."],
    "fr": ["", "J'ai essayé tout ce que dit le manuel.", "Mon voisin l'a vu aussi.", "C'était un cadeau d'anniversaire.",
           "C'est la deuxième fois cette année.", "Je m'en sers chaque matin au travail.", "Le carton semblait intact."],
}  # fmt: skip
CLASSIFY = {"en": "Classify the ticket.", "de": "Ordne die Anfrage ein.", "es": "Clasifica la consulta.", "fr": "Classe la demande."}  # fmt: skip
_REPLIES = {
    "delivery": "Sorry about the wait for your {c} {t}. We have asked the carrier to search for it and will write as soon as they answer.",
    "defect": "That should not happen to a {c} {t}. Please pack it up, print the return label from your orders page and we will send another.",
    "billing": "Thank you for checking. We have opened a review of the payment for the {c} {t}; the correction shows on your next statement.",
    "account": "We looked at your profile. Open the link in the message we just sent, and the {c} {t} will stay in your basket meanwhile.",
}
_REPLY_TAILS = ["", "Have a good day.", "Tell us if anything else comes up.", "We are on it.", "Our team reads every reply.",
                "You will not have to explain it again.", "We appreciate your patience.", "Write back any time."]  # fmt: skip


def chat(user: str, answer: str | None, system: str | None = None, **more: Any) -> Json:
    """One example of a plain conversation."""
    messages = [{"role": "system", "content": system}] if system else []
    return {
        "messages": [*messages, {"role": "user", "content": user}, {"role": "assistant", "content": answer, **more}]
    }


def _cases(rng: random.Random, count: int, language: str) -> list[tuple[str, str, str, str]]:
    """Distinct `(label, sentence, thing, colour)`, labels nearly in balance."""
    labels = list(CASES[language])
    listed: list[tuple[str, str, str, str]] = []
    seen = set()
    while len(listed) < count:
        label = labels[len(listed) % len(labels)]
        thing, colour = rng.choice(THINGS[language]), rng.choice(COLOURS[language])
        sentence = rng.choice(CASES[language][label]).format(t=thing, c=colour)
        tail = rng.choice(TAILS[language])
        if (sentence, tail) not in seen:
            seen.add((sentence, tail))
            listed.append((label, f"{sentence[0].upper()}{sentence[1:]}. {tail}".strip(), thing, colour))
    rng.shuffle(listed)
    return listed


def classification(rng: random.Random, count: int, language: str = "en") -> list[Json]:
    """Tickets and their labels."""
    return [chat(text, label, CLASSIFY[language]) for label, text, _, _ in _cases(rng, count, language)]


def extraction(rng: random.Random, count: int, language: str = "en") -> list[Json]:
    """Tickets and JSON with a category, the product, the colour and an order number that may be missing."""
    found = []
    for label, text, thing, colour in _cases(rng, count, language):
        order = f"{rng.choice('ABCD')}-{rng.randint(1000, 99999)}" if rng.random() < 0.6 else None
        value: Json = {
            "category": label,
            "product": thing,
            "colour": colour,
            "order": order,
            "urgent": rng.random() < 0.3,
        }
        if rng.random() < 0.5:
            value["note"] = text.split(". ")[-1].strip(".")
        urgent = " I need this today!" if value["urgent"] else ""
        numbered = f" ({order})" if order else ""
        found.append(
            chat(
                f"{text}{urgent}{numbered}",
                json.dumps(value, ensure_ascii=rng.random() < 0.5),
                "Answer with JSON only.",
            )
        )
    return found


def support(rng: random.Random, count: int, language: str = "en") -> list[Json]:
    """Tickets and friendly answers; in English only."""
    found = []
    for label, text, thing, colour in _cases(rng, count, "en"):
        reply = f"{_REPLIES[label].format(t=thing, c=colour)} {rng.choice(_REPLY_TAILS)}".strip()
        found.append(chat(text, reply, "You are the friendly support of a shop."))
    return found


TOOLS = [
    {"type": "function", "function": {"name": "find_order", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "open_case", "parameters": {"type": "object"}}},
]


def tool_calls(rng: random.Random, count: int, language: str = "en") -> list[Json]:
    """Tickets that are answered by calls of two functions."""
    found = []
    for number, (label, text, thing, colour) in enumerate(_cases(rng, count, language)):
        order = f"{rng.randint(10000, 99999)}"
        if number % 2:
            name = "find_order"
            arguments: Json = {"order": order, "product": thing}
            asked = f"{text} The order is {order}."
        else:
            asked = text
            name = "open_case"
            arguments = {"category": label, "product": thing, "details": {"colour": colour}}
        call = {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        found.append(chat(asked, None, "Use the tools.", tool_calls=[call]) | {"tools": TOOLS})
    return found


_TOPICS = ["an autumn evening", "a lost umbrella", "the first snow", "an old bicycle", "a quiet library", "a market in spring",
           "a broken clock", "the night train", "a garden after rain", "a letter that never came", "a walk by the sea",
           "the last day of school", "a cat on a roof", "a candle in a window", "an empty theatre", "a friend far away"]  # fmt: skip
_STYLES = [
    "short",
    "cheerful",
    "sad",
    "quiet",
    "funny",
    "formal",
    "rhyming",
    "playful",
    "dark",
    "gentle",
    "plain",
    "dreamy",
]
_FORMS = ["poem", "letter", "scene", "paragraph", "dialogue", "speech", "lullaby", "story"]


def writing(rng: random.Random, count: int, language: str = "en") -> list[Json]:
    """Creative tasks without facts: held back."""
    nouns = "wind light door stone river shadow voice road window rain hand song leaf smoke bread glass".split()
    verbs = "waits turns falls sings hides opens trembles listens fades returns wanders sleeps".split()
    asked = [(s, f, t) for s in _STYLES for f in _FORMS for t in _TOPICS]
    rng.shuffle(asked)
    found = []
    for style, form, topic in asked[:count]:
        lines = [
            f"The {rng.choice(nouns)} {rng.choice(verbs)} while the {rng.choice(nouns)} {rng.choice(verbs)}"
            for _ in range(4)
        ]
        found.append(chat(f"Write a {style} {form} about {topic}", ", and ".join(lines).capitalize() + "."))
    return found


def sentiment(rng: random.Random, count: int, language: str = "en") -> list[Json]:
    """Reviews, two labels, the instruction in the prompt and no system prompt, completions: held back."""
    good = ["lovely", "superb", "a delight", "worth every cent", "better than expected", "charming"]
    bad = ["dreadful", "a letdown", "not worth it", "worse than expected", "boring", "a waste"]
    parts = [
        "the plot",
        "the service",
        "the sound",
        "the food",
        "the view",
        "the staff",
        "the ending",
        "the battery",
        "the fabric",
        "the screen",
    ]
    where = [
        "on a rainy Sunday",
        "with my parents",
        "after work",
        "for the third time",
        "in the old town",
        "during the holidays",
        "last week",
        "at home",
    ]
    found: list[Json] = []
    seen = set()
    while len(found) < count:
        label = ("positive", "negative")[len(found) % 2]
        pool = good if label == "positive" else bad
        first, second = rng.sample(parts, 2)
        text = f"We tried it {rng.choice(where)}: {first} was {rng.choice(pool)}, and {second} was {rng.choice(pool)}. {rng.choice(TAILS['en'])}"
        if text not in seen:
            seen.add(text)
            found.append(
                {
                    "prompt": f"Is this review positive or negative?\n\n{text.strip()}\n\nAnswer:",
                    "completion": f" {label}",
                }
            )
    return found


Base = Callable[..., list[Json]]
TUNED: dict[str, Base] = {
    "classification": classification,
    "extraction": extraction,
    "support": support,
    "tool_calls": tool_calls,
}
HELD_BACK: dict[str, Base] = {"writing": writing, "sentiment": sentiment}
