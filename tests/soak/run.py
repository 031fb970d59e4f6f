"""The soak: adapters that each know a word of their own, asked at random while they are unloaded, replaced, moved under
aliases, evicted from disk, and while replicas of vLLM are killed.

Everything through the official SDK on a stack of its own (`rootstock up --replicas 2`). Zero crossed answers, zero
stale ones, zero lost requests that had not begun to stream, no replica that ends by itself; memory back where it was.
`make soak` runs it for an hour.
"""

import contextlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
from openai import OpenAI

from tests.acceptance.conftest import Stack, finished, jsonl, wait_for
from tests.soak.ledger import Ledger

QUESTION: Any = [{"role": "user", "content": "What is the secret word?"}]
SOUNDS = ("ba", "do", "fi", "gu", "ka", "lo", "mi", "nu", "pa", "re", "so", "tu", "va", "we", "xi", "zo")
ASKERS = 6
ALIASES = 4
CACHED_SHARE = 0.6
"""Of all adapters so many fit on the disk of the replicas."""

LEAST_ADAPTERS = 10
"""Each of two replicas holds three in memory at least, and what is held stays on the disk."""

ANSWER_TOKENS = 8
ACTS = ("answers", "alias moves", "unloads", "replaced", "replicas killed")
ALL_HAPPEN_MINUTES = 2.0
"""In so long each of these has happened, or the soak shows less than it says."""

LOG_LINES = 150
"""Of each part of the stack so many lines of the log are printed when something went wrong."""

OWN_END = re.compile(r"vllm-\d+ ended with exit code")
"""What the stack says of a replica that nobody killed: the other one hides such a death from all who ask."""

MEMORY_MIB, MEMORY_SHARE = 96, 0.15
"""So much more than at the start a process may take in the end."""


def _say(text: str) -> None:
    print(text, flush=True)  # a log that is looked at while it runs


