"""Checked examples -> token ids with a loss mask -> the batches of an epoch, in an order that only the seed decides.

Training sees exactly the tokens that vLLM will build for the same conversation; every mask is proven (see `chat`).
Knows nothing about models, files or stores.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch

from rootstock.datasets import PARAMS, Example
from rootstock.errors import JobFailure
from rootstock.records import FileRole
from trainer.base import Base
from trainer.chat import CannotRender, Rendering

log = logging.getLogger(__name__)

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Row:
    """One training sequence: `learn[i]` says whether the model is taught to produce token `ids[i]`."""

    line: int
    ids: tuple[int, ...]
    learn: tuple[bool, ...]

    @property
    def sequences(self) -> "tuple[Row, ...]":
        """What goes through the model for it."""
        return (self,)


class Item(Protocol):
    """What a method makes of an example: one row, or several that are judged together."""

    @property
    def sequences(self) -> tuple[Row, ...]:
        """What goes through the model for it, in one pass."""


ItemT = TypeVar("ItemT", bound=Item)
ItemT_co = TypeVar("ItemT_co", bound=Item, covariant=True)


def tokens_of(items: Iterable[Item]) -> int:
    """Tokens of one pass over the items, padding excluded."""
    return sum(len(row.ids) for item in items for row in item.sequences)


@dataclass(frozen=True, slots=True)
class Dataset(Generic[ItemT_co]):
    """The items of one file and what had to be done to fit them."""

    rows: tuple[ItemT_co, ...]
    examples: int
    truncated: int = 0  # examples cut at the end to fit the context
    with_control_text: int = 0  # examples whose own text holds special tokens of the base model
    pool: int = 0  # items at the end of which each epoch takes some others
    each: int = 0  # how many of those an epoch takes

    @property
    def epoch_rows(self) -> int:
        """Items of one epoch."""
        return len(self.rows) - self.pool + self.each

    def must_hold_rows(self) -> None:
        """Raise `JobFailure` where there is nothing to train on."""
        if not self.rows:
            text = "The training file holds no example to learn from."
            raise JobFailure("invalid_training_file", text, "training_file")

    @property
    def tokens(self) -> int:
        """Tokens of one epoch, after truncation; of a pool those that an epoch takes on average."""
        own = len(self.rows) - self.pool
        of_pool = tokens_of(self.rows[own:]) * self.each / self.pool if self.pool else 0
        return tokens_of(self.rows[:own]) + round(of_pool)


def encode(examples: Iterable[Example], base: Base, *, max_tokens: int, role: FileRole = "training") -> Dataset[Row]:
    """Tokenize and mask; longer examples lose their end.

    Raises `JobFailure` with the line number for an example that cannot be rendered, whose mask cannot be proven, or
    that has nothing left to learn.
    """
    rows: list[Row] = []
    lines, truncated, control = set[int](), set[int](), set[int]()
    for chunk in _chunks(examples):
        pieces = [(e.line, *piece) for e in chunk for piece in _pieces(e, base, role)]
        lines.update(example.line for example in chunk)
        control.update(example.line for example in chunk if _holds_control_text(example, base))
        for row in _tokenize(pieces, base):
            if len(row.ids) > max_tokens:
                truncated.add(row.line)
            kept = Row(row.line, row.ids[:max_tokens], row.learn[:max_tokens])
            if not any(kept.learn[1:]):
                raise fault(role, row.line, f"nothing is left to learn within {max_tokens} tokens")
            if max(kept.ids) >= base.vocabulary:
                raise fault(role, row.line, f"token {max(kept.ids)} is outside the base model's vocabulary")
            rows.append(kept)
    return Dataset(tuple(rows), len(lines), len(truncated), len(control))


def _chunks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    chunk: list[Example] = []
    for example in examples:
        chunk.append(example)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _pieces(example: Example, base: Base, role: FileRole) -> list[tuple[Rendering, bool]]:
    """The texts of one example, each with whether the tokenizer adds its own opening token (only plain prompts)."""
    if example.messages is None:
        assert example.prompt is not None and example.completion is not None
        prompt, text = example.prompt, example.prompt + example.completion
        return [(Rendering(text, ((len(prompt), len(text)),), len(prompt)), True)]
    if base.template is None:
        raise fault(role, example.line, "the base model has no chat template, so only prompt/completion pairs fit it")
    try:
        return [(text, False) for text in base.template.training_texts(example.messages, example.tools)]
    except CannotRender as error:
        raise fault(role, example.line, str(error)) from error


def _tokenize(pieces: Sequence[tuple[int, Rendering, bool]], base: Base) -> Iterator[Row]:
    for opened in (False, True):
        chosen = [piece for piece in pieces if piece[2] is opened]
        if not chosen:
            continue
        tokenizer = base.tokenizer
        whole = tokenizer([t.text for _, t, _ in chosen], add_special_tokens=opened, return_offsets_mapping=True)
        asked = tokenizer([t.text[: t.prompt_end] for _, t, _ in chosen], add_special_tokens=opened)["input_ids"]
        for i, (line, text, _) in enumerate(chosen):
            ids, prompt = whole["input_ids"][i], asked[i]
            # A token belongs to the span in which it begins, so one that grows across a prompt's end is not taught.
            learn = [any(a <= s < b and e > s for a, b in text.spans) for s, e in whole["offset_mapping"][i]]
            if ids[: len(prompt)] != prompt:
                ids, learn = _cut_at_prompt(tokenizer, ids, learn, prompt, text)
            if opened and base.eos_token_id is not None:
                ids, learn = [*ids, base.eos_token_id], [*learn, True]
            yield Row(line, tuple(ids), tuple(learn))


def _cut_at_prompt(
    tokenizer: Any, ids: list[int], learn: list[bool], prompt: list[int], text: Rendering
) -> tuple[list[int], list[bool]]:
    """Tokens as in use, where the prompt comes alone and the model continues it.

    Text that follows a prompt can melt into its last token ("\\n" and "\\n\\n"): the model must not be taught on a
    prompt that it will never be given.
    """
    rest = tokenizer(text.text[text.prompt_end :], add_special_tokens=False, return_offsets_mapping=True)
    joined = [*prompt, *rest["input_ids"]]
    if tokenizer.decode(joined) != tokenizer.decode(ids):
        # This tokenizer marks the start of a text; the pieces would say something else than the whole.
        return ids, learn
    before = learn[: len(prompt)]  # earlier turns; the tokens up to the seam agree but for the last
    before += [False] * (len(prompt) - len(before))
    before[-1] = False
    starts = [start + text.prompt_end for start, _ in rest["offset_mapping"]]
    return joined, before + [any(a <= start < b for a, b in text.spans) for start in starts]


def _holds_control_text(example: Example, base: Base) -> bool:
    # vLLM's tokenizer reads special tokens out of the user's own text, so training does the same, or it would prepare
    # for other prompts than the model will get. It is more often an accident than meant: the job says so in an event.
    tokens = base.tokenizer.all_special_tokens
    return any(token in text for text in _texts(example) for token in tokens)


def _texts(example: Example) -> Iterator[str]:
    for message in example.messages or ():
        content = message.get("content")
        for part in [content] if isinstance(content, str) else content or ():
            yield part if isinstance(part, str) else str(part.get("text", ""))
    yield example.prompt or ""
    yield example.completion or ""


def fault(role: FileRole, line: int, reason: str) -> JobFailure:
    """What fails a job whose file passed the check and still cannot be learned from at this line."""
    return JobFailure(
        f"invalid_{role}_file",
        f"The job failed due to an invalid {role} file. Example {line}: {reason}.",
        PARAMS[role],
    )


def epoch_order(count: int, seed: int, epoch: int, pool: int = 0, each: int = 0) -> list[int]:
    """The row numbers in the order of one epoch (0-based); a function of its arguments alone, so that a resumed run
    finds its place again.

    Of the last `pool` rows an epoch has `each`, and none a second time before all had their turn.
    """
    own = count - pool
    taken = [*range(own), *(own + row for row in _turns(pool, each, seed, epoch))]
    return [taken[place] for place in _shuffled(len(taken), seed * 1_000_003 + epoch)]


def _turns(pool: int, each: int, seed: int, epoch: int) -> list[int]:
    rounds: dict[int, list[int]] = {}
    turns = []
    for turn in range(epoch * each, (epoch + 1) * each):
        number, place = divmod(turn, pool)
        if number not in rounds:
            rounds[number] = _shuffled(pool, (seed + 1) * 7_368_787 + number)
        turns.append(rounds[number][place])
    return turns


def _shuffled(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed % 2**63)
    return [int(i) for i in torch.randperm(count, generator=generator)]


def micro_batches(items: Sequence[ItemT], token_budget: int) -> list[list[ItemT]]:
    """Split the items of one optimizer step into forward passes of at most `token_budget` tokens, padding included.

    Items of like length go together. One longer than the budget goes alone.
    """
    batches: list[list[ItemT]] = []
    width = 0
    for item in sorted(items, key=_width, reverse=True):
        if not batches or width * (len(batches[-1]) + 1) * len(item.sequences) > token_budget:
            batches.append([])
            width = _width(item)
        batches[-1].append(item)
    return batches


def _width(item: Item) -> int:
    return max(len(row.ids) for row in item.sequences)


def collate(rows: Sequence[Row], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and loss mask, both [rows, longest], padded on the right.

    No attention mask goes with them: attention is causal, so nothing real ever looks at the padding behind it.
    """
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    learn = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        learn[i, : len(row.ids)] = torch.tensor(row.learn)
    return ids.to(device), learn.to(device)
