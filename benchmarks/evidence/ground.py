"""What every measurement stands on: the small base, its engine, tunes trained together, answers and scores.

Training is the product's own loop, several tunes in one pass; answers are the likeliest ones, of the same process.
Knows no figure.
"""

import json
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.evidence.tickets import Line
from rootstock.datasets import Example, read_examples
from rootstock.release import baseline, held_out, metrics, suites
from rootstock.release import replay as general
from rootstock.release.held_out import Question
from rootstock.release.metrics import Metric
from rootstock.release.verdict import FEW_SHOT, FLOOR, ZERO_SHOT, Suite, Verdict, decide
from trainer import data, loop, recipe, replay
from trainer.base import Base, load_base
from trainer.driver import Member, advance
from trainer.engine import Engine, PackedEngine
from trainer.loop import Checkpoint, Progress, Result
from trainer.loop import Verdict as Go
from trainer.sampling import InProcess
from trainer.task import task

TOKEN_BUDGET = 8192
TOGETHER = 10
"""Tunes of one pass, at most."""

SHOTS = 2
"""More of these tickets are longer than what this base was trained to read at a time (512 tokens)."""
LIMIT = 0.05
"""What a project's policy allows a suite to lose unless it says otherwise."""


@dataclass(frozen=True)
class Wish:
    """One tune: its data and what is asked for."""

    lines: Sequence[Line]
    validation: Sequence[Line] = ()
    seed: int = 0
    share: float = 0.0  # of general examples
    asked: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tune:
    """A finished one."""

    wish: Wish
    result: Result
    adapter: Path


class Quiet:
    """Hears of a run and says nothing; keeps the adapters of all epochs."""

    def __init__(self) -> None:
        self.saved: list[Checkpoint] = []

    def alive(self) -> None:
        """Nobody asks."""

    def step(self, progress: Progress) -> Go:
        """Go on."""
        return Go.GO

    def checkpoint(self, saved: Checkpoint) -> None:
        """Remember it."""
        self.saved.append(saved)

    def handed_back(self, state: Path, step: int) -> None:
        """Never happens: nobody asks the run to leave."""

    def warn(self, key: str, text: str) -> None:
        """Nobody is there to be warned."""


