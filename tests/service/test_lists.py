"""What every list has in common: its envelope, full and empty, its limit, its cursor, its order."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.service.conftest import Api

CURSORS = {"object", "data", "first_id", "last_id", "has_more"}
PLAIN = {"object", "data", "has_more"}


def files(api: Api) -> str:
    for _ in range(3):
        api.upload(rows=1)
    return "/v1/files"


def jobs(api: Api) -> str:
    training = api.upload()
    for _ in range(3):
        api.job(training_file=training)
    return "/v1/fine_tuning/jobs"


def events(api: Api) -> str:
    return f"/v1/fine_tuning/jobs/{api.job().id}/events"  # three have been written by now


def checkpoints(api: Api) -> str:
    job = api.job()
    claimed = api.claim()
    for step in (1, 2, 3):
        api.checkpoint(claimed, step)
    return f"/v1/fine_tuning/jobs/{job.id}/checkpoints"


LISTS = pytest.mark.parametrize(
    ("fill", "keys"),
    [(files, CURSORS), (jobs, PLAIN), (events, PLAIN), (checkpoints, CURSORS)],
    ids=lambda it: getattr(it, "__name__", ""),
)
Fill = Callable[[Api], str]


def listed(api: Api, path: str, **query: Any) -> dict[str, Any]:
    answer = api.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@LISTS
def test_pages_follow_one_another_newest_first(api: Api, fill: Fill, keys: set[str]):
    path = fill(api)
    whole = listed(api, path)
    assert set(whole) == keys and whole["object"] == "list" and whole["has_more"] is False
    ids = [item["id"] for item in whole["data"]]
    assert len(ids) == len(set(ids)) == 3
    assert [item["created_at"] for item in whole["data"]] == sorted(
        (i["created_at"] for i in whole["data"]), reverse=True
    )
    pages = [listed(api, path, limit=1)]
    while pages[-1]["has_more"]:
        pages.append(listed(api, path, limit=1, after=pages[-1]["data"][-1]["id"]))
    assert [item["id"] for page in pages for item in page["data"]] == ids
    if keys == CURSORS:
        assert all(page["first_id"] == page["last_id"] == page["data"][0]["id"] for page in pages)


@LISTS
def test_the_end_is_an_empty_page(api: Api, fill: Fill, keys: set[str]):
    path = fill(api)
    last = listed(api, path)["data"][-1]["id"]
    assert listed(api, path, after=last) == {
        "object": "list",
        "data": [],
        "has_more": False,
        **dict.fromkeys(keys - PLAIN),
    }


@LISTS
@pytest.mark.parametrize(("limit", "count"), [("0", 1), ("-5", 1), ("99999999999999999999", 3), ("", 3)])
def test_an_odd_limit_is_clamped(api: Api, fill: Fill, keys: set[str], limit: str, count: int):
    assert len(listed(api, fill(api), limit=limit)["data"]) == count


@pytest.mark.parametrize("path", ["/v1/fine_tuning/jobs", "/v1/chat/completions"])
def test_more_labels_than_anything_can_carry_are_a_400(api: Api, path: str):
    for count, status in ((16, 200), (17, 400), (1100, 400)):
        answer = api.get(path, params={f"metadata[k{number}]": "v" for number in range(count)})
        assert answer.status_code == status, answer.text
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (
        "metadata",
        "object_above_max_properties",
    )


@LISTS
@pytest.mark.parametrize("after", ["None", "%00", "x" * 5000, "file-absent"])
def test_an_unknown_cursor_is_a_400(api: Api, fill: Fill, keys: set[str], after: str):
    answer = api.get(f"{fill(api)}?after={after}")
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == ("after", "invalid_value")
