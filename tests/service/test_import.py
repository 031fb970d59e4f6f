"""`rootstock import openai` from a fake OpenAI into the real app, no sockets; those are in test_import_http."""

import json
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal
from openai import OpenAI

from rootstock import keys
from rootstock.cli.importing import Screen, Wanted, import_all
from rootstock.errors import ConfigurationError, ImportStopped
from rootstock.importing.folder import Folder
from tests.service.conftest import Api, AppTransport, chat_rows, sdk
from tests.service.fake_openai import KEY, FakeOpenAI, error, job_object

SOURCE, TARGET = "source.test", "target.test"
TRAIN, VALID = chat_rows(12), chat_rows(11)
RESULTS = b"c3RlcAo="


class Killed(BaseException):
    """The process dies: nothing catches this, nothing is tidied by it."""


class Network(httpx.BaseTransport):
    """Hosts by name. `kill_*` number the request at which the client dies, `lose_next` names an answer,
    `limits` holds what is answered once instead."""

    def __init__(self, hosts: dict[str, httpx.BaseTransport]) -> None:
        self.hosts = hosts
        self.sent: list[str] = []
        self.keys: list[str] = []
        self.limits: dict[str, int] = {}
        self.kill_before = self.kill_after = 0
        self.lose_next = ""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(f"{request.method} {request.url.host}{request.url.path}")
        if request.method == "POST":
            self.keys.append(request.headers["idempotency-key"])
        if len(self.sent) == self.kill_before:
            raise Killed
        if self.sent[-1] in self.limits:
            status = self.limits.pop(self.sent[-1])
            return httpx.Response(status, headers={"retry-after": "4"}, json={"error": {"message": "Not now"}})
        answer = self.hosts[request.url.host].handle_request(request)
        answer.read()
        if len(self.sent) == self.kill_after:
            raise Killed
        if self.sent[-1] == self.lose_next:
            self.lose_next = ""
            raise httpx.ReadError("connection lost", request=request)
        return answer


@dataclass
class World:
    """A source, a target with a project of its own, and a folder between them."""

    openai: FakeOpenAI
    network: Network
    client: OpenAI
    folder: Path
    wanted: Wanted
    slept: list[float]

    def run(self, **changes: Any) -> int:
        return import_all(replace(self.wanted, **changes))

    def report(self) -> dict[str, dict[str, Any]]:
        return {item["id"]: item for item in json.loads((self.folder / "report.json").read_text())["items"]}

    def recipe(self, job_id: str) -> dict[str, Any]:
        recipe: dict[str, Any] = json.loads((self.folder / "recipes" / f"{job_id}.json").read_text())
        return recipe

    def arrived(self) -> dict[str, bytes]:
        """Name -> content of every file at the target; fails when two share a name."""
        there = list(self.client.files.list())
        assert len({file.filename for file in there}) == len(there)
        return {file.filename: self.client.files.content(file.id).read() for file in there}

    def posts(self) -> list[str]:
        return [line for line in self.network.sent if line.startswith(f"POST {TARGET}")]


def fill(openai: FakeOpenAI) -> None:
    """A little of everything that a team has."""
    openai.add_file("file-train", TRAIN)
    openai.add_file("file-valid", VALID, filename="valid.jsonl")
    openai.add_file("file-evals", b'{"item":{"q":1}}\n', filename="evals.jsonl", purpose="evals")
    openai.add_file("file-gone", None, filename="old.jsonl")
    openai.add_file("file-picture", b"PNG", filename="a.png", purpose="vision")
    openai.add_file("file-private", b"%PDF", filename="b.pdf", purpose="user_data")
    # The listing counts the bytes of the CSV, the content is its base64 form.
    openai.add_file("file-result", RESULTS, filename="step_metrics.csv", purpose="fine-tune-results", bytes=5)
    grader = {"type": "string_check", "name": "same", "input": "x", "reference": "x", "operation": "eq"}
    reinforcement = {"grader": grader, "hyperparameters": {"n_epochs": 1, "reasoning_effort": "low", "x": None}}
    openai.jobs += [
        job_object("ftjob-first1", "file-train", validation_file="file-valid", result_files=["file-result"]),
        job_object("ftjob-failed", "file-train", status="failed", fine_tuned_model=None, metadata={"team": "mail"}),
        job_object("ftjob-nofile", "file-deleted"),
        job_object("ftjob-lost12", "file-gone"),
        job_object(
            "ftjob-graded", "file-gone", method={"type": "reinforcement", "reinforcement": reinforcement}, seed=1
        ),
    ]
    schema = {"type": "object", "properties": {"item": {"type": "object", "properties": {"q": {"type": "integer"}}}}}
    openai.evals.append(
        {
            "id": "eval_one",
            "object": "eval",
            "name": "Sums",
            "created_at": 1,
            "data_source_config": {"type": "custom", "schema": schema, "metadata": None},
            "testing_criteria": [grader | {"id": "same-123"}],
            "metadata": {},
        }
    )