class Ground:
    """The base with one engine; `folder` takes what is trained."""

    def __init__(self, folder: Path, model: str, threads: int) -> None:
        self.base: Base = load_base(model, name="rootstock-tiny", device="cpu", threads=threads)
        self._folder = folder
        self._count = 0

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """The engine of adapters, as long as the block lasts."""
        with PackedEngine(self.base) as engine:
            yield engine

    def train(self, engine: Engine, wishes: Sequence[Wish]) -> list[Tune]:
        """The tunes, trained in one pass where they fit."""
        done: list[Tune] = []
        for first in range(0, len(wishes), TOGETHER):
            group = wishes[first : first + TOGETHER]
            folders = [self.new_folder() for _ in group]
            members = [Member(self._run(engine, *pair)) for pair in zip(group, folders, strict=True)]
            while any(not member.done for member in members):
                for member in members:
                    if member.prepared:
                        member.proceed(None)
                asking = [member for member in members if member.wants is not None]
                if asking:
                    advance(engine, asking, TOKEN_BUDGET)
                members.sort(key=lambda member: member.done)
                members = [*members[1:], members[0]] if not members[0].done else members
            by_folder = {member.result.final.adapter.parent.parent: member.result for member in members}
            for wish, folder in zip(group, folders, strict=True):
                result = by_folder[folder]
                done.append(Tune(wish, result, result.final.adapter))
        return done

    def _run(self, engine: Engine, wish: Wish, folder: Path) -> Any:
        own = self.encode(wish.lines)
        validation = self.encode(wish.validation, "validation") if wish.validation else None
        facts = recipe.Facts(
            own.examples,
            self.base.hidden_size,
            self.base.context_tokens,
            self.base.dtype,
            max_rank=64,
            validation_examples=len(wish.validation),
        )
        chosen = recipe.resolve(wish.asked, facts, seed=wish.seed)
        mixed = own
        if wish.share:
            most, wanted = self.base.context_tokens, general.count(own.examples, wish.share)
            drawn = replay.draw(
                list(general.lines()),
                self.base,
                wanted=wanted,
                epochs=chosen.n_epochs,
                seed=wish.seed,
                max_tokens=most,
            )
            mixed = replay.mix(own, drawn)
        aids = None
        if chosen.stopping_metric == "task":
            assert validation is not None
            aids = task(own, validation, self.base, wish.seed, InProcess(self.base, engine))
        options: dict[str, Any] = {"token_budget": TOKEN_BUDGET, "aids": aids}
        return loop.run(chosen, engine, mixed, validation, folder, Quiet(), **options)

    def encode(self, lines: Sequence[Line], role: Any = "training") -> data.Dataset[data.Row]:
        """The lines as the trainer reads them."""
        return data.encode(examples(lines), self.base, max_tokens=self.base.context_tokens, role=role)

    def answers(
        self, engine: Engine, questions: Sequence[Question], adapter: Path | None, max_tokens: int
    ) -> list[str]:
        """The likeliest answers, of the tune or of the base as it is."""
        prompts = self.prompts(questions)
        slot = engine.open(self._shape(adapter), adapter)
        try:
            drawn = InProcess(self.base, engine).sample(
                slot, prompts, count=1, max_tokens=max_tokens, seed=0, greedy=True
            )
        finally:
            engine.close(slot)
        return [one.text.strip() for (one,) in drawn]

    def prompts(self, questions: Sequence[Question]) -> list[tuple[int, ...]]:
        """The tokens behind which the model answers."""
        assert self.base.template is not None
        texts = [self.base.template.prompt_text(list(one.messages or ()), None) for one in questions]
        return [tuple(self.base.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]

    def new_folder(self) -> Path:
        """One that nothing lies in."""
        self._count += 1
        return self._folder / f"tune-{self._count}"

    def _shape(self, adapter: Path | None) -> Any:
        facts = recipe.Facts(1, self.base.hidden_size, self.base.context_tokens, self.base.dtype, max_rank=64)
        if adapter is None:
            return recipe.resolve({}, facts, seed=0)
        shape = json.loads((adapter / "adapter_config.json").read_text())
        start = recipe.Start("lora-here", shape["r"], shape["lora_alpha"], bool(shape.get("use_rslora")))
        return recipe.resolve({}, recipe.Facts(**{**_fields(facts), "start": start}), seed=0)

    def suites(self, engine: Engine, adapter: Path | None, only: Sequence[str] = ()) -> dict[str, list[float]]:
        """Suite -> the score of each question."""
        chosen = [suite for suite in suites.built_in() if not only or suite.name in only]
        asked = [(suite, one) for suite in chosen for one in suite.questions]
        questions = [Question(n, one.answer, one.messages) for n, (_, one) in enumerate(asked, 1)]
        told = self.answers(engine, questions, adapter, 2 * suites.MAX_ANSWER_TOKENS)
        scores: dict[str, list[float]] = {suite.name: [] for suite in chosen}
        for (suite, one), text in zip(asked, told, strict=True):
            scores[suite.name].append(suites.scores(one, text))
        return scores


@dataclass(frozen=True)
class Held:
    """Held-out questions of one data set, how they are scored, and what needs no tune: prompts, one constant answer."""

    questions: tuple[Question, ...]
    metric: Metric
    max_tokens: int
    constant: str

    @classmethod
    def of(cls, ground: Ground, training: Sequence[Line], held: Sequence[Line]) -> "Held":
        """As the gate plans it."""
        asked = tuple(one for one in map(held_out.question, examples(held)) if one is not None)
        right = [one.reference for one in map(held_out.question, examples(training)) if one is not None]
        metric = metrics.pick([*right, *(one.reference for one in asked)])
        longest = max(len(ground.base.tokenizer(one.reference)["input_ids"]) for one in asked)
        return cls(asked, metric, longest + 8, baseline.constant(metric, right))

    def scores(self, answers: Sequence[str]) -> list[float]:
        """Of each answer, from 0 to 1."""
        return [self.metric.score(text, one.reference) for text, one in zip(answers, self.questions, strict=True)]

    def score(self, answers: Sequence[str]) -> float:
        """The mean."""
        return statistics.fmean(self.scores(answers))

    def adherence(self, answers: Sequence[str]) -> float:
        """The share of answers that are JSON of the shape that the right ones have."""
        return statistics.fmean(bool(self.metric.valid(text)) for text in answers)

    def few_shot(self, training: Sequence[Line], seed: int) -> list[Question]:
        """The questions behind some examples."""
        shots = [one for one in map(held_out.question, examples(training)) if one is not None]
        chosen = random.Random(f"{seed}/shots").sample(shots, SHOTS)
        return [held_out.prompted(one, chosen) for one in self.questions]


def verdict(
    held: Held,
    tuned: Sequence[str],
    zero_shot: Sequence[str],
    few_shot: Sequence[str],
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    seed: int,
) -> Verdict:
    """What the gate says of a tune, by these answers."""
    baselines = {
        ZERO_SHOT: held.scores(zero_shot),
        FEW_SHOT: held.scores(few_shot),
        "constant": held.scores([held.constant] * len(held.questions)),
    }
    asked = [Suite(name, scores, after.get(name)) for name, scores in before.items()]
    return decide(held.scores(tuned), baselines, asked, forgetting_limit=LIMIT, seed=seed)


def above_floor(before: Mapping[str, Sequence[float]]) -> list[str]:
    """The suites that the base itself can do, which are asked again."""
    return [name for name, scores in before.items() if sum(scores) >= FLOOR * len(scores)]


def examples(lines: Sequence[Line]) -> list[Example]:
    """As the trainer reads a file."""
    return list(read_examples(json.dumps(line).encode() for line in lines))


class Clock:
    """CPU seconds of this process since it was made."""

    def __init__(self) -> None:
        self._began = time.process_time()

    @property
    def seconds(self) -> float:
        """Until now."""
        return time.process_time() - self._began


def _fields(facts: recipe.Facts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in facts.__slots__}
