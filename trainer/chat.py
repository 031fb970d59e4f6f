"""Conversations as text, byte for byte the text that vLLM builds from the same request, and what of it to learn.

A span is where the assistant speaks, from behind the prompt to its end-of-turn token. Each one is proven or the example
is refused: what is guessed wrong here trains the wrong tokens, and nobody would notice. Knows nothing about token ids,
tensors or files.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers.utils import chat_template_utils

_render: Any = chat_template_utils.render_jinja_template  # returns more than its annotation says

Message = dict[str, Any]

GENERATION_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


class CannotRender(Exception):
    """The template refuses the conversation, or no mask can be proven for it; the text says why."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """One training sequence as text: `spans` are the character ranges to learn, in order.

    `prompt_end` is where the last span's prompt ends: `text[:prompt_end]` is what vLLM would be asked to continue.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    prompt_end: int


class ChatTemplate:
    """A base model's chat template, used as vLLM uses it.

    `end_tokens` are the strings at which vLLM stops: an assistant turn must end with one of them, or the tuned model
    would never stop talking.
    """

    def __init__(self, source: str, special_tokens: dict[str, Any], end_tokens: Sequence[str]) -> None:
        self.source = source
        self.special_tokens = special_tokens
        self.end_tokens = tuple(end_tokens)
        self.has_markers = GENERATION_MARKER.search(source) is not None
        self.takes_parts = self._takes_parts()

    def render(
        self, messages: Sequence[Message], tools: list[Any] | None = None, *, prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text of messages that `as_served` returned, and the template's own marks of what the assistant wrote.

        `prompt` adds the header behind which the model continues. Raises `CannotRender` with the template's reason.
        """
        try:
            texts, marks = _render(
                conversations=[list(messages)],
                tools=tools,
                chat_template=self.source,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=self.has_markers,
                **self.special_tokens,
            )
        except Exception as error:  # a template may fail in any way: it is a program that came with the model
            raise CannotRender(f"the base model's chat template refuses it: {error}") from error
        return texts[0], marks[0] if marks else []

    def as_served(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as vLLM hands them to the template: content as one string or as parts, arguments as objects."""
        served = [self._served(message) for message in messages]
        if any(m["role"] == "developer" for m in served) and not re.search(r"""["']developer["']""", self.source):
            served = _developer_to_system(served)
        return served

    def _served(self, message: Message) -> Message:
        content = message.get("content")
        parts = [] if content is None else [content] if isinstance(content, str) else list(content)
        texts = [part if isinstance(part, str) else part["text"] for part in parts]
        role = message["role"]
        served: Message = {"role": role}
        if self.takes_parts and role != "tool":
            served["content"] = [{"type": "text", "text": text} for text in texts]
        else:
            served["content"] = "\n".join(texts)
        if role == "assistant" and message.get("tool_calls"):
            served["tool_calls"] = [_call_with_object(call) for call in message["tool_calls"]]
        for key in ("tool_call_id", "name"):
            if isinstance(message.get(key), str):
                served[key] = message[key]
        if role == "developer":
            served["tools"] = None
        return served

    def _takes_parts(self) -> bool:
        # vLLM reads the template's syntax tree for this; trying it out gives the same answer and needs no parser.
        parts = [{"type": "text", "text": "first"}, {"type": "text", "text": "second"}]
        try:
            text, _ = self.render([{"role": "user", "content": parts}])
        except CannotRender:
            return False
        return "first" in text and "second" in text and "type" not in text

    def prompt_text(self, messages: Sequence[Message], tools: list[Any] | None = None) -> str:
        """The text that vLLM would build of these messages, behind which the model answers. Raises `CannotRender`."""
        text, _ = self.render(self.as_served(messages), _tools_as_served(tools), prompt=True)
        return text

    def training_texts(self, messages: Sequence[Message], tools: list[Any] | None = None) -> list[Rendering]:
        """The sequences that teach each assistant message of weight 1, mostly one for the whole conversation.

        A template that rewrites earlier turns once the conversation goes on (Qwen3 drops their thoughts) gives one
        sequence per learned message instead, each exactly what is seen when that message is the next one to write.
        Raises `CannotRender` when a mask cannot be proven either way.
        """
        shown = _tools_as_served(tools)
        learned = [i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight", 1) != 0]
        if learned[:1] == [0] and len(learned) > 1:
            # A greeting in front of any question has no prompt, vLLM cannot be asked for it: it is context only.
            learned = learned[1:]
        if not learned:
            raise CannotRender("no assistant message carries weight 1")
        try:
            return [self._prove(messages, learned, shown)]
        except CannotRender:
            if len(learned) == 1:
                raise
            return [self._prove(messages, [turn], shown) for turn in learned]

    def _prove(self, messages: Sequence[Message], learned: list[int], tools: list[Any] | None) -> Rendering:
        # What follows the last learned message cannot influence it, so it is left out.
        messages = messages[: learned[-1] + 1]
        text, marks = self.render(self.as_served(messages), tools)
        speakers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        marked = dict(zip(speakers, marks, strict=True)) if len(marks) == len(speakers) else {}
        spans = []
        for turn in learned:
            asked, _ = self.render(self.as_served(messages[:turn]), tools, prompt=True)
            if not text.startswith(asked):
                if len(learned) == 1:
                    return self._behind(asked, messages, tools)
                raise CannotRender("the base model's chat template rewrites earlier messages")
            start, end = marked.get(turn, (0, 0))
            stop = self._end_of_turn(text, max(start, len(asked)), end)
            if stop is None:  # no marker, or one that does not enclose a turn
                answered, _ = self.render(self.as_served(messages[: turn + 1]), tools)
                if not text.startswith(answered):
                    raise CannotRender("the base model's chat template rewrites earlier messages")
                start, stop = len(asked), self._end_of_turn(text, len(asked), len(answered))
            if stop is None:
                raise CannotRender("the base model's chat template ends an answer with no token that stops vLLM")
            span = max(start, len(asked)), stop
            _must_say(text[slice(*span)], messages[turn])
            spans.append(span)
        return Rendering(text, tuple(spans), len(asked))

    def _behind(self, asked: str, messages: Sequence[Message], tools: list[Any] | None) -> Rendering:
        """The prompt as it is asked with, and behind it what the template makes of the last message.

        For templates that show what came before differently once an answer follows (Mistral: its system message
        stands in the last question, while that is the last message). What is before the answer must end as the prompt
        does, from the last question on. Raises `CannotRender` where it does not.
        """
        *before, answer = messages
        holder = "\N{WHITE MEDIUM STAR}".join("answer")  # no conversation holds it
        other_prompt = CannotRender("the base model's chat template shows another prompt in training than in use")
        held, _ = self.render(self.as_served([*before, {"role": "assistant", "content": holder}]), tools)
        text, _ = self.render(self.as_served(messages), tools)
        question = _plain(before[-1].get("content") or "").strip()
        seam = asked[asked.rfind(question) :] if question in asked else asked
        shown = held.partition(holder)[0]
        place = shown.rfind(seam) + len(seam)
        if holder not in held or seam not in shown or not text.startswith(shown) or shown[place:].strip():
            raise other_prompt
        whole = asked + text[place:]
        stop = self._end_of_turn(whole, len(asked), len(whole))
        if stop is None:
            raise CannotRender("the base model's chat template ends an answer with no token that stops vLLM")
        _must_say(whole[len(asked) : stop], answer)
        return Rendering(whole, ((len(asked), stop),), len(asked))

    def _end_of_turn(self, text: str, start: int, end: int) -> int | None:
        """Where a turn really ends: behind its stop token, which a marker may leave out and a template pad."""
        if end <= start:
            return None
        ends = [text.rfind(token, start, end) + len(token) for token in self.end_tokens if token in text[start:end]]
        if ends and not text[max(ends) : end].strip():
            return self._first_of_run(text, start, max(ends))
        return next((end + len(token) for token in self.end_tokens if text.startswith(token, end)), None)

    def _first_of_run(self, text: str, start: int, stop: int) -> int:
        """Where vLLM stops already if a turn ends with several kinds of end tokens, as Phi-3's and the text's."""
        last = next(token for token in self.end_tokens if text.endswith(token, start, stop))
        before = text[start : stop - len(last)].rstrip()
        for token in self.end_tokens:
            if token != last and before.endswith(token):
                return self._first_of_run(text, start, start + len(before))
        return stop


def _must_say(learned: str, message: Message) -> None:
    """Raise `CannotRender` unless what is learned of a message holds its text and its calls: templates drop some."""
    content = message.get("content") or ""
    for said in [content] if isinstance(content, str) else [part["text"] for part in content]:
        # What stands before it are thoughts, which templates put in order.
        if said.rpartition("</think>")[2].strip() in learned:
            continue
        raise CannotRender("the base model's chat template leaves out what an assistant message says")
    for call in message.get("tool_calls") or ():
        if call["function"]["name"] not in learned:
            raise CannotRender("the base model's chat template leaves out tool calls, so they cannot be learned")


def _developer_to_system(messages: list[Message]) -> list[Message]:
    """vLLM's rule for templates that do not know the role: one system message at the front."""
    renamed = [{"role": "system", "content": m["content"]} if m["role"] == "developer" else m for m in messages]
    systems = [m for m in renamed if m["role"] == "system"]
    if len(systems) == 1 and renamed[0] is systems[0]:
        return renamed
    texts = [_plain(m["content"]) for m in systems]
    merged = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [merged, *(m for m in renamed if m["role"] != "system")]


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _call_with_object(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments else {}
        except ValueError:
            arguments = {}
    function["arguments"] = arguments if isinstance(arguments, dict) else {}
    return {**call, "function": function}


def _tools_as_served(tools: list[Any] | None) -> list[Any] | None:
    """vLLM fills in what a client left out and fixes the order of keys, which templates print as JSON."""
    if not tools:
        return None
    shown = []
    for tool in tools:
        given = tool.get("function", tool)
        function = {key: given.get(key) for key in ("name", "description", "parameters")}
        if given.get("strict") is not None:
            function["strict"] = given["strict"]
        shown.append({"type": "function", "function": function})
    return shown
