"""Which part of a conversation is learned, for the shapes that chat templates have."""

from typing import Any

import pytest

from tests.trainer.conftest import MARKED
from tests.trainer.harness import talk
from trainer.chat import CannotRender, ChatTemplate

CHATML = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")

MARKED_WITHOUT_END = MARKED.replace(
    "{{- m.content + '<|im_end|>' }}{% endgeneration %}", "{{- m.content }}{% endgeneration %}{{- '<|im_end|>' }}"
)

INST = (
    "{%- for m in messages %}{%- if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{%- elif m.role == 'assistant' %}{{ ' ' + m.content + ' ' + eos_token }}{%- endif %}{%- endfor %}"
)
"""Llama 2: no header in front of the answer, spaces around it, an end that belongs to it."""

THINKING = (
    "{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.role == 'assistant' and loop.index0 > ns.last %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{{- m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
"""Qwen3: thoughts in front of the latest answer only."""

OTHER_PROMPT = CHATML.replace(
    "add_generation_prompt %}{{- '<|im_start|>assistant\n'",
    "add_generation_prompt %}{{- '<|im_start|>assistant\n<think>'",
)
"""DeepSeek R1: the prompt opens a thought that the training text does not have."""

ENDLESS = "{%- for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{%- endfor %}" + (
    "{%- if add_generation_prompt %}{{ 'assistant: ' }}{%- endif %}"
)


def template(source: str) -> ChatTemplate:
    specials = {"bos_token": "<s>", "eos_token": "</s>"}
    return ChatTemplate(source, specials, ["<|im_end|>", "</s>"])


def learned(source: str, messages: list[dict[str, Any]]) -> list[list[str]]:
    """What each training sequence teaches, as text."""
    rendered = template(source).training_texts(messages)
    return [[r.text[start:end] for start, end in r.spans] for r in rendered]


@pytest.mark.parametrize("source", [MARKED, CHATML, MARKED_WITHOUT_END], ids=["marked", "chatml", "marked-without-end"])
def test_chatml_teaches_each_answer_with_its_end_of_turn(source: str) -> None:
    assert learned(source, talk(("q1", "a1"), ("q2", "a2"))) == [["a1<|im_end|>", "a2<|im_end|>"]]


def test_inst_teaches_the_answer_behind_the_bracket() -> None:
    assert learned(INST, talk(("q1", "a1"), ("q2", "a2"))) == [[" a1 </s>", " a2 </s>"]]


def test_a_template_that_rewrites_earlier_turns_gives_one_sequence_per_answer() -> None:
    rendered = template(THINKING).training_texts(talk(("q1", "a1"), ("q2", "a2")))
    assert [[r.text[a:b] for a, b in r.spans] for r in rendered] == [
        ["<think>\n\n</think>\n\na1<|im_end|>"],
        ["<think>\n\n</think>\n\na2<|im_end|>"],
    ]
    assert rendered[1].text.startswith("<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n")


@pytest.mark.parametrize("source", [MARKED, CHATML, INST, THINKING])
def test_the_text_before_the_last_answer_is_the_prompt_that_serving_builds(source: str) -> None:
    messages = talk(("q1", "a1"), ("q2", "a2"))
    form = template(source)
    prompt, _ = form.render(form.as_served(messages[:-1]), prompt=True)
    last = form.training_texts(messages)[-1]
    assert last.text[: last.prompt_end] == prompt


@pytest.mark.parametrize(
    ("source", "reason"), [(OTHER_PROMPT, "another prompt in training than in use"), (ENDLESS, "no token that stops")]
)
def test_a_mask_that_cannot_be_proven_is_refused(source: str, reason: str) -> None:
    with pytest.raises(CannotRender, match=reason):
        template(source).training_texts(talk(("q1", "a1")))


@pytest.mark.parametrize("source", [MARKED, CHATML])
def test_an_answer_of_weight_0_is_context_only(source: str) -> None:
    messages = talk(("q1", "bad"), ("q2", "good"))
    messages[1]["weight"] = 0
    (rendering,) = template(source).training_texts(messages)
    assert [rendering.text[a:b] for a, b in rendering.spans] == ["good<|im_end|>"]
    assert "bad<|im_end|>" in rendering.text


def test_what_follows_the_last_learned_answer_is_left_out() -> None:
    (rendering,) = template(CHATML).training_texts([*talk(("q", "a")), *talk(("q2", "ignored"), weight=0)])
    assert rendering.text.endswith("a<|im_end|>\n")


def test_all_answers_of_weight_0_are_refused() -> None:
    with pytest.raises(CannotRender, match="weight 1"):
        template(CHATML).training_texts(talk(("q", "a"), weight=0))


def test_a_greeting_before_any_question_is_context_only() -> None:
    greeting = {"role": "assistant", "content": "Hello!"}
    assert learned(CHATML, [greeting, *talk(("q", "a"))]) == [["a<|im_end|>"]]


def test_an_answer_that_ends_like_the_template_keeps_both_ends() -> None:
    assert learned(CHATML, talk(("q", "say <|im_end|>"))) == [["say <|im_end|><|im_end|>"]]


def test_the_template_s_own_refusal_is_told() -> None:
    strict = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(CannotRender, match="roles must alternate"):
        template(strict).training_texts(talk(("q", "a")))


def test_parts_are_joined_for_templates_that_take_strings() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert template(CHATML).as_served([{"role": "user", "content": parts}]) == [{"role": "user", "content": "one\ntwo"}]


def test_strings_become_parts_for_templates_that_loop_over_them() -> None:
    form = template("{%- for m in messages %}{%- for part in m.content %}{{ part.text }}{%- endfor %}{%- endfor %}")
    served = form.as_served([{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}])
    assert [m["content"] for m in served] == [[{"type": "text", "text": "hi"}], []]


def test_developer_messages_become_one_system_message_where_the_template_does_not_know_them() -> None:
    messages = [{"role": r, "content": c} for r, c in (("system", "A"), ("developer", "B"), ("user", "q"))]
    assert template(CHATML).as_served(messages) == [
        {"role": "system", "content": "A\n\nB"},
        {"role": "user", "content": "q"},
    ]
    knows = CHATML + "{# 'developer' #}"
    assert [m["role"] for m in template(knows).as_served(messages)] == ["system", "developer", "user"]


def test_tool_calls_are_learned_with_their_arguments_as_objects() -> None:
    form = template(
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content }}"
        "{%- for c in m.tool_calls or [] %}{{- c.function | tojson }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
    )
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "found", "tool_call_id": "c1"},
        {"role": "assistant", "content": "there"},
    ]
    (rendering,) = form.training_texts(messages)
    assert [rendering.text[a:b] for a, b in rendering.spans] == [
        '{"name": "look", "arguments": {"at": 1}}<|im_end|>',
        "there<|im_end|>",
    ]


def test_tools_are_shown_with_the_keys_that_vllm_fills_in() -> None:
    form = template("{{ tools | tojson }}" + CHATML)
    tool = {"function": {"parameters": {"type": "object"}, "name": "look"}, "type": "function"}
    (rendering,) = form.training_texts(talk(("q", "a")), [tool])
    shown = (
        '[{"type": "function", "function": {"name": "look", "description": null, "parameters": {"type": "object"}}}]'
    )
    assert rendering.text.startswith(shown)
