"""Loss masks proven against the template shape of every family that the fast engine knows."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.families import FAMILIES, Family
from trainer.chat import CannotRender, ChatTemplate, Rendering

EVERY = pytest.mark.parametrize("name", list(FAMILIES))
TOOLS = [{"type": "function", "function": {"name": "look", "description": "", "parameters": {"type": "object"}}}]


def template(family: Family) -> ChatTemplate:
    return ChatTemplate(family.template, {"bos_token": "<s>", "eos_token": "</s>"}, family.ends)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, weight: int = 1, *calls: str) -> dict[str, Any]:
    made = [
        {"id": f"call{n:05}", "type": "function", "function": {"name": name, "arguments": '{"q": 1}'}}
        for n, name in enumerate(calls)
    ]
    return {"role": "assistant", "content": text, "weight": weight} | ({"tool_calls": made} if calls else {})


def tool(text: str, number: int = 0) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call{number:05}", "content": text}


def learned(found: list[Rendering]) -> list[str]:
    return [text.text[start:end] for text in found for start, end in text.spans]


def said(family: Family, text: str) -> str:
    """An answer as it is learned: with what the template opens a turn and its end token."""
    space = " " if family.template is FAMILIES["llama2"].template else ""
    return family.opening + text + space + family.end


@EVERY
def test_one_answer_is_learned_with_its_end_and_nothing_else(name: str) -> None:
    family = FAMILIES[name]
    (found,) = template(family).training_texts([user("What is it?"), assistant("A red apple.")])
    assert learned([found]) == [said(family, "A red apple.")]
    assert found.text[: found.prompt_end] == template(family).prompt_text([user("What is it?")])


@EVERY
def test_of_several_turns_every_answer_is_learned_as_it_is_asked_for(name: str) -> None:
    family = FAMILIES[name]
    talk = [user("one?"), assistant("First."), user("two?"), assistant("Second."), user("three?"), assistant("Third.")]
    texts = template(family).training_texts(talk)
    assert learned(texts) == [said(family, text) for text in ("First.", "Second.", "Third.")]
    # Each learned span begins where vLLM's prompt for that turn ends.
    prompts = [template(family).prompt_text(talk[:turn]) for turn in (1, 3, 5)]
    starts = [(text.text, start) for text in texts for start, _ in text.spans]
    assert all(text[:start] == prompt for (text, start), prompt in zip(starts, prompts, strict=True))


@EVERY
def test_a_system_message_is_context_or_refused(name: str) -> None:
    family = FAMILIES[name]
    talk = [
        {"role": "system", "content": "Be brief."},
        user("one?"),
        assistant("First."),
        user("two?"),
        assistant("2."),
    ]
    if not family.system:
        with pytest.raises(CannotRender, match="System role not supported"):
            template(family).training_texts(talk)
        return
    texts = template(family).training_texts(talk)
    assert learned(texts) == [said(family, "First."), said(family, "2.")]
    assert all("Be brief." in text.text for text in texts)


@EVERY
def test_weights_choose_what_is_learned(name: str) -> None:
    family = FAMILIES[name]
    talk = [
        user("one?"),
        assistant("First.", 0),
        user("two?"),
        assistant("Second."),
        user("3?"),
        assistant("Third.", 0),
    ]
    texts = template(family).training_texts(talk)
    assert learned(texts) == [said(family, "Second.")]
    assert "First." in texts[0].text and "Third." not in texts[0].text


@EVERY
def test_tool_calls_are_learned_where_they_are_shown_and_refused_where_they_are_not(name: str) -> None:
    family = FAMILIES[name]
    talk = [user("one?"), assistant(None, 1, "look"), tool("42"), assistant("It is 42.")]
    if not family.tools:
        with pytest.raises(CannotRender):
            template(family).training_texts(talk, TOOLS)
        return
    call, answer = learned(template(family).training_texts(talk, TOOLS))
    assert '"look"' in call and '{"q": 1}' in call and "42" not in call and call.endswith(family.end)
    assert answer == said(family, "It is 42.")


@EVERY
def test_parallel_calls_are_learned_or_refused(name: str) -> None:
    family = FAMILIES[name]
    talk = [user("one?"), assistant(None, 1, "look", "find"), tool("4"), tool("2", 1), assistant("It is 42.")]
    if not family.parallel:
        with pytest.raises(CannotRender):
            template(family).training_texts(talk, TOOLS)
        return
    call, answer = learned(template(family).training_texts(talk, TOOLS))
    assert call.index('"look"') < call.index('"find"')
    assert answer == said(family, "It is 42.")


def test_thoughts_are_learned_only_where_the_model_will_be_asked_for_them() -> None:
    family = FAMILIES["qwen3"]
    talk = [user("one?"), assistant("<think>hm</think>First."), user("two?"), assistant("<think>ah</think>Second.")]
    first, second = template(family).training_texts(talk)
    assert learned([first]) == ["<think>\nhm\n</think>\n\nFirst.<|im_end|>"]
    assert learned([second]) == ["<think>\nah\n</think>\n\nSecond.<|im_end|>"]
    assert "hm" not in second.text


def test_a_template_that_drops_what_was_said_is_refused() -> None:
    source = FAMILIES["llama3"].template.replace("(m.content or '')|trim", "(m.content or '')|trim|truncate(8, True)")
    family = Family(source, ("<|eot_id|>",), "<|eot_id|>")
    assert learned(template(family).training_texts([user("?"), assistant("Short.")])) == ["Short.<|eot_id|>"]
    with pytest.raises(CannotRender, match="leaves out what an assistant message says"):
        template(family).training_texts([user("?"), assistant("Longer than that.")])


words = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)
turns = st.lists(st.tuples(words, words, st.integers(0, 1)), min_size=1, max_size=4)


@EVERY
@given(talk=turns)
def test_whatever_is_said_what_is_learned_are_the_answers_of_weight_1(name: str, talk: Any) -> None:
    family = FAMILIES[name]
    messages = [m for asked, answer, weight in talk for m in (user(asked), assistant(answer, weight))]
    wanted = [said(family, answer) for _, answer, weight in talk if weight]
    if not wanted:
        with pytest.raises(CannotRender, match="no assistant message carries weight 1"):
            template(family).training_texts(messages)
        return
    assert learned(template(family).training_texts(messages)) == wanted