@pytest.fixture
def make_world(api: Api, portal: BlockingPortal, tmp_path: Path) -> Callable[[], World]:
    made = 0
    app = AppTransport(api.app, portal)

    def make() -> World:
        nonlocal made
        made += 1
        with api.database.transaction() as tx:
            tx.exec_driver_sql(f"INSERT INTO projects VALUES ('proj_{made}', 'rootstock', 'Import', 0)")
            key = keys.create(tx, f"proj_{made}", "import")
        openai, slept = FakeOpenAI(), list[float]()
        fill(openai)
        network = Network({SOURCE: AppTransport(openai.app(), portal), TARGET: WithoutEvals(app)})
        folder = tmp_path / f"export-{made}"
        wanted = Wanted(
            api_key=KEY,
            headers={"OpenAI-Organization": "org-acme", "OpenAI-Project": None},
            from_url=f"http://{SOURCE}",
            from_folder=None,
            folder=folder,
            to=f"http://{TARGET}/v1/",
            to_key=key,
            settings=api.settings,
            export_only=False,
            apply=True,
            run_jobs=False,
            transport=network,
            sleep=slept.append,
        )
        return World(openai, network, sdk(key, app), folder, wanted, slept)

    return make


@pytest.fixture
def world(make_world: Callable[[], World]) -> World:
    return make_world()


class WithoutEvals(httpx.BaseTransport):
    """Our app as it is before it has an evals API, whether it has one by now or not."""

    def __init__(self, app: httpx.BaseTransport) -> None:
        self._app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/evals":
            return httpx.Response(404, json={"error": {"message": "Invalid URL (GET /v1/evals)"}})
        return self._app.handle_request(request)


def test_without_apply_it_only_shows(world: World, capsys: pytest.CaptureFixture[str]):
    assert world.run(apply=False) == 0
    shown = capsys.readouterr().out
    assert "file-train train.jsonl" in shown and "copied: " not in shown
    assert "images cannot be trained on here" in shown and "file-deleted cannot be carried" in shown
    assert "Nothing has been copied" in shown
    assert not world.folder.exists() and world.arrived() == {}
    assert all(line.startswith(f"GET {SOURCE}") and "content" not in line for line in world.network.sent)
    assert world.openai.headers["openai-organization"] == "org-acme"


def test_apply_carries_what_can_be_carried_and_says_why_not(world: World):
    assert world.run() == 0
    assert world.arrived() == {"train.jsonl": TRAIN, "valid.jsonl": VALID, "evals.jsonl": b'{"item":{"q":1}}\n'}
    report = world.report()
    assert {name for name, item in report.items() if item["fate"] == "copied"} == {
        *("file-train", "file-valid", "file-evals", "ftjob-first1", "ftjob-failed")
    }
    assert (world.folder / "files" / "file-result.content").read_bytes() == RESULTS
    assert report["file-result"]["fate"] == "local copy"
    reasons = {name: item["reason"] for name, item in report.items()}
    assert reasons["file-gone"] == f"its content is gone: deleted or expired at {SOURCE}"
    assert "Not allowed to download" in reasons["file-private"]
    assert "file-deleted" in reasons["ftjob-nofile"] and "file-gone" in reasons["ftjob-lost12"]
    assert list(world.folder.rglob("*.part")) == []
    assert "recipes/ftjob-first1.json trains it again" in reasons["ft:gpt-4o-mini-2024-07-18:acme:mail:b-first1"]
    assert reasons["eval_one"] == "this server has no evals API yet; kept in evals/eval_one.json"
    assert {"moderation results", "stored completions"} <= set(reasons)
    assert json.loads((world.folder / "graders" / "ftjob-graded.json").read_text())["type"] == "string_check"
    assert stat.S_IMODE(world.folder.stat().st_mode) == 0o700


