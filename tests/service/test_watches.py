"""Watches over HTTP: who may make them, what they see of live traffic, their alarms, and when they end."""

import json
from typing import Any

import openai
import pytest

from rootstock import keys, watch_counts
from rootstock.drift.sample import Sample
from rootstock.errors import Unavailable
from rootstock.profiling import Profiler
from rootstock.watch_counts import Call
from service import sampling, watch_page
from service.sampling import Sampler
from tests.rootstock.drift.traffic import drawn
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm

PATH = "/v1/rootstock/watches"


def training(sort: str = "tickets", count: int = 200) -> bytes:
    rows = []
    for call in drawn(sort, 1, count):
        talk = [("system", call.system), ("user", call.prompt), ("assistant", call.answer)]
        rows.append(json.dumps({"messages": [{"role": role, "content": text} for role, text in talk if text]}))
    return "\n".join(rows).encode()


def tuned(api: Api, data: bytes | None = None) -> Any:
    """A job whose model is ready, trained on tickets."""
    file = api.client.files.create(file=("train.jsonl", data or training()), purpose="fine-tune")
    with api.database.transaction() as tx:
        tx.exec_driver_sql("UPDATE jobs SET status = 'cancelled' WHERE status = 'queued'")
    return api.succeed(training_file=file.id)


def create(api: Api, model: str, **more: Any) -> dict[str, Any]:
    """By the official SDK, as users do."""
    made: Any = api.client.post("/rootstock/watches", cast_to=object, body={"model": model} | more)
    return dict(made)


def look(api: Api) -> None:
    """What the background threads do every second."""
    parts = api.app.state.parts
    profiler = Profiler(parts.db, parts.store, parts.settings)
    while profiler.run_once():
        pass
    parts.sampler.run_once()


def ask(api: Api, vllm: FakeVllm, model: str, calls: list[Sample], **more: Any) -> None:
    for call in calls:
        vllm.words = tuple(call.answer or "")
        said = [{"role": "system", "content": call.system}, {"role": "user", "content": call.prompt}]
        answer = api.client.chat.completions.create(model=model, messages=said, **more)  # type: ignore[arg-type]
        if more.get("stream"):
            list(answer)
    api.app.state.parts.sampler.run_once()


def watched(api: Api, watch: dict[str, Any]) -> dict[str, Any]:
    return api.get(f"{PATH}/{watch['id']}").json()


@pytest.fixture
def model(api: Api) -> str:
    return str(tuned(api).fine_tuned_model)


def test_a_watch_reads_the_training_set_and_then_counts(api: Api, model: str, vllm: FakeVllm):
    made = create(api, model)
    assert (made["object"], made["status"], made["calls"], made["silent"]) == ("rootstock.watch", "profiling", 0, [])
    ask(api, vllm, model, drawn("tickets", 2, 2))  # before the reference is known nobody looks
    look(api)
    assert watched(api, made) | {"status": "watching", "examples": 200, "calls": 0} == watched(api, made)
    ask(api, vllm, model, drawn("tickets", 2, 3))
    ask(api, vllm, model, drawn("tickets", 2, 2), stream=True)
    api.client.completions.create(model=model, prompt="Where is my parcel?")
    api.post("/v1/responses", json={"model": model, "input": "Where is my parcel?"})
    look(api)
    assert watched(api, made)["calls"] == 7
    assert [one["id"] for one in api.get(PATH).json()["data"]] == [made["id"]]


def test_others_traffic_bases_and_broken_answers_are_not_counted(api: Api, model: str, vllm: FakeVllm):
    made = create(api, model)
    look(api)
    ask(api, vllm, "gpt-4o-mini", drawn("tickets", 2, 2))
    api.post(f"/v1/fine_tuning/checkpoints/{model}/permissions", json={"project_ids": ["proj_other"]})
    api.other.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
    vllm.error_after = 1
    with pytest.raises(openai.APIError):
        ask(api, vllm, model, drawn("tickets", 2, 1), stream=True)
    vllm.error_after = None
    vllm.refuse = (400, {"error": {"message": "no", "type": "BadRequestError", "param": None, "code": 400}})
    with pytest.raises(openai.BadRequestError):
        ask(api, vllm, model, drawn("tickets", 2, 1))
    look(api)
    assert watched(api, made)["calls"] == 0


