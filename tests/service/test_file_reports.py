"""The data report of uploaded files: as JSON, as a page, by the project's policy, for nobody else."""

import json
from collections.abc import Callable

import pytest

from rootstock import examination
from tests.service.conftest import Api, chat_rows


def uploaded(api: Api, content: bytes, purpose: str = "fine-tune") -> str:
    return api.client.files.create(file=("train.jsonl", content), purpose=purpose).id  # type: ignore[arg-type]


def test_a_file_is_reported_on_with_lines_and_cures(api: Api):
    rows = chat_rows(12)
    file = uploaded(api, rows + rows.splitlines(keepends=True)[3])
    told = api.get(f"/v1/rootstock/files/{file}/report").json()
    assert (told["object"], told["file"], told["validation_file"]) == ("rootstock.data_report", file, None)
    (copies,) = [finding for finding in told["findings"] if finding["kind"] == "exact_duplicate"]
    assert (copies["severity"], copies["file"], copies["lines"]) == ("warning", "training", [4, 13])
    assert told["summary"]["training"]["examples"] == 13
    assert told == api.get(f"/v1/rootstock/files/{file}/report").json()


def test_leaks_into_a_validation_file_and_the_projects_policy(api: Api):
    file, held = uploaded(api, chat_rows(12)), uploaded(api, chat_rows(2))
    api.post("/v1/rootstock/policy", json={"data": {"blocking": ["exact_duplicate"]}})
    told = api.get(f"/v1/rootstock/files/{file}/report", params={"validation_file": held}).json()
    leaks = [finding for finding in told["findings"] if finding["kind"] == "split_leak"]
    assert [(leak["file"], leak["lines"]) for leak in leaks] == [("validation", [1]), ("validation", [2])]
    doubled = uploaded(api, chat_rows(12) * 2)
    told = api.get(f"/v1/rootstock/files/{doubled}/report").json()
    assert {f["severity"] for f in told["findings"] if f["kind"] == "exact_duplicate"} == {"blocking"}


def test_the_page_shows_it_and_runs_nothing(api: Api):
    bad = {"messages": [{"role": "user", "content": "<script>alert(1)</script>"}, {"role": "assistant", "content": ""}]}
    file = uploaded(api, chat_rows(12) + json.dumps(bad).encode())
    answer = api.get(f"/v1/rootstock/files/{file}/report.html")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "no_trainable_tokens" in answer.text and "<svg" in answer.text and "<script" not in answer.text


def test_what_the_base_cannot_read_at_a_time_is_told(make_api: Callable[..., Api]):
    long = {"messages": [{"role": "user", "content": "word " * 400}, {"role": "assistant", "content": "Yes."}]}
    rows = chat_rows(12) + json.dumps(long).encode()

    def cut(api: Api) -> list[list[int]]:
        found = api.get(f"/v1/rootstock/files/{uploaded(api, rows)}/report").json()["findings"]
        return [finding["lines"] for finding in found if finding["kind"] == "truncated"]

    assert cut(make_api()) == [], "the small base reads 2048 tokens"
    assert cut(make_api(max_context_tokens=256)) == [[13]]


def test_what_cannot_be_reported_on(api: Api):
    file, batch = uploaded(api, chat_rows(12)), uploaded(api, b"{}\n", "user_data")
    other = {"Authorization": f"Bearer {api.other.api_key}"}
    assert api.get(f"/v1/rootstock/files/{file}/report", headers=other).status_code == 404
    assert api.get("/v1/rootstock/files/file-none/report").status_code == 404
    assert api.get(f"/v1/rootstock/files/{file}/report", params={"validation_file": "file-none"}).status_code == 404
    answer = api.get(f"/v1/rootstock/files/{batch}/report.html")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file_id")


def test_of_a_very_long_file_the_first_lines_are_examined_and_that_is_said(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "MOST_LINES", 30)
    told = [
        api.get(f"/v1/rootstock/files/{api.upload(rows=rows)}/report").json()["summary"]["examined"]["training"]
        for rows in (30, 31)
    ]
    assert told == [{"lines": 30, "whole": True}, {"lines": 30, "whole": False}]
