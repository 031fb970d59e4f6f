"""Tables of labels, each with the wordings that imply it, and of sentences that imply nothing.

The labels of the example fine-tuning task are absent on purpose (see `fields`). Knows nothing about prompts, tokenizers
or models.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LabelField:
    """A choice among labels, each implied by several wordings."""

    keys: tuple[str, ...]
    cues: dict[str, tuple[str, ...]]


def _labels(keys: str, **cues: tuple[str, ...]) -> LabelField:
    return LabelField(tuple(keys.split()), cues)


LABEL_FIELDS: tuple[LabelField, ...] = (
    _labels(
        "sentiment mood opinion",
        positive=(
            "I loved it.",
            "It was wonderful.",
            "What a great day.",
            "We are so happy.",
            "Perfect work.",
            "The best I ever had.",
            "I enjoyed every minute.",
        ),
        negative=(
            "I hated it.",
            "It was terrible.",
            "What an awful day.",
            "We are so sad.",
            "Bad work.",
            "The worst I ever had.",
            "It was a waste of time.",
        ),
        neutral=("It was okay.", "Nothing special.", "It is what it is.", "We were there.", "It was average."),
    ),
    _labels(
        "topic subject theme",
        sports=("The team won the match.", "She scored two goals.", "He ran the marathon.", "The players trained."),
        weather=("It will rain tonight.", "A storm is coming.", "The sun is out.", "Snow fell all morning."),
        music=("The band played a song.", "She sings in a choir.", "The concert was long.", "He plays the violin."),
        food=("The soup needs salt.", "We baked bread.", "Dinner is ready.", "The cake was sweet."),
        travel=("The flight was late.", "We booked a hotel.", "The train goes abroad.", "Pack the suitcase."),
        science=("The telescope found a planet.", "The experiment failed.", "Cells divide.", "Atoms are small."),
        money=("The bank raised its rates.", "We saved some cash.", "Taxes went up.", "He invested in stocks."),
    ),
    _labels(
        "urgency deadline",
        now=("Come at once!", "We cannot wait a minute.", "This is an emergency.", "Right away, please."),
        soon=("Some time this week would be good.", "In the next days, please.", "Try to do it by Friday."),
        whenever=("There is no hurry.", "Take your time.", "Whenever you like.", "It can wait."),
    ),
    _labels(
        "tone style",
        polite=("Would you be so kind?", "Thank you very much.", "I would be grateful.", "Many thanks in advance."),
        rude=("You are useless.", "Just do it, stupid.", "What nonsense.", "I have had enough of you."),
        friendly=("Hope you are well!", "Big hug to all.", "Have a lovely day!", "You guys are the best!"),
    ),
    _labels(
        "size",
        tiny=("It fits in one hand.", "It is as small as a coin.", "You can barely see it."),
        huge=("It fills the whole hall.", "It is as big as a house.", "Ten men cannot lift it."),
    ),
    _labels(
        "transport travel_by vehicle",
        train=("I come by rail.", "I sit at the platform.", "My carriage is full."),
        plane=("I fly in.", "I land in the evening.", "I am at the gate."),
        car=("I drive.", "I am on the motorway.", "I fill the tank first."),
        bicycle=("I pedal.", "I bring my helmet.", "I ride along the path."),
    ),
    _labels(
        "speaker audience group",
        adult=("I am retired.", "I have two children.", "I work full time."),
        child=("I am in first grade.", "My mom helps me.", "I like my toys."),
        student=("I study law.", "My exam is near.", "I sit in lectures all day."),
    ),
    _labels(
        "kind type",
        question=("What time is it?", "Where do I go?", "Can you tell me more?", "How does it work?"),
        request=("Please send me the file.", "Give me a list.", "Please change the date."),
        greeting=("Hello there!", "Good morning to you.", "Hi everybody!"),
    ),
    _labels(
        "season",
        winter=("The lake is frozen.", "There is snow on the roof.", "We wear thick coats."),
        summer=("We swim in the lake.", "It is hot outside.", "The days are long."),
        autumn=("The leaves fall.", "We pick apples.", "The fields are brown."),
    ),
    _labels(
        "department team desk",
        kitchen=("The oven is cold.", "The plates are dirty.", "We ran out of flour."),
        garage=("The tyre is flat.", "The brakes squeal.", "The engine smokes."),
        garden=("The hedge grows wild.", "The roses need water.", "The lawn is yellow."),
        cleaning=("There is dust on the shelf.", "The floor is sticky.", "The windows have spots."),
    ),
    _labels(
        "condition state",
        intact=("It is as good as new.", "There is no scratch on it.", "It works well."),
        cracked=("There is a crack in it.", "The glass is split.", "It has a long crack."),
        rusty=("It is covered in rust.", "The metal turned brown.", "Rust is eating it."),
    ),
)

FILLERS: tuple[str, ...] = (
    "Hello.",
    "Hi,",
    "Good morning,",
    "Dear team,",
    "Thank you.",
    "Best wishes.",
    "I hope this helps.",
    "Please let me know.",
    "I wrote to you last week.",
    "It is my first time here.",
    "My brother told me about you.",
    "Sorry for the long message.",
    "I will be away on the weekend.",
    "As you know, it rained.",
    "That is all.",
    "I look forward to your answer.",
    "We talked about it before.",
    "There is one more thing.",
    "Anyway,",
    "You helped me before.",
    "I am not sure what to do.",
    "Could you check?",
    "Just so you know.",
    "By the way,",
)