def test_a_shift_gives_one_alarm_with_its_rows_and_a_webhook(api: Api, model: str, vllm: FakeVllm):
    hook = {"url": "https://example.com/x", "event_types": ["rootstock.drift.alarm"]}
    endpoint = api.post("/v1/webhook_endpoints", json=hook).json()
    made = create(api, model, store_samples=True)
    look(api)
    ask(api, vllm, model, drawn("tickets", 2, 40))
    for seed in range(3, 6):
        ask(api, vllm, model, drawn("tickets", seed, 60, new=0.6))
    alarms = api.get(f"{PATH}/{made['id']}/alarms").json()["data"]
    assert len({alarm["kind"] for alarm in alarms}) == len(alarms) and "prompt" in watched(api, made)["silent"]
    (alarm,) = [alarm for alarm in alarms if alarm["kind"] == "prompt"]
    assert 'rootstock_drift_alarms_total{kind="prompt"}' in api.get("/metrics").text
    assert alarm["reference"] < alarm["interval"]["low"] < alarm["rate"] < alarm["interval"]["high"]
    prompts = [row["prompt"] for row in alarm["cluster"]["rows"]]
    alike = alarm["cluster"]["alike"]
    new = ("How long do I cook", "Which spice goes", "Can I freeze")
    assert alike >= 5 and all(prompt.startswith(new) for prompt in prompts[:alike]) and len(prompts) <= 30
    assert {"cook", "spice", "freeze", "overnight"} & set(alarm["cluster"]["terms"])
    assert api.get(f"/v1/rootstock/alarms/{alarm['id']}").json() == alarm
    sent = api.get(f"/v1/webhook_endpoints/{endpoint['id']}/deliveries").json()["data"]
    assert {delivery["event_type"] for delivery in sent} == {"rootstock.drift.alarm"} and len(sent) == len(alarms)
    page = api.get(f"{PATH}/{made['id']}.html")
    assert (
        page.headers["content-type"].startswith("text/html")
        and "default-src" in page.headers["content-security-policy"]
    )
    assert alarm["message"].split(":")[0] in page.text and "<svg" in page.text

    assert api.post(f"{PATH}/{made['id']}/rearm", json={"accept": True}).json()["silent"] == []
    ask(api, vllm, model, drawn("tickets", 9, 90, new=0.6))
    kinds = [alarm["kind"] for alarm in api.get(f"{PATH}/{made['id']}/alarms").json()["data"]]
    assert kinds.count("prompt") == 1


def test_without_leave_no_text_is_kept(api: Api, model: str, vllm: FakeVllm):
    made = create(api, model)
    look(api)
    ask(api, vllm, model, [Sample.of("zanzibar quokka", "", "delivery")] * 100)
    (alarm, *_) = api.get(f"{PATH}/{made['id']}/alarms").json()["data"]
    assert alarm["cluster"] is None
    with api.database.read() as tx:
        rows = str(tx.exec_driver_sql("SELECT * FROM watch_counts, watch_alarms").all())
    assert "zanzibar" not in rows


def test_the_page_shows_texts_as_texts(api: Api, model: str, vllm: FakeVllm):
    made = create(api, model, store_samples=True)
    look(api)
    ask(api, vllm, model, [Sample.of("<script>alert(1)</script> zanzibar", "", "delivery")] * 100)
    page = api.get(f"{PATH}/{made['id']}.html").text
    assert "&lt;script&gt;" in page and "<script" not in page
    points = [{"at": 1.0, "calls": 200 * n, "prompt": 0.1 * n, "length": 1.5} for n in range(1, 4)]
    assert watch_page.plot(points).count("<polyline") == 2


def test_a_watch_of_an_alias_sees_its_own_traffic_and_follows_it(api: Api, vllm: FakeVllm):
    old, new = (str(tuned(api).fine_tuned_model) for _ in range(2))
    api.post("/v1/rootstock/aliases", json={"name": "support", "model": old})
    made = create(api, "support")
    assert (made["alias"], made["model"]) == ("support", old)
    look(api)
    ask(api, vllm, "support", drawn("tickets", 2, 2))
    ask(api, vllm, old, drawn("tickets", 2, 1))
    assert watched(api, made)["calls"] == 2
    api.post("/v1/rootstock/aliases", json={"name": "support", "model": new})
    look(api)
    now = watched(api, made)
    assert (now["model"], now["status"], now["calls"]) == (new, "watching", 0) and now["file"] != made["file"]
    ask(api, vllm, "support", drawn("tickets", 2, 1))
    assert watched(api, made)["calls"] == 1
    api.http.delete("/v1/rootstock/aliases/support")
    assert api.get(f"{PATH}/{made['id']}").status_code == 404


@pytest.mark.parametrize("gone", ["model", "file", "watch"])
def test_it_ends_with_its_model_and_its_file_and_leaves_nothing(api: Api, vllm: FakeVllm, gone: str):
    job = tuned(api)
    made = create(api, job.fine_tuned_model, store_samples=True)
    look(api)
    ask(api, vllm, job.fine_tuned_model, [Sample.of("zanzibar", "", "delivery")] * 100)
    (alarm, *_) = api.get(f"{PATH}/{made['id']}/alarms").json()["data"]
    if gone == "model":
        api.client.models.delete(job.fine_tuned_model)
    elif gone == "file":
        api.client.files.delete(job.training_file)
    else:
        assert api.http.delete(f"{PATH}/{made['id']}").json()["deleted"] is True
    for path in (f"{PATH}/{made['id']}", f"{PATH}/{made['id']}/alarms", f"/v1/rootstock/alarms/{alarm['id']}"):
        assert api.get(path).status_code == 404
    assert api.get(PATH).json()["data"] == []
    look(api)
    api.app.state.parts.sweep.run_once()
    with api.database.read() as tx:
        for table in ("watches", "watch_counts", "watch_alarms"):
            assert tx.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0


