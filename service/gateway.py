"""A question to a model, whoever asks: its name resolved, its body for vLLM, its answer in OpenAI's shape.

The interactive routes and the batch worker ask through this. Knows no HTTP of ours and no batch.
"""

import contextlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool

from rootstock import addressing, aliases, models
from rootstock.addressing import Meaning
from rootstock.db import Database
from rootstock.errors import ModelNotFound, NotFound, Unavailable
from rootstock.records import Caller, ModelRecord
from rootstock.settings import Settings
from rootstock.telemetry import INFERENCE_TOKENS
from rootstock.usage import Amounts
from service import shapes
from service.meter import Meter, Tally
from service.models import is_hosted
from service.replicas import Replica, Upstream
from service.sampling import Heard, Sampler
from service.upstream import Engine, Stream
from service.wire_inference import ChatRequest, CompletionRequest, Sampling

T = TypeVar("T")

Shape = Callable[[dict[str, Any], str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Kind:
    """An operation of vLLM that we pass on: its path (ours is the same), its body, the shapes of its answers."""

    path: str
    request: type[Sampling]
    whole: Shape
    piece: Shape


CHAT = Kind("/v1/chat/completions", ChatRequest, shapes.chat_completion, shapes.chat_chunk)
COMPLETIONS = Kind("/v1/completions", CompletionRequest, shapes.completion, shapes.completion_chunk)
_PROMPT_TOKENS, _COMPLETION_TOKENS = (INFERENCE_TOKENS.labels(kind=kind) for kind in ("prompt", "completion"))

KINDS = {kind.path: kind for kind in (CHAT, COMPLETIONS)}


@dataclass(frozen=True, slots=True)
class Addressee:
    """Who answers one question, decided once for it: the public name behind the one that was asked for."""

    name: str
    base: str  # that it is, or was made on
    model: ModelRecord | None  # None: the base itself


class CountedStream:
    """A streamed answer that is counted, however it ends, and the name of the `model` that gives it.

    One that is complete is also `heard`, where a watch wants that.
    """

    def __init__(
        self, model: str, stream: Stream, tally: Tally, counted: contextlib.ExitStack, heard: Heard | None = None
    ) -> None:
        self.model = model
        self._heard = heard
        self._stream = stream
        self._tally = tally
        self._counted = counted

    @property
    def usage(self) -> dict[str, int]:
        """The tokens so far."""
        return self._tally.usage

    async def more(self) -> list[dict[str, Any]]:
        """As `Stream.more`. Let each be counted before it is passed on; who asks again has passed all on."""
        try:
            events = await self._stream.more()
        except Exception:
            self._tally.failed = True
            raise
        if not events and self._heard is not None and not self._tally.failed:
            self._heard.end()
        return events

    def count(self, event: dict[str, Any]) -> None:
        """One that came. Raises `LookupError` or `TypeError` for one that is no event of vLLM's."""
        try:
            self._tally.event(event)
        except Exception:
            self._tally.failed = True
            raise
        if self._heard is not None:
            self._heard.event(event)

    def close(self) -> None:
        """Hang up; vLLM then stops generating. What came until now counts."""
        try:
            self._counted.close()
        finally:
            self._stream.close()


class Gateway:
    """The way to vLLM. The public name is looked up for every question, so a deleted model is refused at once.

    Every question to a model that there is counts, those that fail too: in the metrics, and where there is a `meter` in
    the usage of the caller's project. Lines of batches go without one: they count where their results are stored.
    What is answered through a gateway with a `sampler` is there for watches to look at afterwards.
    """

    def __init__(
        self,
        settings: Settings,
        db: Database,
        upstream: Upstream,
        meter: Meter | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self._settings = settings
        self._db = db
        self._upstream = upstream
        self._meter = meter
        self._sampler = sampler

    async def complete(self, kind: Kind, body: Sampling, caller: Caller) -> dict[str, Any]:
        """A whole answer under its model's name. Raises what the client should see."""
        who = await run_in_threadpool(self.addressee, caller, body.model, body.asker)
        return await self.answer(kind, body, caller, who)

    async def answer(self, kind: Kind, body: Sampling, caller: Caller, who: Addressee) -> dict[str, Any]:
        """As `complete`, of somebody who is known already: also a tune that nobody else may call yet."""
        with self._tally(body, who, caller) as tally, contextlib.ExitStack() as held:
            answer = await self._ask(who, body, lambda engine, wish: engine.complete(kind.path, wish), held)
            tally.whole(answer.get("usage"))
            told = kind.whole(answer, who.name)
        if heard := self._listen(who, body, caller):
            heard.whole(told)
        return told

    async def open_stream(self, kind: Kind, body: Sampling, caller: Caller, who: Addressee) -> CountedStream:
        """A streamed answer, once vLLM has accepted the question. Close it in every case."""
        with contextlib.ExitStack() as counted:
            tally = counted.enter_context(self._tally(body, who, caller))
            stream = await self._ask(who, body, lambda engine, wish: engine.open_stream(kind.path, wish), counted)
            return CountedStream(who.name, stream, tally, counted.pop_all(), self._listen(who, body, caller))

    async def alive(self, caller: Caller, name: str) -> bool:
        """Whether the server that answers for this name is there now. Raises `NotFound` for a name that is none."""
        try:
            who = await run_in_threadpool(self.addressee, caller, name)
        except Unavailable:
            return False
        if who.model is not None and who.model.kind == "full":
            return await self._upstream.full.engine(who.model.adapter_id) is not None
        return await self._upstream.alive(who.base)

    def addressee(self, caller: Caller, name: str, user: str | None = None) -> Addressee:
        """Who answers to this name; one user of an alias gets the same answerer each time.

        Raises `NotFound` in the wording of inference, and `ModelHeld`.
        """
        return self.choose(addressing.of_project(self._db, caller.project_id, name), name, user)

    def choose(self, meaning: Meaning, name: str, user: str | None = None) -> Addressee:
        """As `addressee`, given what the name means to who asks."""
        try:
            if not is_hosted(self._settings, name) and meaning.alias is not None:
                name = aliases.choose(*meaning.alias, user or secrets.token_hex(8))
            if is_hosted(self._settings, name):
                return Addressee(name, models.resolve_base(self._settings, name)[1], None)
            found = meaning.model(name)
            return Addressee(name, found.base, found)
        except ModelNotFound:
            raise NotFound(
                f"The model `{name[: addressing.MAX_NAME_CHARS]}` does not exist or you do not have access to it.",
                code="model_not_found",
            ) from None

    async def _ask(
        self,
        who: Addressee,
        body: Sampling,
        call: Callable[[Engine, dict[str, Any]], Awaitable[T]],
        held: contextlib.ExitStack,
    ) -> T:
        """What a server of the model answers, another one where that is away; `held` ends when the answer has."""
        model = who.model
        if model is not None and model.kind == "full":
            engine = await self._own_server(model)
            try:
                return await call(engine, body.upstream(model.adapter_id))
            except Unavailable:
                self._upstream.full.forget()
                raise

        async def asked(replica: Replica) -> T:
            name = model.adapter_id if model else await replica.base_model()
            return await call(replica, body.upstream(name))

        return await self._upstream.fleet(who.base).ask(model.adapter_id if model else None, asked, held)

    async def _own_server(self, model: ModelRecord) -> Engine:
        engine = await self._upstream.full.engine(model.adapter_id)
        if engine is None:
            raise Unavailable(
                f"No server answers for `{model.id}`: it is a full fine-tune and needs one of its own. Start it with "
                f"`python -m serving --model {model.adapter_id}`, and add its address to ROOTSTOCK_FULL_MODEL_URLS."
            )
        return engine

    def _listen(self, who: Addressee, body: Sampling, caller: Caller) -> Heard | None:
        return self._sampler.listen(caller.project_id, who.name, body) if self._sampler is not None else None

    def _tally(self, body: Sampling, who: Addressee, caller: Caller) -> Tally:
        """Counts one question, whoever asks: the one place where tokens are added up."""

        def tell(amounts: Amounts) -> None:
            _PROMPT_TOKENS.inc(amounts.prompt_tokens)
            _COMPLETION_TOKENS.inc(amounts.completion_tokens)
            if self._meter is not None:
                self._meter.add(caller.project_id, who.name, amounts)

        return Tally(tell, answers=body.n or 1)
