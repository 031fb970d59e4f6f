"""What was asked, what was true meanwhile, and whether each answer fits it. Pure bookkeeping; knows no HTTP.

An alias may have pointed to several models while a request was under way; each of them may answer. One that it had
left before the request was sent may not: that answer is stale. A word of any other model is a crossed answer.
"""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Move:
    """An alias was told to point to a model; until `ended` it may or may not have done so."""

    model: str
    began: float
    ended: float = float("inf")


@dataclass
class Ledger:
    """Threads may share it. Times are those of one monotonic clock."""

    words: dict[str, str] = field(default_factory=dict)
    """Model -> the word that only it was trained to answer."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    _gone: dict[str, float] = field(default_factory=dict)  # model -> when its deletion began
    _targets: dict[str, list[Move]] = field(default_factory=dict)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def moving(self, alias: str, model: str) -> None:
        """A move of the alias to the model is about to be asked for: it may answer from now on."""
        with self._mutex:
            self._targets.setdefault(alias, []).append(Move(model, time.monotonic()))

    def moved(self, alias: str) -> None:
        """The last move was confirmed: whatever the alias pointed to before may not answer new requests."""
        with self._mutex:
            self._targets[alias][-1].ended = time.monotonic()

    def going(self, model: str) -> None:
        """The model is about to be deleted."""
        with self._mutex:
            self._gone[model] = time.monotonic()

    def may_be_gone(self, model: str) -> bool:
        """Whether a refusal of the model is right by now."""
        return model in self._gone

    def acceptable(self, asked: str, sent: float, answered: float) -> set[str]:
        """The models that may answer a request for a model or an alias, sent and answered at these times."""
        with self._mutex:
            moves = self._targets.get(asked)
            if moves is None:
                return {asked}
            allowed = set()
            for number, move in enumerate(moves):
                left = moves[number + 1].ended if number + 1 < len(moves) else float("inf")
                if move.began <= answered and sent <= left:
                    allowed.add(move.model)
            return allowed

    def answered(self, asked: str, text: str, sent: float, *, told: str | None = None) -> None:
        """An answer came; `told` is the model that it says it is from."""
        now = time.monotonic()
        allowed = self.acceptable(asked, sent, now)
        with self._mutex:
            self.counts["answers"] += 1
            right = {self.words[model] for model in allowed}
            if not any(text.strip().startswith(word) for word in right):
                others = [model for model, word in self.words.items() if text.strip().startswith(word)]
                kind = "stale" if others and asked in self._targets else "crossed" if others else "wrong"
                self.counts[kind] += 1
                self.faults.append(f"{kind}: {asked} answered {text!r}, expected one of {sorted(right)}")
            elif told is not None and told not in allowed:
                self.counts["misnamed"] += 1
                self.faults.append(f"misnamed: {asked} says it is {told}, not one of {sorted(allowed)}")

    def lost(self, asked: str, reason: str) -> None:
        """A request that had not begun to be answered was not answered."""
        with self._mutex:
            self.counts["lost"] += 1
            self.faults.append(f"lost: {asked}: {reason}")

    def count(self, what: str) -> None:
        """Something else happened."""
        with self._mutex:
            self.counts[what] += 1