def test_evals_are_made_here_once(world: World, api: Api, portal: BlockingPortal):
    world.network.hosts[TARGET] = AppTransport(api.app, portal)
    judge = {
        "type": "label_model",
        "name": "tone",
        "model": "gpt-4o-mini",
        "labels": ["a", "b"],
        "passing_labels": ["a"],
    }
    text = {"type": "message", "role": "user", "content": {"type": "input_text", "text": "{{item.q}}"}}
    world.openai.evals.append(
        {
            "id": "eval_logs",
            "object": "eval",
            "name": "Logs",
            "created_at": 2,
            "data_source_config": {"type": "logs", "schema": {}, "metadata": {"usecase": "push"}},
            "testing_criteria": [judge | {"id": "tone-1", "input": [text]}],
            "metadata": {"team": "mail"},
        }
    )
    assert world.run() == 0
    assert world.run() == 0
    made = {one.name: one for one in world.client.evals.list()}
    assert set(made) == {"Sums", "Logs"} and len(list(world.client.evals.list())) == 2
    assert made["Sums"].data_source_config.to_dict()["schema"]["properties"]["item"] == {  # type: ignore[index]
        "type": "object",
        "properties": {"q": {"type": "integer"}},
    }
    assert made["Logs"].metadata == {"team": "mail", "imported_from": "eval_logs"}
    assert made["Logs"].testing_criteria[0].to_dict()["input"] == [text]
    report = world.report()
    assert {name: report[name]["fate"] for name in ("eval_one", "eval_logs")} == {
        "eval_one": "copied",
        "eval_logs": "copied",
    }
    assert report["eval_logs"]["new_id"] == made["Logs"].id


def test_a_recipe_is_ready_to_run(world: World, api: Api):
    world.run()
    recipe = world.recipe("ftjob-first1")
    ids = {file.filename: file.id for file in world.client.files.list()}
    assert recipe == {
        "model": "gpt-4o-mini-2024-07-18",
        "training_file": ids["train.jsonl"],
        "validation_file": ids["valid.jsonl"],
        "suffix": "mail",
        "seed": 7,
        "method": {
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8}},
        },
        "metadata": {"imported_from": "ftjob-first1"},
    }
    answer = api.post("/v1/fine_tuning/jobs", json=recipe, headers={"authorization": f"Bearer {world.wanted.to_key}"})
    assert answer.status_code == 200, answer.text
    assert world.recipe("ftjob-failed")["metadata"] == {"team": "mail", "imported_from": "ftjob-failed"}


