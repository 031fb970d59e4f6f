"""Tables of things a message can mention: values to copy and yes/no facts, with the wordings that tell them.

The extraction composers draw a few rows from these tables (and from `labels`), write a message around them and ask for
them back. The example fine-tuning task (support tickets) is absent on purpose: none of its keys or labels is listed, so
that it stays new to the base model. The module knows nothing about prompts, tokenizers or models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from examples.base import words


@dataclass(frozen=True)
class CopyField:
    """A value that stands in the message word for word."""

    keys: tuple[str, ...]
    value: Callable[[Random], str]
    wordings: tuple[str, ...]
    is_number: bool = False


@dataclass(frozen=True)
class FlagField:
    """A fact that is true or false, told by one of several wordings."""

    keys: tuple[str, ...]
    yes: tuple[str, ...]
    no: tuple[str, ...]


def _copy(keys: str, value: Callable[[Random], str], *wordings: str, is_number: bool = False) -> CopyField:
    return CopyField(tuple(keys.split()), value, wordings, is_number)


COPY_FIELDS: tuple[CopyField, ...] = (
    _copy(
        "name person full_name guest",
        words.person,
        "My name is {v}.",
        "This is {v} speaking.",
        "{v} here.",
        "I am {v}.",
        "Hello from {v}.",
        "Please register {v}.",
        "Regards, {v}",
        "Thanks, {v}",
    ),
    _copy(
        "city town place location",
        words.place,
        "I live in {v}.",
        "We meet in {v}.",
        "It happened in {v}.",
        "I am writing from {v}.",
        "The event is in {v}.",
        "We are based in {v}.",
    ),
    _copy(
        "code reference ref booking",
        words.code,
        "The code is {v}.",
        "My reference is {v}.",
        "Reference {v}.",
        "Please use {v}.",
        "It is filed under {v}.",
        "Booking {v}.",
        "I have the number {v} here.",
        "See {v}.",
    ),
    _copy(
        "case_number file_id record",
        words.code,
        "The case number is {v}.",
        "This is about file {v}.",
        "Look at record {v}.",
        "My file is {v}.",
        "Case {v} again.",
        "It concerns {v}.",
    ),
    _copy(
        "date day when",
        words.date,
        "The date is {v}.",
        "It starts on {v}.",
        "We arrive on {v}.",
        "Let us meet on {v}.",
        "It was {v} when it happened.",
    ),
    _copy(
        "time hour start",
        words.clock_time,
        "It begins at {v}.",
        "Come at {v}.",
        "The train leaves at {v}.",
        "At {v} the doors open.",
    ),
    _copy(
        "email mail address",
        words.email,
        "Write to {v}.",
        "My mail is {v}.",
        "You can reach me at {v}.",
        "Send the answer to {v}.",
    ),
    _copy("room hall", words.code, "It is in room {v}.", "The room is {v}.", "We sit in room {v}.", "Go to room {v}."),
    _copy(
        "device machine model",
        words.brand,
        "I own a {v}.",
        "The device is a {v}.",
        "It is about my {v}.",
        "My {v} is two years old.",
        "We installed the {v} last week.",
        "Our {v} stands in the hall.",
    ),
    _copy(
        "ship boat vessel",
        words.brand,
        "We sail on the {v}.",
        "The ship is called {v}.",
        "The {v} leaves soon.",
        "They boarded the {v}.",
    ),
    _copy(
        "item object thing",
        words.thing,
        "I found a {v}.",
        "I am looking for a {v}.",
        "I lost my {v}.",
        "She carries a {v}.",
        "Somebody left a {v} here.",
        "The {v} is mine.",
    ),
    _copy(
        "book title",
        words.brand,
        "I read {v}.",
        "The title is {v}.",
        "I want to borrow {v}.",
        "My favorite book is {v}.",
        "Do you have {v}?",
        "{v} is on the shelf.",
    ),
    _copy(
        "company firm employer",
        words.brand,
        "I work for {v}.",
        "The company is {v}.",
        "{v} sent me.",
        "I have a contract with {v}.",
        "We are from {v}.",
    ),
    _copy(
        "dish meal food",
        lambda rng: words.pick(rng, words.FOODS),
        "We will have {v}.",
        "I would like the {v}.",
        "The {v} was on the table.",
        "Please bring {v}.",
    ),
    _copy(
        "color colour",
        lambda rng: words.pick(rng, words.COLOURS),
        "It is {v}.",
        "The color is {v}.",
        "I painted it {v}.",
        "We want it in {v}.",
    ),
    _copy(
        "animal pet",
        lambda rng: words.pick(rng, words.ANIMALS),
        "I have a {v}.",
        "We saw a {v}.",
        "The {v} is asleep.",
        "A {v} came along.",
    ),
    _copy(
        "job role profession",
        lambda rng: words.pick(rng, words.JOBS),
        "I am a {v}.",
        "I work as a {v}.",
        "They need a {v}.",
        "She became a {v}.",
    ),
    _copy(
        "count number_of_people seats guests",
        words.number,
        "We are {v} people.",
        "There are {v} of us.",
        "A table for {v}, please.",
        "We need {v} seats.",
        is_number=True,
    ),
    _copy(
        "age years",
        words.number,
        "I am {v} years old.",
        "The house is {v} years old.",
        "At the age of {v} I left.",
        is_number=True,
    ),
    _copy(
        "price cost total",
        words.amount,
        "It costs {v} euros.",
        "The price is {v}.",
        "I paid {v} for it.",
        "The total was {v}.",
        is_number=True,
    ),
    _copy(
        "distance length",
        words.number,
        "It is {v} km away.",
        "We walked {v} km.",
        "After {v} km we rested.",
        is_number=True,
    ),
    _copy(
        "weekday",
        lambda rng: words.pick(rng, words.DAYS),
        "It is every {v}.",
        "See you on {v}.",
        "{v} suits me.",
        "Any {v} is fine.",
    ),
    _copy(
        "month",
        lambda rng: words.pick(rng, words.MONTHS),
        "We travel in {v}.",
        "It was a cold {v}.",
        "By {v} it will be done.",
    ),
)


def _flag(keys: str, yes: tuple[str, ...], no: tuple[str, ...]) -> FlagField:
    return FlagField(tuple(keys.split()), yes, no)


FLAG_FIELDS: tuple[FlagField, ...] = (
    _flag(
        "has_pet with_pet",
        ("I bring my dog.", "My cat comes along.", "There is a rabbit with me."),
        ("I have no pets.", "No animals with me.", "I travel without a pet."),
    ),
    _flag(
        "vegetarian no_meat",
        ("I do not eat meat.", "I am a vegetarian.", "Please nothing with meat."),
        ("I love steak.", "I eat everything.", "Meat is fine for me."),
    ),
    _flag(
        "online remote",
        ("I will join by video.", "I take part from home.", "Please send me the link."),
        ("I will come in person.", "I will be in the room.", "See you on site."),
    ),
    _flag(
        "wants_call callback",
        ("Please call me back.", "Ring me when you can.", "I would like a phone call."),
        ("Please do not call me.", "No calls, thanks.", "An answer in writing is enough."),
    ),
    _flag(
        "is_member member",
        ("I am a member.", "I joined the club last year.", "My membership is active."),
        ("I am not a member.", "I never joined.", "I have no membership."),
    ),
    _flag(
        "finished done complete",
        ("The work is done.", "We finished it yesterday.", "Everything is complete."),
        ("It is not ready yet.", "We are still working on it.", "There is much left to do."),
    ),
    _flag(
        "safe is_safe",
        ("Nobody was hurt.", "Everyone is safe.", "There is no danger."),
        ("Two people were hurt.", "It is dangerous there.", "Keep away, it is not safe."),
    ),
    _flag(
        "open is_open",
        ("The shop is open.", "You can walk in now.", "The doors are open."),
        ("The shop is shut.", "They closed early.", "The doors are locked."),
    ),
    _flag(
        "parking needs_parking",
        ("I come by car and need a space.", "Please keep a parking space for me."),
        ("I come by train.", "I do not need parking.", "I will walk."),
    ),
    _flag(
        "likes_it liked recommend",
        ("I would do it again.", "I can recommend it.", "I would tell my friends."),
        ("I would not do it again.", "I cannot recommend it.", "Never again."),
    ),
    _flag(
        "accepted agrees agreed",
        ("I agree.", "That works for me.", "Yes, I accept.", "Count me in."),
        ("I do not agree.", "That does not work for me.", "I must decline.", "I am out."),
    ),
    _flag(
        "wants_quote send_offer",
        ("Please send me an offer.", "I want to know what it costs.", "Send me a quote."),
        ("I only wanted to tell you.", "No offer needed.", "This is just for your information."),
    ),
)
