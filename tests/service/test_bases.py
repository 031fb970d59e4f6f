"""Several base models in one deployment: jobs, names and answers go to the one that is meant."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from rootstock.settings import Settings
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm, by_host

HELLO: Any = [{"role": "user", "content": "Hi"}]


class Two(FakeVllm):
    """A vLLM for each base, by host name."""

    def __init__(self) -> None:
        super().__init__()
        self.large = FakeVllm(models=["large"])

    def app(self) -> Any:
        return by_host({"vllm": self, "vllm-large": self.large})


@pytest.fixture
def vllm() -> Two:
    return Two()


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    more = {"large": "org/Large-8B", "unserved": "org/Other"}
    return make_api(more_bases=more, more_vllm_urls={"large": "http://vllm-large:8001"})


def ask(api: Api, model: str) -> httpx.Response:
    return api.post("/v1/chat/completions", json={"model": model, "messages": HELLO})


def test_every_base_is_listed_and_answers_by_its_own_server(api: Api, vllm: Two):
    names = [model.id for model in api.client.models.list()]
    assert names[:3] == ["rootstock-tiny", "large", "unserved"]
    assert ask(api, "large").json()["model"] == "large"
    assert ask(api, "gpt-4o-mini").status_code == 200
    assert [body["model"] for body in vllm.large.received] == ["large"]
    assert [body["model"] for body in vllm.received] == ["identity-lora"]
    refused = ask(api, "unserved")
    assert refused.status_code == 503 and "no vLLM is configured for its base" in refused.json()["error"]["message"]


@pytest.mark.parametrize("asked", ["large", "org/Large-8B"])
def test_a_job_names_its_base_and_goes_to_its_trainers(api: Api, asked: str):
    job = api.job(model=asked)
    assert job.model == "large"
    with api.database.read() as tx:
        from rootstock import jobs

        found = jobs.find(tx, job.id)
    assert found is not None and found.base == "large"


def test_a_tuned_model_answers_on_the_base_it_was_made_on(api: Api, vllm: Two):
    from rootstock import tables

    name = api.model("ft:large:org::abcdefgh", "lora-large-000001")
    with api.database.transaction() as tx:
        tx.execute(tables.models.update().where(tables.models.c.id == name).values(base="large"))
        tx.execute(tables.jobs.update().values(model="large"))
    assert ask(api, name).json()["model"] == name
    assert [body["model"] for body in vllm.large.received] == ["lora-large-000001"]
    assert api.job(model=name).rootstock["start_model"] == name
    with api.database.read() as tx:
        from rootstock import jobs

        (job, *_) = jobs.list_page(tx, "proj_default", limit=1).data
    assert job.base == "large"


def test_one_base_alone_is_what_a_process_of_it_reads(settings: Settings):
    both = settings.with_values(
        more_bases={"large": "org/Large-8B"}, more_vllm_urls={"large": "http://x"}, vllm_url="http://y"
    )
    alone = both.for_base("large")
    assert (alone.base_name, alone.base_model, alone.vllm_url) == ("large", "org/Large-8B", "http://x")
    assert alone.bases == {"large": "org/Large-8B"} and alone.model_aliases == {}
    assert both.for_base(both.base_name).bases == {both.base_name: both.base_model}
    with pytest.raises(KeyError):
        both.for_base("none")


@pytest.mark.parametrize(
    "values",
    [
        {"more_bases": {"gpt-4o": "x"}},
        {"more_bases": {"a/b": "x"}},
        {"more_bases": {"rootstock-tiny": "x"}},
        {"more_vllm_urls": {"large": "http://x"}},
    ],
)
def test_names_that_mean_something_else_are_refused(values: dict[str, Any]):
    with pytest.raises(ValueError, match="more_"):
        Settings(**values)
