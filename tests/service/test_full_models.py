"""Whole models: each on a server of its own, found by what it lists; published, asked, put into batches."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rootstock import jobs, tables
from rootstock.settings import Settings
from service import upstream
from service.reconciler import MAX_REFUSALS, Reconciler
from service.replicas import Upstream
from service.upstream import FullModels
from tests.service.batching import Work, content, line, submit, work
from tests.service.conftest import OTHER_PROJECT, Api
from tests.service.fake_vllm import FakeVllm, by_host, refusal
from tests.service.network import Network

__all__ = ["work"]  # `work` is a fixture

HELLO: Any = [{"role": "user", "content": "Hi"}]
ADAPTER = "lora-whole-model-1"


class Servers(FakeVllm):
    """The server of base and adapters, and others by their host names; one that is gone is away."""

    def __init__(self) -> None:
        super().__init__()
        self.by_host = {"vllm": self, "one": FakeVllm(models=["lora-another-one"]), "two": FakeVllm(models=[ADAPTER])}

    def app(self) -> Any:
        return by_host(self.by_host)


class Answers:
    """Servers that say the same to every question, by their host names."""

    def __init__(self, answers: dict[str, Response]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    def app(self) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            host = Headers(scope=scope)["host"]
            self.asked.append(host)
            await self._answers[host](scope, receive, send)

        return answer


@pytest.fixture
def vllm() -> FakeVllm:
    return Servers()


@pytest.fixture
def engines(vllm: Servers, monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeVllm]:
    monkeypatch.setattr(upstream, "MISSED_SECONDS", 0.0)
    return vllm.by_host


@pytest.fixture
def api(engines: dict[str, FakeVllm], make_api: Callable[..., Api]) -> Api:
    return make_api(full_model_urls="http://one:8002, http://two:8002/v1/")


@pytest.fixture
def whole(api: Api) -> str:
    return registered(api)


def registered(api: Api, project: str = "proj_default") -> str:
    """A ready model that is a whole one."""
    name = api.model("ft:gpt-4o-mini-2024-07-18:rootstock:whole:abcdefgh", ADAPTER, project)
    with api.database.transaction() as tx:
        tx.execute(tables.models.update().where(tables.models.c.id == name).values(kind="full"))
    return name


def ask(api: Api, name: str, **more: Any) -> httpx.Response:
    return api.post("/v1/chat/completions", json={"model": name, "messages": HELLO} | more)


class TestAsking:
    def test_the_server_that_lists_it_answers(self, api: Api, engines: dict[str, FakeVllm], whole: str) -> None:
        answer = api.client.chat.completions.create(model=whole, messages=HELLO, max_tokens=5)
        assert (answer.model, answer.choices[0].message.content) == (whole, "Hello wörld")
        text = api.client.completions.create(model=whole, prompt="Once")
        assert (text.model, text.choices[0].text) == (whole, "Hello wörld")
        assert [body["model"] for body in engines["two"].received] == [ADAPTER, ADAPTER]
        assert engines["one"].received == engines["vllm"].received == []

    def test_it_streams(self, api: Api, engines: dict[str, FakeVllm], whole: str) -> None:
        chunks = list(api.client.chat.completions.create(model=whole, messages=HELLO, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello wörld"
        assert {chunk.model for chunk in chunks} == {whole}
        assert len(engines["two"].received) == 1

    def test_base_and_adapters_go_where_they_always_went(
        self, api: Api, engines: dict[str, FakeVllm], whole: str
    ) -> None:
        adapter = api.model("ft:a:b::adapters1", "adapter-tuned-1")
        for name in ("rootstock-tiny", adapter):
            assert ask(api, name).status_code == 200
        assert [body["model"] for body in engines["vllm"].received] == ["identity-lora", "adapter-tuned-1"]
        assert engines["two"].received == []

    @pytest.mark.parametrize("urls", ["", "http://one:8002", "http://gone:1,http://one:8002"])
    def test_without_a_server_the_error_says_how_to_start_one(
        self, urls: str, engines: dict[str, FakeVllm], make_api: Callable[..., Api]
    ) -> None:
        api = make_api(full_model_urls=urls)
        name = registered(api)
        for stream in (False, True):
            answer = ask(api, name, stream=stream)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["type"]) == (503, "service_unavailable", "server_error")
            assert f"`python -m serving --model {ADAPTER}`" in error["message"]
            assert "ROOTSTOCK_FULL_MODEL_URLS" in error["message"] and name in error["message"]
        assert engines["vllm"].received == []

    def test_it_answers_where_there_is_no_vllm_for_adapters(
        self, engines: dict[str, FakeVllm], make_api: Callable[..., Api]
    ) -> None:
        api = make_api(vllm_url=None, full_model_urls="http://two:8002")
        assert ask(api, registered(api)).status_code == 200

    def test_a_server_that_is_gone_is_looked_for_anew(self, api: Api, engines: dict[str, FakeVllm], whole: str) -> None:
        assert ask(api, whole).status_code == 200
        two = engines.pop("two")
        assert ask(api, whole).status_code == 503  # the connection that failed
        assert "python -m serving" in ask(api, whole).json()["error"]["message"]
        engines["one"].models = [ADAPTER]
        assert ask(api, whole).status_code == 200
        assert (len(two.received), len(engines["one"].received)) == (1, 1)

    def test_a_server_that_has_changed_its_model_is_forgotten(
        self, api: Api, engines: dict[str, FakeVllm], whole: str
    ) -> None:
        assert ask(api, whole).status_code == 200
        engines["two"].models, engines["one"].models = ["lora-another-one"], [ADAPTER]
        engines["two"].refuse = refusal(404, f"The model `{ADAPTER}` does not exist.")
        assert ask(api, whole).status_code == 503
        assert ask(api, whole).status_code == 200
        assert len(engines["one"].received) == 1

    def test_an_unfit_question_is_the_clients_mistake(self, api: Api, engines: dict[str, FakeVllm], whole: str) -> None:
        engines["two"].refuse = refusal(400, "temperature must be non-negative (parameter=temperature, value=-1)")
        answer = ask(api, whole, temperature=1)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")

    def test_another_projects_reads_like_an_unknown_one(self, api: Api, engines: dict[str, FakeVllm]) -> None:
        name = registered(api, OTHER_PROJECT)
        assert ask(api, name).status_code == 404
        assert engines["two"].received == []


class TestFinding:
    @pytest.fixture
    def look(self, network: Network) -> Callable[..., list[bool]]:
        def look(answers: Answers, *asked: str) -> list[bool]:
            async def run() -> list[bool]:
                servers = Upstream(Settings(full_model_urls="http://one,http://two"), network.to(answers))
                found = [await servers.full.engine(name) is not None for name in asked]
                await servers.aclose()
                return found

            return asyncio.run(run())

        return look

    def test_one_look_answers_for_every_model_for_a_while(self, look: Callable[..., list[bool]]) -> None:
        answers = Answers({host: JSONResponse({"data": [{"id": f"lora-of-{host}"}]}) for host in ("one", "two")})
        assert look(answers, "lora-of-one", "lora-of-two", "lora-of-one", "lora-of-none") == [True] * 3 + [False]
        assert sorted(answers.asked) == ["one", "two"]

    @pytest.mark.parametrize(
        "answer",
        [
            PlainTextResponse("oops", status_code=500),
            PlainTextResponse("not JSON"),
            JSONResponse({"data": []}),
            JSONResponse({"no": "data"}),
            JSONResponse([1]),
        ],
        ids=["error", "text", "nothing", "other", "list"],
    )
    def test_a_server_that_makes_no_sense_hides_no_other(
        self, look: Callable[..., list[bool]], answer: Response
    ) -> None:
        assert look(Answers({"one": answer, "two": JSONResponse({"data": [{"id": ADAPTER}]})}), ADAPTER) == [True]

    def test_what_is_wrong_with_us_is_not_hidden(self) -> None:
        class Broken(upstream.Engine):
            async def names(self) -> list[str]:
                raise RuntimeError("a bug")

        with pytest.raises(RuntimeError, match="a bug"):
            asyncio.run(FullModels([Broken("http://x", 1.0)]).engine(ADAPTER))


class TestBatches:
    def test_lines_go_to_its_server(self, api: Api, work: Work, engines: dict[str, FakeVllm], whole: str) -> None:
        batch = submit(api, [line(str(n), model=whole) for n in range(5)])
        work()
        done = api.client.batches.retrieve(batch.id)
        assert (done.status, done.model, len(content(api, done.output_file_id))) == ("completed", whole, 5)
        assert {body["model"] for body in engines["two"].received} == {ADAPTER}
        assert engines["vllm"].received == []

    def test_a_server_that_is_not_there_is_waited_for(
        self, api: Api, work: Work, engines: dict[str, FakeVllm], whole: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engines["two"].models = ["lora-another-one"]
        looks = 0
        look = FullModels._look

        async def counted(self: FullModels) -> None:
            nonlocal looks
            looks += 1
            if looks > 30:  # many more than a line has tries
                engines["two"].models = [ADAPTER]
            await look(self)

        monkeypatch.setattr(FullModels, "_look", counted)
        batch = submit(api, [line("a", model=whole)])
        work()
        done = api.client.batches.retrieve(batch.id)
        assert (done.status, done.request_counts.completed, done.error_file_id) == ("completed", 1, None)

    def test_a_model_deleted_while_it_is_waited_for_is_the_lines_error(
        self, api: Api, work: Work, engines: dict[str, FakeVllm], whole: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        look = FullModels._look

        async def deleting(self: FullModels) -> None:
            with api.database.transaction() as tx:
                tx.execute(tables.models.update().where(tables.models.c.id == whole).values(state="deleted"))
            engines["two"].models = ["lora-another-one"]
            await look(self)

        monkeypatch.setattr(FullModels, "_look", deleting)
        batch = submit(api, [line("a", model=whole)])
        work()
        done = api.client.batches.retrieve(batch.id)
        error = content(api, done.error_file_id)["a"]["response"]
        assert error["status_code"] == 404 and error["body"]["error"]["code"] == "model_not_found"


class TestPublishing:
    def trained(self, api: Api) -> Any:
        """A job that trained a whole model, stored and not yet seen answering."""
        job_id = api.job().id
        with api.database.transaction() as tx:
            job = jobs.find(tx, job_id)
            assert job is not None
            full = {"adapter": {"type": "full", "rank": None, "alpha": None, "rslora": None}}
            change = tables.jobs.update().where(tables.jobs.c.id == job_id)
            tx.execute(change.values(rootstock=(job.rootstock or {}) | full))
        return api.finalize(api.claim())

    def reconcile(self, api: Api, answer: Callable[[httpx.Request], httpx.Response], times: int = 1) -> None:
        client = httpx.Client(transport=httpx.MockTransport(answer))
        reconciler = Reconciler(
            api.database, api.app.state.parts.sweep, api.app.state.parts.store, api.settings, client
        )
        for _ in range(times):
            reconciler.run_once()

    def warnings(self, api: Api, job_id: str) -> list[str]:
        events = api.client.fine_tuning.jobs.list_events(job_id)
        return [event.message for event in events if event.level == "warn"]

    def test_without_a_server_it_succeeds_and_an_event_says_how_to_start_one(self, api: Api) -> None:
        job = self.trained(api)
        asked: list[str] = []

        def others(request: httpx.Request) -> httpx.Response:
            asked.append(f"{request.url.host}{request.url.path}")
            if request.url.host == "one":
                raise httpx.ConnectError("refused")
            return httpx.Response(200, json={"data": [{"id": "lora-another-one"}]})

        self.reconcile(api, others)
        done = api.client.fine_tuning.jobs.retrieve(job.id)
        assert done.status == "succeeded"
        assert self.warnings(api, job.id) == [
            f"Start a server for it: python -m serving --model {job.adapter_id}, and add its address to "
            "ROOTSTOCK_FULL_MODEL_URLS."
        ]
        assert asked == ["one/v1/models", "two/v1/models"]  # the server of adapters is never asked for it
        assert f"--model {job.adapter_id}" in ask(api, done.fine_tuned_model).json()["error"]["message"]

    def test_a_server_that_lists_it_is_asked_before_it_is_published(
        self, api: Api, engines: dict[str, FakeVllm]
    ) -> None:
        job = self.trained(api)
        asked: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(f"{request.url.host}{request.url.path}")
            if request.url.path == "/v1/models":
                return httpx.Response(200, json={"data": [{"id": job.adapter_id}] if request.url.host == "two" else []})
            assert json.loads(request.read())["model"] == job.adapter_id
            return httpx.Response(200, json={"choices": []})

        self.reconcile(api, answer)
        done = api.client.fine_tuning.jobs.retrieve(job.id)
        assert (done.status, self.warnings(api, job.id)) == ("succeeded", [])
        assert asked == ["one/v1/models", "two/v1/models", "two/v1/completions"]
        engines["two"].models = [job.adapter_id]
        assert ask(api, done.fine_tuned_model).status_code == 200

    def test_one_that_its_server_refuses_is_not_published(self, api: Api) -> None:
        job = self.trained(api)

        def answer(request: httpx.Request) -> httpx.Response:
            if request.url.path == "/v1/models":
                return httpx.Response(200, json={"data": [{"id": job.adapter_id}]})
            return httpx.Response(400, json={"error": {"message": "no"}})

        self.reconcile(api, answer, MAX_REFUSALS)
        assert api.client.fine_tuning.jobs.retrieve(job.id).status == "failed"

    def test_it_cannot_be_tuned_further(self, api: Api) -> None:
        job = self.trained(api)
        self.reconcile(api, lambda _: httpx.Response(500))
        name = api.client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
        with pytest.raises(openai.BadRequestError) as caught:
            api.job(model=name)
        assert (caught.value.code, caught.value.param) == ("model_not_available", "model")
        assert "full fine-tune, which cannot be tuned further" in str(caught.value) and str(name) in str(caught.value)
        assert "'rootstock-tiny'" in str(caught.value)


@pytest.mark.parametrize("url", ["one:8002", "ftp://one", "http://", "http:///v1"])
def test_an_address_that_is_none_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(Exception, match="full_model_urls"):
        Settings(full_model_urls=f"http://good:1,{url}")


def test_addresses_are_shown_without_their_passwords() -> None:
    shown = Settings(full_model_urls="http://me:secret1@one:1, https://two:2,http://me:secret2@three").masked()
    assert shown["full_model_urls"] == "http://me:********@one:1, https://two:2,http://me:********@three"
    assert Settings(full_model_urls=" , ").full_model_servers == []
