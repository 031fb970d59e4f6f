"""A repeated creation makes nothing new: by `Idempotency-Key`, by an SDK's own retries, one by one and all at once."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import openai
import pytest
from openai import OpenAI

from rootstock import keys
from rootstock.db import Database
from rootstock.settings import Settings
from service.app import create_app
from tests.rootstock.conftest import postgres_copy  # noqa: F401 (a fixture)
from tests.service.conftest import Api, chat_rows, served

KEY = {"Idempotency-Key": "one-of-mine"}
ANOTHER = {"Idempotency-Key": "another-of-mine"}


def create_job(api: Api, file_id: str, headers: dict[str, str], **more: Any) -> Any:
    return api.client.fine_tuning.jobs.create(
        model="gpt-4o-mini", training_file=file_id, extra_headers=headers, extra_body=more
    )


def test_a_key_makes_one_job(api: Api):
    file_id = api.upload()
    first = create_job(api, file_id, KEY, metadata={"a": "1", "b": "2"})
    assert create_job(api, file_id, KEY, metadata={"b": "2", "a": "1"}, suffix=None).id == first.id
    assert create_job(api, file_id, ANOTHER, metadata={"a": "1", "b": "2"}).id != first.id
    assert create_job(api, file_id, {}, metadata={"a": "1", "b": "2"}).id != first.id
    assert create_job(api, file_id, {"Idempotency-Key": ""}, metadata={"a": "1", "b": "2"}).id != first.id
    assert len(api.client.fine_tuning.jobs.list().data) == 4


def test_a_key_shows_the_job_as_it_is_now(api: Api):
    file_id = api.upload()
    first = create_job(api, file_id, KEY)
    api.client.fine_tuning.jobs.cancel(first.id)
    api.client.files.delete(file_id)
    again = create_job(api, file_id, KEY)
    assert (again.id, again.status) == (first.id, "cancelled")


def test_another_request_under_the_key_is_refused(api: Api):
    file_id = api.upload()
    create_job(api, file_id, KEY)
    with pytest.raises(openai.BadRequestError) as caught:
        create_job(api, file_id, KEY, suffix="other")
    assert (caught.value.code, caught.value.param) == ("idempotency_key_reused", "Idempotency-Key")
    with pytest.raises(openai.BadRequestError, match="used for a different request"):
        api.client.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune", extra_headers=KEY)
    assert len(api.client.fine_tuning.jobs.list().data) == len(api.client.files.list().data) == 1


def test_a_refused_request_leaves_the_key_free(api: Api):
    with pytest.raises(openai.BadRequestError):
        create_job(api, "file-absent", KEY)
    assert create_job(api, api.upload(), KEY).object == "fine_tuning.job"


def test_projects_do_not_share_keys(api: Api):
    create_job(api, api.upload(), KEY)
    theirs = api.other.files.create(file=("a.jsonl", chat_rows(12)), purpose="fine-tune")
    job = api.other.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=theirs.id, extra_headers=KEY)
    assert [mine.id for mine in api.other.fine_tuning.jobs.list()] == [job.id]


@pytest.mark.parametrize("key", ["x" * 256, "caf\xe9", "a\tb"])
def test_a_key_that_cannot_be_kept_is_a_400(api: Api, key: str):
    body = {"model": "gpt-4o-mini", "training_file": "file-x"}
    answer = api.post("/v1/fine_tuning/jobs", json=body, headers=[("Idempotency-Key", key.encode("latin-1"))])
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "Idempotency-Key"


def upload(api: Api, content: bytes, headers: dict[str, str], **more: Any) -> Any:
    given: dict[str, Any] = {"file": ("train.jsonl", content), "purpose": "fine-tune"}
    return api.client.files.create(**given | more, extra_headers=headers)


def test_a_key_makes_one_file(api: Api):
    first = upload(api, chat_rows(3), KEY)
    assert upload(api, chat_rows(3), KEY) == first
    assert [file.id for file in api.client.files.list()] == [first.id]
    assert list(api.app.state.parts.store.list("files")) == [f"files/{first.id}"]
    assert upload(api, chat_rows(3), ANOTHER).id != first.id
    for other in ({"content": chat_rows(4)}, {"purpose": "batch"}, {"file": ("b.jsonl", chat_rows(3))}):
        with pytest.raises(openai.BadRequestError) as caught:
            upload(api, other.pop("content", chat_rows(3)), KEY, **other)
        assert caught.value.code == "idempotency_key_reused"
    assert len(list(api.app.state.parts.store.list("files"))) == 2


def test_a_deleted_file_does_not_come_back(api: Api):
    first = upload(api, chat_rows(3), KEY)
    api.client.files.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        upload(api, chat_rows(3), KEY)


@pytest.fixture(params=["sqlite", "postgresql"])
def served_client(request: pytest.FixtureRequest, settings: Settings, migrated: Any) -> Iterator[OpenAI]:
    """The API behind a socket, on each database."""
    key, changes = migrated[1], {"redis_url": "redis://127.0.0.1:1/0"}
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("postgres_copy")
        changes["database_url"] = make()
        database = Database(changes["database_url"])
        with database.transaction() as tx:
            key = keys.create(tx, keys.ensure_default_project(tx, "rootstock"), "test")
        database.close()
    app = create_app(settings.with_values(**changes))
    with served(app) as url, OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        yield client


def all_at_once(ask: Callable[[int], Any], count: int = 8) -> list[Any]:
    begin = Barrier(count)

    def one(number: int) -> Any:
        begin.wait(20)
        return ask(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@pytest.mark.integration
def test_simultaneous_creations_make_one_thing(served_client: OpenAI):
    training = served_client.files.create(file=("a.jsonl", chat_rows(12)), purpose="fine-tune")

    def job(suffix: str, headers: dict[str, str]) -> str:
        made = served_client.fine_tuning.jobs.create(
            model="gpt-4o", training_file=training.id, suffix=suffix, extra_headers=headers
        )
        return str(made.id)

    def file() -> str:
        made = served_client.files.create(file=("b.jsonl", chat_rows(12)), purpose="fine-tune", extra_headers=ANOTHER)
        return str(made.id)

    assert len(set(all_at_once(lambda _: job("by-key", KEY)))) == 1
    assert len(set(all_at_once(lambda _: job("by-retry", {"x-stainless-retry-count": "1"})))) == 1
    assert len(set(all_at_once(lambda _: file()))) == 1
    assert len(served_client.fine_tuning.jobs.list().data) == len(served_client.files.list().data) == 2
