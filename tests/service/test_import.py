"""`rootstock import openai` from a fake OpenAI into the real app, no sockets; those are in test_import_http."""

import json
import stat
from collections.abc import Callable

import pytest
from anyio.from_thread import BlockingPortal

from tests.service.conftest import Api, AppTransport
from tests.service.fake_openai import job_object
from tests.service.importing import RESULTS, SOURCE, TARGET, TRAIN, VALID, Killed, World, make_world, world

__all__ = ["make_world", "world"]  # they are fixtures


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
