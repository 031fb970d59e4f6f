"""`rootstock distil` against the API: what it sends, what it prints, what it saves."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from rootstock.cli import distilling
from rootstock.cli.exporting import Server
from rootstock.errors import ConfigurationError
from tests.service.conftest import Api, AppTransport
from tests.service.fake_vllm import FakeVllm
from tests.service.test_distillations import PATH, Work, echoing, lines, look, work

__all__ = ["work"]

EMPTY: dict[str, Any] = {"model": None, "metadata": None, "created_after": None, "created_before": None}


def wanted(**more: Any) -> distilling.Wanted:
    given: dict[str, Any] = {
        "prompts": None,
        "stored": EMPTY,
        "teacher": None,
        "teacher_url": None,
        "teacher_key": None,
        "schema": None,
        "grader": None,
        "min_score": 0.5,
        "refusals": True,
        "near_duplicates": 0.9,
        "max_examples": 100,
        "max_tokens": None,
        "seed": 1,
        "suffix": None,
        "out": None,
        "wait": True,
    }
    return distilling.Wanted(**given | more)


@pytest.fixture
def server(api: Api, portal: Any, work: Work) -> Server:
    """A command line whose waiting lets a worker have its turn."""

    def wait(_: float) -> None:
        thread = threading.Thread(target=work, args=(api,))
        thread.start()
        thread.join(60)

    return Server(api.settings, "http://test/v1", api.key, AppTransport(api.app, portal), wait)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    rows = [{"messages": [{"role": "user", "content": f"q{number}"}]} for number in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_it_follows_a_run_to_its_file(
    api: Api, server: Server, vllm: FakeVllm, prompts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    echoing(vllm, q3="I'm sorry, but I can't help with that.")
    out = tmp_path / "train.jsonl"
    assert distilling.run(server, wanted(prompts=prompts, teacher="gpt-4o-mini", out=out, suffix="t")) == 0
    shown = capsys.readouterr().out
    assert "completed: 11 examples kept, 72 tokens" in shown and "1  refusal" in shown and "12 of 12" in shown
    (run,) = api.get(PATH).json()["data"]
    assert [json.loads(line) for line in out.read_text().splitlines()] == lines(api, run)
    (line,) = distilling.list_all(server)
    assert line.split() == [run["id"], "completed", "11", "of", "12", run["training_file"]]


def test_no_answer_worth_learning_is_a_failure(
    server: Server, vllm: FakeVllm, prompts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vllm.words = (" ",)
    assert distilling.run(server, wanted(prompts=prompts, teacher="gpt-4o-mini")) == 1
    assert "No answer was left to learn from" in capsys.readouterr().out


def test_it_can_be_left_alone_and_cancelled(api: Api, server: Server, prompts: str) -> None:
    assert distilling.run(server, wanted(prompts=prompts, teacher="gpt-4o-mini", wait=False)) == 0
    (run,) = api.get(PATH).json()["data"]
    assert distilling.cancel(server, run["id"]) == f"{run['id']}: cancelled"
    assert look(api, run)["status"] == "cancelled"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "--prompts"),
        ({"prompts": "x.jsonl", "stored": EMPTY | {"model": "m"}, "teacher": "m"}, "--stored-model"),
        ({"prompts": "x.jsonl"}, "--teacher"),
        ({"prompts": "x.jsonl", "teacher": "m"}, "x.jsonl"),
        ({"stored": EMPTY | {"metadata": ["task"]}}, "--metadata"),
        ({"stored": EMPTY | {"model": "m"}, "teacher_url": "https://x/v1"}, "--teacher"),
        ({"stored": EMPTY | {"model": "m"}, "out": Path("x"), "wait": False}, "--no-wait"),
    ],
)
def test_options_that_do_not_go_together_are_named(server: Server, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        distilling.run(server, wanted(**options))