def test_a_second_run_sends_nothing(world: World):
    world.run(run_jobs=True)
    before = world.posts()
    world.run(run_jobs=True)
    assert world.posts() == before
    assert "GET source.test/v1/files/file-train/content" not in world.network.sent[len(world.network.sent) // 2 :]


def test_jobs_run_once_and_only_those_that_had_succeeded(world: World):
    world.run(run_jobs=True)
    (job,) = world.client.fine_tuning.jobs.list()
    assert job.metadata == {"imported_from": "ftjob-first1"} and job.seed == 7
    assert world.report()["ftjob-first1"]["new_id"] == job.id
    assert world.report()["ftjob-failed"]["remarks"] == ["not started: the job was failed"]


def test_killed_at_any_request_and_started_again_nothing_is_there_twice(make_world: Callable[[], World]):
    def small() -> World:
        world = make_world()
        world.openai.files = {name: world.openai.files[name] for name in ("file-train", "file-evals")}
        world.openai.jobs = [job_object("ftjob-first1", "file-train")]
        return world

    whole = small()
    whole.run(run_jobs=True)
    lines = whole.network.sent
    assert len(whole.posts()) == 3
    # Before any request; and after those that change something, which have happened then without our knowing.
    deaths = [("kill_before", at) for at in range(1, len(lines) + 1)]
    deaths += [("kill_after", at) for at, line in enumerate(lines, 1) if line.startswith("POST")]
    for where, at in deaths:
        world = small()
        setattr(world.network, where, at)
        with pytest.raises(Killed):
            world.run(run_jobs=True)
        assert world.run(run_jobs=True) == 0
        assert world.arrived() == {"train.jsonl": TRAIN, "evals.jsonl": b'{"item":{"q":1}}\n'}, (where, at)
        assert len(list(world.client.fine_tuning.jobs.list())) == 1, (where, at)
        assert set(world.report()) == set(whole.report())


def test_a_lost_answer_is_looked_for_before_it_is_sent_again(world: World):
    world.network.lose_next = f"POST {TARGET}/v1/files"
    world.run()
    assert len(world.posts()) == 3 and len(world.arrived()) == 3
    assert len(world.slept) == 1


def test_what_may_still_be_on_its_way_is_sent_again_under_the_same_key(world: World):
    world.run(export_only=True, apply=False)
    world.network.kill_before = len(world.network.sent) + 4
    with pytest.raises(Killed):
        world.run(from_folder=world.folder)
    assert world.network.sent[-1] == f"POST {TARGET}/v1/files"
    world.run(from_folder=world.folder)
    first, again, *others = world.network.keys
    assert first == again and again not in others and len(set(others)) == 2


def test_an_upload_of_somebody_else_is_not_taken_for_ours(world: World):
    world.run(export_only=True, apply=False)
    other = world.client.files.create(file=("evals.jsonl", b'{"item":{"q":2}}\n'), purpose="evals")
    state = json.loads((world.folder / "import-state.json").read_text())
    state["targets"] = {
        f"http://{TARGET}/v1": {"files": {"file-evals": {"pending": "import-1"}}}
    }  # killed while it was sent
    (world.folder / "import-state.json").write_text(json.dumps(state))
    world.run()
    new = world.report()["file-evals"]["new_id"]
    assert new != other.id and world.client.files.content(new).read() == b'{"item":{"q":1}}\n'


def test_what_the_target_has_lost_is_sent_again(world: World):
    world.run()
    for file in list(world.client.files.list()):
        world.client.files.delete(file.id)
    world.run()
    assert len(world.arrived()) == 3
    assert world.recipe("ftjob-first1")["training_file"] in {file.id for file in world.client.files.list()}


def test_export_now_and_carry_when_the_source_is_gone(world: World):
    assert world.run(export_only=True, apply=False) == 0
    assert world.posts() == []
    del world.network.hosts[SOURCE]
    elsewhere = world.folder.rename(world.folder.with_name("moved"))
    assert world.run(from_folder=elsewhere, api_key=None, apply=False) == 0
    assert world.posts() == []
    assert world.run(from_folder=elsewhere, api_key=None) == 0
    assert set(world.arrived()) == {"train.jsonl", "valid.jsonl", "evals.jsonl"}


def test_what_the_source_deletes_after_an_export_is_still_carried(world: World):
    world.run(export_only=True, apply=False)
    del world.openai.files["file-train"]
    world.run()
    assert world.arrived()["train.jsonl"] == TRAIN


def test_rate_limits_are_waited_for_as_told(world: World, capsys: pytest.CaptureFixture[str]):
    world.openai.answers = [
        error(429, "Slow down", "rate_limit_exceeded", {"retry-after": "7"}),
        error(429, "Slow down", "rate_limit_exceeded", {"retry-after-ms": "1500", "retry-after": "2"}),
        error(503, "Busy", None, {"retry-after": "3"}),
    ]
    assert world.run(apply=False) == 0
    assert world.slept == [7.0, 1.5, 3.0]
    assert "waiting 7 s as told" in capsys.readouterr().out


@pytest.mark.parametrize("status", [429, 503])
def test_a_target_that_is_busy_is_waited_for(world: World, status: int):
    world.network.limits = {f"POST {TARGET}/v1/files": status, f"POST {TARGET}/v1/fine_tuning/jobs": status}
    world.run(run_jobs=True)
    assert world.slept.count(4.0) == 2
    assert len(world.arrived()) == 3 and len(list(world.client.fine_tuning.jobs.list())) == 1


def test_a_source_that_stays_broken_ends_with_one_sentence(world: World):
    world.openai.answers = [error(500, "Sorry about that!") for _ in range(6)]
    with pytest.raises(ImportStopped, match="does not list /files: Sorry about that!"):
        world.run()
    assert len(world.slept) == 5


def test_no_money_left_is_not_waited_for(world: World):
    world.openai.answers = [error(429, "You exceeded your current quota", "insufficient_quota")]
    with pytest.raises(ImportStopped, match="exceeded your current quota"):
        world.run()
    assert world.slept == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"api_key": "sk-wrong"}, f"{SOURCE} refused the key: Incorrect API key"),
        ({"to_key": "sk-rs-wrong"}, "Rootstock refused the key: Incorrect API key"),
        ({"api_key": None}, "Set OPENAI_API_KEY"),
        ({"to_key": None}, "give --to-key"),
        ({"to_key": None, "to": None}, "give --to-key, or --data-dir"),
        ({"from_url": "api.openai.com"}, "is not an address"),
        ({"from_folder": Path("nowhere")}, "holds no export"),
        ({"export_only": True}, "give one of them"),
        ({"apply": False, "run_jobs": True}, "needs --apply"),
        ({"api_key": "sk-…"}, "characters that no key has"),
    ],
)
def test_wrong_options_are_one_sentence(world: World, changes: dict[str, Any], sentence: str):
    with pytest.raises(ConfigurationError, match=sentence):
        world.run(**changes)
    assert world.arrived() == {}


