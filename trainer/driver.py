"""Computes what runs ask for: the next passes of all of them together, and each on its own where that fails.

A run is a generator that yields a `Pass` and gets back its sums. Runs join and leave between passes. What goes wrong in
one run's pass is raised in that run and in no other. Knows nothing about steps, optimizers or jobs' lives.
"""

import contextlib
import contextvars
import logging
from collections.abc import Generator, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import torch

from trainer.data import tokens_of
from trainer.engine import Engine
from trainer.method import Measured, Pass, Sums, Wait

log = logging.getLogger(__name__)

T = TypeVar("T")


class Member:
    """A run under way. `done` says that it ended by itself; what it raised or returned is its own business.

    It is begun where it is made, which may be another thread than the one that computes: a run that has prepared all
    that needs no model yields `None`, and is `prepared` until the thread that has the model proceeds with it. So it is
    when what it has waited for is there.
    """

    def __init__(self, run: Generator[Pass | Wait | None, list[Sums], Any]) -> None:
        self._run = run
        # Log records and whatever else hangs on the context belong to one run although one thread runs all.
        self._context = contextvars.copy_context()
        self.result: Any = None
        self.done = False
        self.wants: Pass | None = None
        self.waits: Future[Any] | None = None
        self.proceed(None)

    @property
    def prepared(self) -> bool:
        """Whether it can be continued at once, without a pass."""
        return not self.done and self.wants is None and (self.waits is None or self.waits.done())

    def proceed(self, sums: list[Sums] | None) -> None:
        """Go on to the next pass."""
        self._advance(lambda: self._run.send(sums))  # type: ignore[arg-type]

    def fail(self, error: Exception) -> None:
        """Raise what went wrong where the run waits for its pass."""
        self._advance(lambda: self._run.throw(error))

    def _advance(self, act: Any) -> None:
        self.wants = self.waits = None
        try:
            found = self._context.run(act)
        except StopIteration as end:
            self.done, self.result = True, end.value
        except BaseException:
            self.done = True
            raise
        else:
            if isinstance(found, Wait):
                self.waits = found.future
            else:
                self.wants = found


def alone(engine: Engine, run: Generator[Pass | Wait | None, list[Sums], T], token_budget: int) -> T:
    """Drive one run to its end; returns what it returns and raises what it raises."""
    member = Member(run)
    while not member.done:
        if member.waits is not None:
            wait([member.waits])
        if member.prepared:
            member.proceed(None)
            continue
        advance(engine, [member], token_budget)
    result: T = member.result
    return result


def advance(engine: Engine, members: Sequence[Member], token_budget: int) -> list[Member]:
    """Compute one pass for as many members as fit, the first of the list in any case; returns those who got theirs.

    The caller rotates its list, so that long rows of one job delay the others but starve nobody.
    """
    wanted_tokens = [(member.wants, tokens_of(member.wants.items)) for member in members if member.wants]
    chosen = choose(wanted_tokens, min(token_budget, engine.worth_sharing))
    served = [members[i] for i in chosen]
    wanted = [member.wants for member in served if member.wants]
    try:
        sums = _together(engine, wanted)
    except Exception as error:
        if len(served) > 1:
            log.warning("a pass of %d jobs failed, each is tried alone: %s", len(served), error)
        for member, each in zip(served, wanted, strict=True):
            _by_itself(engine, member, each)
    else:
        for member, found in zip(served, sums, strict=True):
            member.proceed([found])
    return served


def choose(wanted: Sequence[tuple[Pass, int]], token_budget: int) -> list[int]:
    """Which passes go together: the first, and after it each of its kind (with gradient or without) that still fits."""
    kind, left = wanted[0][0].size is None, token_budget
    chosen: list[int] = []
    for number, (each, tokens) in enumerate(wanted):
        if (each.size is None) is kind and (not chosen or tokens <= left):
            chosen.append(number)
            left -= tokens
    return chosen


def _together(engine: Engine, wanted: Sequence[Pass]) -> list[Sums]:
    before = [each.slot.weights.gradient.clone() for each in wanted if each.size is not None]
    try:
        measured = _compute(engine, wanted)
    except Exception:
        # Half a backward pass may have been added.
        for each, gradient in zip(wanted, before, strict=False):  # none of passes without one
            each.slot.weights.gradient.copy_(gradient)
        raise
    return [each.sums for each in measured]


def _compute(engine: Engine, wanted: Sequence[Pass]) -> list[Measured]:
    trains = wanted[0].size is not None
    with torch.set_grad_enabled(trains), engine.passing([(each.slot, each.rows) for each in wanted]) as scores:
        measured = [each.measure(each.items, score) for each, score in zip(wanted, scores, strict=True)]
        if trains:
            # The gradient of each summand is its own: what is no number in one is none of the others' concern.
            torch.stack([m.loss / each.size for m, each in zip(measured, wanted, strict=True)]).sum().backward()  # type: ignore[operator]
    return measured


def _by_itself(engine: Engine, member: Member, wanted: Pass) -> None:
    try:
        sums = _halved(engine, wanted)
    except Exception as error:
        member.fail(error)
    else:
        member.proceed(sums)


def _halved(engine: Engine, wanted: Pass) -> list[Sums]:
    """The pass, in ever smaller pieces while the memory does not suffice."""
    try:
        return _together(engine, [wanted])
    except torch.OutOfMemoryError:
        if len(wanted.items) == 1:
            raise
    with contextlib.suppress(AssertionError, RuntimeError):
        torch.cuda.empty_cache()
    middle = len(wanted.items) // 2
    log.warning("out of memory at %d tokens: the pass is cut in two", tokens_of(wanted.items))
    halves = [
        Pass(wanted.slot, part, wanted.measure, wanted.size) for part in (wanted.items[:middle], wanted.items[middle:])
    ]
    return [sums for half in halves for sums in _halved(engine, half)]
