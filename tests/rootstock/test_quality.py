"""The data report: each kind found on its lines, nothing found in clean data, whatever the bytes."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootstock.quality import SEVERITIES, Kind, Report, Severity, report
from rootstock.quality.near import clusters
from rootstock.quality.page import page
from rootstock.quality.pii import kinds_of
from rootstock.quality.refusals import is_refusal
from rootstock.quality.secrets import found_in
from rootstock.quality.splitting import held_out
from rootstock.quality.texts import damaged, language, special_token
from tests.rootstock.quality_sets import CLEAN, chat, lines


def found(kind: Kind, of: Report, file: str = "training") -> list[tuple[int, ...]]:
    return [finding.lines for finding in of.findings if finding.kind is kind and finding.file == file]


def test_clean_data_has_no_findings() -> None:
    clean = report(lines(*CLEAN))
    assert clean.as_dict()["findings"] == []
    assert clean.exit_code == 0
    assert clean.summary["training"]["examples"] == len(CLEAN)
    assert clean.summary["preview"][0]["learnt"] == "In our shop."


def test_every_kind_is_documented_with_its_severity() -> None:
    text = Path("docs/data-report.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE)
    assert listed == [(str(kind), str(SEVERITIES[kind])) for kind in Kind]


def test_a_broken_line_is_unusable_and_named() -> None:
    got = report(lines(*CLEAN, b'{"messages": [', {"messages": [{"role": "user", "content": "x"}]}))
    assert found(Kind.INVALID_JSON, got) == [(21,)]
    assert found(Kind.INVALID_EXAMPLE, got) == [(22,)]
    assert got.exit_code == 3


def test_blank_lines_and_a_mark_at_the_start_shift_nothing() -> None:
    got = report([b"\xef\xbb\xbf" + lines(CLEAN[0])[0], b"\n", b"  \n", b"nonsense"])
    assert found(Kind.INVALID_JSON, got) == [(4,)]


def test_copies_are_one_cluster_whatever_the_order_of_keys() -> None:
    swapped = {"messages": [dict(reversed(message.items())) for message in CLEAN[0]["messages"]]}
    assert found(Kind.EXACT_DUPLICATE, report(lines(*CLEAN, swapped, CLEAN[0]))) == [(1, 21, 22)]


def test_near_copies_are_clusters() -> None:
    a = chat("My parcel with the blue lamp never arrived at home", "Sorry, we will look for it.")
    b = chat("hello, my parcel with the blue lamp never arived at home!!", "Sorry, we will look for it.")
    assert found(Kind.NEAR_DUPLICATE, report(lines(*CLEAN, a, b))) == [(21, 22)]


def test_the_same_question_with_two_answers_is_a_contradiction() -> None:
    a = chat("Can I return the blue lamp after a month?", "Yes, you can return it.")
    b = chat("can I return the blue lamp after a month, please", "No, you can not return it.")
    assert found(Kind.CONTRADICTION, report(lines(*CLEAN, a, b))) == [(21, 22)]


def test_a_field_of_structured_answers_can_contradict() -> None:
    things = "lamp tent drone kettle mixer guitar helmet camera".split()
    sentences = [f"The {a} {b}" for a in things for b in ("is broken again", "never arrived here", "was charged twice")]
    kinds = ["defect", "delivery", "billing"] * 8
    examples = [chat(s, json.dumps({"kind": k, "n": i})) for i, (s, k) in enumerate(zip(sentences, kinds, strict=True))]
    wrong = chat("the lamp is broken again!", json.dumps({"n": 0, "kind": "billing"}))
    got = report(lines(*examples, wrong))
    assert found(Kind.CONTRADICTION, got) == [(1, 25)]


def test_words_that_carry_the_answer_are_no_contradiction() -> None:
    names = "lamp tent drone kettle mixer guitar helmet camera".split()
    examples = [chat(f"Translate the word {name} into code please", name[::-1]) for name in names]
    examples += [chat(f"Is {n} larger than fifty or not, tell me", "yes" if n > 50 else "no") for n in range(10, 95, 4)]
    assert found(Kind.CONTRADICTION, report(lines(*examples))) == []


def test_a_preference_in_both_directions_is_a_contradiction() -> None:
    def pair(good: str, bad: str) -> dict[str, object]:
        given = {"messages": [{"role": "user", "content": "Which lamp shall I buy for my desk?"}]}
        outputs = {name: [{"role": "assistant", "content": text}] for name, text in (("preferred_output", good), ("non_preferred_output", bad))}  # fmt: skip  # noqa: E501
        return {"input": given, **outputs}

    got = report(lines(pair("The blue one.", "The red one."), pair("The red one.", "The blue one.")))
    assert found(Kind.CONTRADICTION, got) == [(1, 2)]


def test_prompts_of_reinforcement_are_compared_with_their_references() -> None:
    def prompt(answer: str) -> dict[str, object]:
        return {"messages": [{"role": "user", "content": "How many lamps are in the box?"}], "answer": answer}

    got = report(lines(prompt("7"), prompt("8"), prompt("7")))
    assert found(Kind.CONTRADICTION, got) == [(1, 2)]
    assert found(Kind.EXACT_DUPLICATE, got) == [(1, 3)]


def test_leaks_exact_and_near() -> None:
    near = chat("Please: where do I buy a KETTLE?!", "In our shop.")
    got = report(lines(*CLEAN), lines(chat("Something else entirely, is it?", "Yes."), CLEAN[3], near))
    assert found(Kind.SPLIT_LEAK, got, "validation") == [(2,), (3,)]
    assert got.exit_code == 2


def test_a_project_can_make_a_kind_blocking() -> None:
    doubled = lines(*CLEAN, CLEAN[0])
    assert report(doubled).exit_code == 1
    assert report(doubled, blocking=[Kind.EXACT_DUPLICATE]).findings[0].severity is Severity.BLOCKING


def test_a_silent_example_cannot_be_learnt() -> None:
    got = report(lines(*CLEAN, chat("Hello there", " "), chat("Hello you", "yes", weight=0)))
    assert sorted(found(Kind.NO_TRAINABLE_TOKENS, got)) == [(21,), (22,)]


def test_lengths_are_held_against_the_context() -> None:
    got = report(lines(*CLEAN, chat("word " * 900, "yes")), context=1000)
    assert found(Kind.TRUNCATED, got) == [(21,)]
    counted = report(
        lines(*CLEAN, chat("word " * 900, "yes")), context=800, count_tokens=lambda text: len(text.split())
    )
    assert found(Kind.NO_TRAINABLE_TOKENS, counted) == [(21,)]
    assert counted.summary["training"]["tokens"]["estimated"] is False


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to jane.roe@gmail.com", {"email"}),
        ("write to jane@example.com or support@acme.io", set()),
        ("call me at +49 171 2345678", {"phone"}),
        ("(415) 736-2210 is mine", {"phone"}),
        ("order 12345678 of 2024-05-01 for 1,299.00", set()),
        ("card 4111 1111 1111 1111", {"card"}),
        ("card 4111 1111 1111 1112", set()),
        ("SSN 412-55-9013", {"ssn"}),
        ("DE89 3704 0044 0532 0130 00", {"iban"}),
        ("DE88 3704 0044 0532 0130 00", set()),
        ("from 84.23.11.9", {"ip"}),
        ("from 192.168.1.10, version 10.4.2.1", set()),
    ],
)
def test_personal_data_by_kind(text: str, kinds: set[str]) -> None:
    assert kinds_of(text) == kinds


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("key sk-proj-9aF3kLm2Qw8ZxC5vB7nM1pR4tY6u", True),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", True),
        ("password: Tr0ub4dor&3", True),
        ("api_key=YOUR_API_KEY_HERE", False),
        ("I forgot my password and need a new one", False),
        ("the token expires after 30 days", False),
        ("mysql://root:s3cr3tpw9@db/main", True),
    ],
)
def test_secrets(text: str, secret: bool) -> None:
    assert found_in(text) is secret


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I'm sorry, but I can't assist with that request.", True),
        ("As an AI language model, I cannot give legal advice.", True),
        ("Leider kann ich dir dabei nicht weiterhelfen.", False),
        ("Dabei kann ich leider nicht helfen.", True),
        ("Lo siento, no puedo ayudar con eso.", True),
        ("I'm sorry to hear that! We will send a new lamp.", False),
        ("You can't return it after a month.", False),
    ],
)
def test_refusals(text: str, refuses: bool) -> None:
    assert is_refusal(text) is refuses


def test_what_one_text_gives_away() -> None:
    assert special_token("text <|im_end|>") == "<|im_end|>"
    assert special_token("x < y and [1] and <b>bold</b>") is None
    assert damaged("schÃ¶n") and damaged("don\u00e2\u20ac\u2122t") and damaged("gone \ufffd")
    assert not damaged("schön, Größe, señor, naïve, “quoted” — and C:\\users?")
    assert language("Das ist nicht das, was ich bestellt habe, und es ist kaputt") == "de"
    assert language("what is the weather like in the city") == "en"


def test_clusters_of_near_duplicates() -> None:
    texts = ["where is my parcel now", "Where is my parcel, now?", "a refund for the lamp", "", ""]
    assert clusters(texts)[0] == [0, 1]


def test_the_page_holds_no_markup_of_the_data() -> None:
    bad = "<script>alert(1)</script>"
    shown = page(report(lines(*[chat(f"{bad} {n}", f"{bad}{n % 2}") for n in range(20)])), title=bad)
    assert "<script" not in shown
    assert "<svg" in shown


def test_a_split_keeps_copies_together_and_repeats() -> None:
    labelled = [
        chat(f"{a} {b} is broken", a)
        for a in ("lamp", "tent", "drone")
        for b in "red blue green black white grey".split()
    ]
    doubled = lines(
        *labelled, *[chat(f"hello, {e['messages'][0]['content']}!", e["messages"][1]["content"]) for e in labelled]
    )
    chosen = held_out(doubled, share=0.25, seed=3)
    assert chosen == held_out(doubled, share=0.25, seed=3)
    assert {(n - 1) % 18 + 1 for n in chosen} | {(n - 1) % 18 + 19 for n in chosen} == chosen
    assert 6 <= len(chosen) <= 14
    kinds = {labelled[(n - 1) % 18]["messages"][1]["content"] for n in chosen}
    assert kinds == {"lamp", "tent", "drone"}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=60), st.text(max_size=40).map(lambda t: lines(chat(t, t))[0])), max_size=30)
)
def test_nothing_is_raised_whatever_the_lines_are(data: list[bytes]) -> None:
    got = report(data)
    json.dumps(got.as_dict())
    assert all(1 <= line <= len(data) for finding in got.findings for line in finding.lines)
    page(got, title="x")