def test_a_wrong_target_key_shows_before_anything_is_downloaded(world: World):
    with pytest.raises(ConfigurationError):
        world.run(to_key="sk-rs-wrong")
    assert world.openai.asked == []


def test_a_folder_belongs_to_one_source_and_one_import_at_a_time(world: World):
    world.run()
    world.network.hosts["other.test"] = world.network.hosts[SOURCE]
    with pytest.raises(ConfigurationError, match=f"an export of http://{SOURCE}/v1"):
        world.run(from_url="http://other.test/v1")
    with Folder(world.folder).locked(), pytest.raises(ConfigurationError, match="Another import"):
        world.run()


@pytest.mark.parametrize("bad", ["../../etc/passwd", "", ".hidden", "a/b", None, "x" * 200])
def test_a_source_does_not_choose_where_files_are_written(world: World, bad: Any):
    world.openai.files = {"x": {"id": bad, "purpose": "fine-tune"}}
    with pytest.raises(ImportStopped, match="cannot be an id"):
        world.run()


def test_pages_that_repeat_end_with_one_sentence(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "tests.service.fake_openai._page",
        lambda things, _: httpx_json({"data": things[:1], "has_more": True}),
    )
    with pytest.raises(ImportStopped, match="repeats a page"):
        world.run()


def httpx_json(body: Any) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(body)


def test_a_source_whose_evals_api_has_closed_still_gives_the_rest(world: World):
    world.openai.has_evals = False
    world.run()
    assert len(world.arrived()) == 3
    (reason,) = [item["reason"] for item in world.report().values() if item["kind"] == "eval"]
    assert "does not list them" in reason


def test_on_a_terminal_transfers_are_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("FORCE_COLOR", "1")
    screen = Screen()
    with screen.transfer("read file-1 a\x1b[2Jb", 2000) as moved:
        screen.say("beside the bar")
        moved(2000)
    shown = capsys.readouterr().out
    assert "2.0/2.0 kB" in shown and "beside the bar" in shown and "\x1b[2J" not in shown


def test_very_many_things_are_shown_in_groups(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for number in range(300):
        world.openai.add_file(f"file-many{number}", b"{}", purpose="assistants")
    monkeypatch.setattr("tests.service.fake_openai.LARGEST_PAGE", 1000)
    world.run()
    shown = capsys.readouterr().out
    assert "303 of them" in shown and "file-many7" not in shown
    assert len(world.report()) > 300


def test_what_the_target_refuses_is_reported_and_the_rest_goes_on(world: World):
    world.openai.files["file-train"]["filename"] = "train.txt"
    world.run()
    assert set(world.arrived()) == {"valid.jsonl", "evals.jsonl"}
    assert world.report()["file-train"]["reason"].endswith("Must be .jsonl")
    assert world.report()["ftjob-first1"]["fate"] == "not carried"


def test_evals_are_made_at_a_target_that_has_them_once(world: World, portal: BlockingPortal):
    other = FakeOpenAI()
    other.add_file("file-there", TRAIN)
    world.openai.files.clear()
    world.network.hosts[TARGET] = AppTransport(other.app(), portal)
    for kill_after in (7, 0):  # the request that makes it; then undisturbed
        world.network.kill_after = len(world.network.sent) + kill_after if kill_after else 0
        if kill_after:
            with pytest.raises(Killed):
                world.run(to_key=KEY)
        else:
            world.run(to_key=KEY)
    assert world.posts() == [f"POST {TARGET}/v1/evals"]
    (made,) = other.evals
    assert made["metadata"] == {"imported_from": "eval_one"}
    assert world.report()["eval_one"]["new_id"] == made["id"]
    assert made["data_source_config"]["item_schema"] == {
        "type": "object",
        "properties": {"q": {"type": "integer"}},
    }


def test_from_one_rootstock_to_another(world: World, api: Api, portal: BlockingPortal):
    job = api.succeed(suffix="tickets", metadata={"a": "b"})
    world.network.hosts[SOURCE] = AppTransport(api.app, portal)
    world.run(api_key=api.key, headers={}, run_jobs=True)
    (copied,) = world.client.fine_tuning.jobs.list()
    assert copied.id != job.id and copied.metadata == {"a": "b", "imported_from": job.id}
    assert (copied.model, copied.seed) == (job.model, job.seed)
    assert world.client.files.content(copied.training_file).read() == api.client.files.content(job.training_file).read()
    result = world.folder / "files" / f"{job.result_files[0]}.content"
    assert result.read_bytes() == api.client.files.content(job.result_files[0]).read()