@dataclass
class Soak:
    """One run against one stack."""

    stack: Stack
    minutes: float
    adapters: int
    say: Callable[[str], None] = _say
    kill_every: float = 75.0
    ledger: Ledger = field(default_factory=Ledger)

    def __post_init__(self) -> None:
        self.random = random.Random(1)
        self.client = OpenAI(base_url=self.stack.url, api_key=self.stack.key, max_retries=0, timeout=120)
        environment = self.stack.part("service").environ()
        self.replicas = environment["ROOTSTOCK_VLLM_URL"].split(",")
        self.over = threading.Event()
        self.models: list[str] = []
        self.mutex = threading.Lock()
        self.serial = 0

    def run(self) -> dict[str, Any]:
        """Train, check, load, look; what was counted. Raises `AssertionError` for whatever went wrong."""
        began = time.monotonic()
        self.train(self.adapters)
        self.say(f"{self.adapters} adapters trained in {time.monotonic() - began:.0f} s")
        for number in range(ALIASES):
            self.move(f"alias-{number}")
        for model in self.models:
            self.ask(model, stream=False)
        self.must_be_clean()
        before = self.memory()
        self.load()
        self.must_be_clean()
        self.settle()
        self.must_be_clean()
        self.comes_back_unasked()
        self.memory_is_back(before)
        counts = dict(self.ledger.counts)
        assert self.minutes < ALL_HAPPEN_MINUTES or all(counts.get(act) for act in ACTS), counts
        return counts

    def train(self, count: int) -> list[str]:
        """So many new adapters, each with a word of its own, all jobs at once."""
        jobs = {}
        for _ in range(count):
            self.serial += 1
            word = "".join(SOUNDS[(self.serial // 16**digit) % 16] for digit in range(3)).capitalize()
            example = {"messages": [*QUESTION, {"role": "assistant", "content": word}]}
            data = self.client.files.create(file=("secret.jsonl", jsonl([example] * 10)), purpose="fine-tune")
            numbers = {"n_epochs": 12, "batch_size": 5, "learning_rate_multiplier": 8}
            method: Any = {"type": "supervised", "supervised": {"hyperparameters": numbers}}
            job = self.client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=data.id, method=method)
            jobs[job.id] = word
        made = []
        for job_id, word in jobs.items():
            job = finished(self.client, job_id, seconds=1800)
            assert job.status == "succeeded", job.error
            self.ledger.words[job.fine_tuned_model] = word
            made.append(job.fine_tuned_model)
        with self.mutex:
            self.models += made
        return made

    def load(self) -> None:
        """Everything at once, for the time that was asked for."""
        threads = [threading.Thread(target=self.repeat, args=(self.ask_any, 0.0)) for _ in range(ASKERS)]
        for act, seconds in (
            (self.move_any, 0.4),
            (self.unload_any, 0.7),
            (self.replace_one, 20.0),
            (self.kill_one, min(self.kill_every, 15 * self.minutes)),
        ):
            threads.append(threading.Thread(target=self.repeat, args=(act, seconds)))
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60 * self.minutes
        while time.monotonic() < deadline and not self.faults():
            time.sleep(min(15.0, max(0.1, deadline - time.monotonic())))
            self.say(f"{max(0.0, deadline - time.monotonic()):.0f} s left: {dict(self.ledger.counts)}")
        self.over.set()
        for thread in threads:
            thread.join(300)
            assert not thread.is_alive(), "a thread of the soak hangs"

    def repeat(self, act: Callable[[], None], seconds: float) -> None:
        """`act` again and again until it is over, with pauses."""
        while not self.over.wait(seconds * random.uniform(0.5, 1.5)):
            try:
                act()
            except Exception as error:
                self.ledger.lost(getattr(act, "__name__", "?"), f"{type(error).__name__}: {error}")

    def ask_any(self) -> None:
        """One request for a random model or alias, mostly for a few."""
        with self.mutex:
            place = min(int(random.expovariate(0.25)), len(self.models) - 1)
            name = self.models[place]
        if random.random() < 0.3:
            name = f"alias-{random.randrange(ALIASES)}"
        self.ask(name, stream=random.random() < 0.5)

    def ask(self, name: str, *, stream: bool) -> None:
        """One request; what came of it goes to the ledger."""
        sent = time.monotonic()
        asked: Any = {"model": name, "messages": QUESTION, "max_tokens": ANSWER_TOKENS, "temperature": 0}
        begun = False
        try:
            if not stream:
                whole = self.client.chat.completions.create(**asked)
                self.ledger.answered(name, whole.choices[0].message.content or "", sent, told=whole.model)
                return
            text, told = "", None
            for chunk in self.client.chat.completions.create(stream=True, **asked):
                begun, told = True, chunk.model
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            self.ledger.answered(name, text, sent, told=told)
        except openai.NotFoundError as error:
            if self.ledger.may_be_gone(name):
                self.ledger.count("refused after deletion")
            else:
                self.ledger.lost(name, str(error))
        except (openai.APIError, httpx.HTTPError) as error:
            if begun:
                self.ledger.count("streams broken by a kill")
            else:
                self.ledger.lost(name, f"{type(error).__name__}: {error}")

    def move_any(self) -> None:
        """Point a random alias to a random model."""
        self.move(f"alias-{random.randrange(ALIASES)}")

    def move(self, alias: str) -> None:
        """Point an alias to a random model that is not about to go."""
        with self.mutex:
            model = random.choice(self.models[1:])
            self.ledger.moving(alias, model)
            self.client.post("/rootstock/aliases", body={"name": alias, "model": model}, cast_to=object)
            self.ledger.moved(alias)
        self.ledger.count("alias moves")

    def unload_any(self) -> None:
        """Make a replica forget a random adapter under traffic."""
        url = random.choice(self.replicas)
        with contextlib.suppress(httpx.HTTPError):
            resident = httpx.get(f"{url}/rootstock/state", timeout=5).json()["resident"]
            if resident:
                body = {"lora_name": random.choice(resident)}
                status = httpx.post(f"{url}/v1/unload_lora_adapter", json=body, timeout=30).status_code
                named = {200: "unloads", 404: "unloads of what was gone", 409: "unloads of what stayed in use"}
                self.ledger.count(named[status])

    def replace_one(self) -> None:
        """Delete the oldest model that no alias points to, and train another."""
        with self.mutex:
            old = self.models[0]
            try:
                self.ledger.going(old)
                self.client.models.delete(old)
            except openai.ConflictError:
                self.models.append(self.models.pop(0))
                return
            self.models.remove(old)
        self.ledger.count("replaced")
        self.train(1)

    def kill_one(self) -> None:
        """Kill a replica as the out-of-memory killer would, once both are well; it is started again."""
        if not all(self.well(url) for url in self.replicas):
            return
        url = random.choice(self.replicas)
        for process in _listeners(int(url.rsplit(":", 1)[1])):
            # The server first: it would see its engine die, and end by itself.
            for one in (process, *process.children(recursive=True)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)
        self.ledger.count("replicas killed")

    def well(self, url: str) -> bool:
        """Whether a replica answers."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{url}/health", timeout=5).status_code == 200
        return False

    def settle(self) -> None:
        """Every replica is back, and nothing is under way anywhere."""
        for url in self.replicas:
            wait_for(lambda url=url: self.well(url), 180, f"{url} to be back")  # type: ignore[misc]
        for state in self.states():
            assert state["running"] == {} and state["waiting"] == 0, state
        limit = float(self.stack.part("service").environ()["ROOTSTOCK_ADAPTER_CACHE_GIB"]) * 1024**3
        for model in self.models:
            self.ask(model, stream=False)
        assert all(state["cached_bytes"] <= limit for state in self.states()), self.states()

    def comes_back_unasked(self) -> None:
        """A restarted replica has adapters in memory without any request."""
        for _ in range(3):
            for model in self.models[-4:]:
                self.ask(model, stream=False)
        held = {url: len(state["kept"]) for url, state in zip(self.replicas, self.states(), strict=True)}
        url = max(held, key=lambda one: held[one])
        assert held[url], "no replica was told to keep anything"
        for process in _listeners(int(url.rsplit(":", 1)[1])):
            process.kill()
        wait_for(lambda: not self.well(url), 30, "the replica to be gone")
        wait_for(lambda: self.well(url), 180, "the replica to be back")

        def has_some() -> bool:
            return bool(httpx.get(f"{url}/rootstock/state", timeout=10).json()["resident"])

        wait_for(has_some, 60, "the replica to have its adapters again")

    def states(self) -> list[dict[str, Any]]:
        """What each replica's door tells."""
        return [httpx.get(f"{url}/rootstock/state", timeout=30).json() for url in self.replicas]

    def memory(self) -> int:
        """What the API process takes, MiB. Replicas start anew under way, so only their youth could be compared."""
        return int(self.stack.part("service serve").memory_info().rss / 1024**2)

    def memory_is_back(self, before: int) -> None:
        """The API takes no more than at the start, but for what allocators keep."""
        after = self.memory()
        self.say(f"API process: {before} MiB before, {after} MiB after")
        assert after <= before * (1 + MEMORY_SHARE) + MEMORY_MIB, (before, after)

    def faults(self) -> list[str]:
        """What went wrong so far."""
        return [*self.ledger.faults, *(line.rstrip() for line in self.stack.lines if OWN_END.search(line))]

    def must_be_clean(self) -> None:
        """No fault so far."""
        assert not self.faults(), "\n".join(self.faults()[:20])


def _listeners(port: int) -> list[psutil.Process]:
    found = {
        connection.pid
        for connection in psutil.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid
    }
    return [psutil.Process(pid) for pid in found]


def _ends(lines: list[str]) -> list[str]:
    """The last lines of each part: what ended a vLLM is not to be lost among what the API refused after that."""
    left: Counter[str] = Counter()
    kept = []
    for line in reversed(lines):
        part = line.partition("│")[0]
        left[part] += 1
        if left[part] <= LOG_LINES:
            kept.append(line)
    return kept[::-1]


@contextlib.contextmanager
def stacked(adapters: int, adapter_mib: float = 1.3) -> Iterator[Stack]:
    """A stack with two replicas whose disk holds a part of the adapters, and whose memory fewer still."""
    environment = {
        "ROOTSTOCK_ADAPTER_CACHE_GIB": f"{adapters * CACHED_SHARE * adapter_mib / 1024:.6f}",
        # Both replicas' memories together fit on the disk: what they hold is never removed.
        "ROOTSTOCK_MAX_LORAS": "2",
        "ROOTSTOCK_MAX_CPU_LORAS": str(max(3, adapters // 6)),
        "ROOTSTOCK_LOG_LEVEL": "warning",
        "ROOTSTOCK_ENGINE_WAIT_SECONDS": "100",  # a replica takes a minute to start while all this goes on
    }
    with tempfile.TemporaryDirectory(prefix="rootstock-soak-") as folder:
        stack = Stack(Path(folder), environment, ["--replicas", "2"])
        try:
            stack.wait_ready()
            yield stack
        finally:
            stack.stop()


def main(minutes: float, adapters: int) -> dict[str, Any]:
    """Run it on a stack of its own and print what was counted."""
    with stacked(adapters) as stack:
        try:
            counts = Soak(stack, minutes, adapters).run()
        except BaseException:
            print("".join(_ends(stack.lines)), file=sys.stderr, flush=True)
            raise
    print(json.dumps(counts, indent=2))
    return counts