def test_what_cannot_be_watched_is_refused_by_name(api: Api, model: str):
    create(api, model)
    again = api.post(PATH, json={"model": model}).json()["error"]
    assert (again["param"], again["code"]) == ("model", "invalid_value") and "watched already" in again["message"]
    for body, status, param in (
        ({"model": "gpt-4o-mini"}, 404, "model"),
        ({"model": "ft:none:x::y"}, 404, "model"),
        ({"model": model, "sample_rate": 0}, 400, "sample_rate"),
        ({"model": model, "every": 2}, 400, "every"),
    ):
        answer = api.post(PATH, json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    other = str(tuned(api).fine_tuned_model)
    job = next(job for job in api.client.fine_tuning.jobs.list() if job.fine_tuned_model == other)
    assert api.post(PATH, json={"model": other, "file": "file-none"}).json()["error"]["param"] == "file"
    wrong = api.client.files.create(file=b"x", purpose="user_data").id
    assert api.post(PATH, json={"model": other, "file": wrong}).json()["error"]["param"] == "file"
    api.client.files.delete(job.training_file)
    lost = api.post(PATH, json={"model": other}).json()["error"]
    assert lost["param"] == "file" and "is deleted" in lost["message"]


def test_a_set_that_is_too_small_is_told(api: Api):
    made = create(api, tuned(api, training(count=20)).fine_tuned_model)
    look(api)
    now = watched(api, made)
    assert now["status"] == "failed" and "a set of 20 examples" in now["reason"]
    early = api.post(f"{PATH}/{made['id']}/rearm", json={})
    assert early.status_code == 400 and "status is 'watching'" in early.json()["error"]["message"]


def test_members_read_only_and_others_find_nothing(api: Api, model: str):
    made = create(api, model)
    with api.database.transaction() as tx:
        member = keys.create(tx, "proj_default", "m", keys.MEMBER)
    headers = {"Authorization": f"Bearer {member}"}
    assert api.get(f"{PATH}/{made['id']}", headers=headers).status_code == 200
    assert api.post(PATH, json={"model": model}, headers=headers).status_code == 403
    assert api.http.delete(f"{PATH}/{made['id']}", headers=headers).status_code == 403
    assert api.post(f"{PATH}/{made['id']}/rearm", json={}, headers=headers).status_code == 403
    for path in (made["id"], f"{made['id']}/alarms", f"{made['id']}.html"):
        with pytest.raises(openai.NotFoundError):
            api.other.get(f"/rootstock/watches/{path}", cast_to=object)
    with pytest.raises(openai.NotFoundError):
        api.other.post("/rootstock/watches", cast_to=object, body={"model": model})
    assert api.other.get("/rootstock/watches", cast_to=object)["data"] == []  # type: ignore[index]


def test_what_does_not_fit_is_dropped_and_counted(
    api: Api, model: str, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sampling, "MAX_WAITING", 3)
    made = create(api, model)
    look(api)
    ask(api, vllm, model, drawn("tickets", 2, 5))
    assert {name: watched(api, made)[name] for name in ("calls", "dropped")} == {"calls": 3, "dropped": 2}


def test_a_share_is_sampled(api: Api, model: str, vllm: FakeVllm):
    made = create(api, model, sample_rate=0.3)
    look(api)
    ask(api, vllm, model, drawn("tickets", 2, 60))
    assert 3 <= watched(api, made)["calls"] <= 40


def test_a_database_that_is_away_costs_calls_and_no_answer(
    api: Api, model: str, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
):
    made = create(api, model)
    look(api)
    sampler: Sampler = api.app.state.parts.sampler
    real = watch_counts.add

    def away(*_: Any) -> list[str]:
        raise Unavailable("gone")

    monkeypatch.setattr(watch_counts, "add", away)
    with pytest.raises(Unavailable):
        ask(api, vllm, model, drawn("tickets", 2, 2))
    monkeypatch.setattr(watch_counts, "add", real)
    sampler.run_once()
    assert {name: watched(api, made)[name] for name in ("calls", "dropped")} == {"calls": 0, "dropped": 2}


def test_several_replicas_add_up(api: Api, model: str, vllm: FakeVllm):
    made = create(api, model)
    look(api)
    replicas = [Sampler(api.database) for _ in range(3)]
    for replica in replicas:
        replica.run_once()
    calls = drawn("tickets", 2, 9)
    for number, call in enumerate(calls):
        replicas[number % 3].note([made["id"]], Call(call, float(number)))
    for replica in replicas:
        replica.run_once()
    assert watched(api, made)["calls"] == 9
