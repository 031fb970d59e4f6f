"""`rootstock import openai` when the source, the target or the user gets something wrong."""

from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal

from rootstock.cli.importing import Screen
from rootstock.errors import ConfigurationError, ImportStopped
from rootstock.importing.folder import Folder
from tests.service.conftest import Api, AppTransport
from tests.service.fake_openai import KEY, FakeOpenAI, error
from tests.service.importing import SOURCE, TARGET, TRAIN, Killed, World, make_world, world

__all__ = ["make_world", "world"]  # they are fixtures


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
