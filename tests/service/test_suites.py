"""A project's own suites over HTTP: made of a file by owners, read by all, and limits of each suite in the policy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rootstock import keys, policies
from tests.service.conftest import Api

PATH = "/v1/rootstock/suites"


def questions(count: int = 10, **changes: Any) -> bytes:
    asked = [[{"role": "user", "content": f"What is {n} + 2?"}] for n in range(count)]
    lines = [{"messages": one, "answer": str(n + 2), "how": "exact"} | changes for n, one in enumerate(asked)]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def upload(api: Api, data: bytes | None = None, purpose: Any = "evals") -> str:
    return api.client.files.create(file=("suite.jsonl", data or questions()), purpose=purpose).id


def create(api: Api, name: str = "support-tone", file_id: str | None = None) -> Any:
    answer = api.post(PATH, json={"name": name, "file_id": file_id or upload(api)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(api: Api, **body: Any) -> tuple[int, Any]:
    answer = api.post(PATH, json={"name": "support-tone"} | body)
    return answer.status_code, answer.json()["error"]


def member(api: Api) -> dict[str, str]:
    with api.database.transaction() as tx:
        return {"Authorization": f"Bearer {keys.create(tx, 'proj_default', 'm', keys.MEMBER)}"}


def test_it_is_made_listed_retrieved_and_deleted_and_outlives_its_file(api: Api):
    file_id = upload(api)
    made = create(api, file_id=file_id)
    assert made == {
        "object": "rootstock.suite",
        "id": made["id"],
        "name": "support-tone",
        "questions": 10,
        "limit": 0.05,
        "created_at": made["created_at"],
    }
    api.client.files.delete(file_id)
    assert api.get(f"{PATH}/{made['id']}").json() == made
    second = create(api, "billing")
    page = api.get(PATH, params={"limit": 1}).json()
    assert (page["data"], page["has_more"], page["last_id"]) == ([second], True, second["id"])
    assert api.get(PATH, params={"limit": 1, "after": second["id"]}).json()["data"] == [made]
    assert [one["name"] for one in api.get(PATH, params={"order": "asc"}).json()["data"]] == ["support-tone", "billing"]
    gone = api.http.delete(f"{PATH}/{made['id']}")
    assert gone.json() == {"id": made["id"], "object": "rootstock.suite", "deleted": True}
    for answer in (api.get(f"{PATH}/{made['id']}"), api.http.delete(f"{PATH}/{made['id']}")):
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "suite_id")


def test_another_project_neither_sees_nor_uses_it(api: Api):
    made, stranger = create(api), {"Authorization": f"Bearer {api.other.api_key}"}
    assert api.get(PATH, headers=stranger).json()["data"] == []
    assert api.get(f"{PATH}/{made['id']}", headers=stranger).status_code == 404
    assert api.http.delete(f"{PATH}/{made['id']}", headers=stranger).status_code == 404
    mine = api.post(PATH, json={"name": "support-tone", "file_id": upload(api)}, headers=stranger)
    assert (mine.status_code, mine.json()["error"]["param"]) == (404, "file_id")


def test_members_read_only(api: Api):
    made, headers = create(api), member(api)
    assert api.get(f"{PATH}/{made['id']}", headers=headers).status_code == 200
    body = {"name": "billing", "file_id": upload(api)}
    assert api.post(PATH, json=body, headers=headers).status_code == 403
    assert api.http.delete(f"{PATH}/{made['id']}", headers=headers).status_code == 403
    assert len(api.get(PATH).json()["data"]) == 1


def test_what_is_wrong_with_file_or_name_is_told(api: Api):
    status, error = refused(api, file_id=upload(api, questions(2) + questions(1, how="regex")))
    assert (status, error["param"]) == (400, "file_id")
    assert ", line 3: 'how' is one of exact, contains, json" in error["message"]
    status, error = refused(api, file_id=api.upload())
    assert (status, error["param"]) == (400, "file_id") and "purpose 'fine-tune', not 'evals'" in error["message"]
    large = b" " * (4 * 1024 * 1024) + questions()
    status, error = refused(api, file_id=upload(api, large))
    assert status == 400 and "larger than" in error["message"]
    assert refused(api, file_id="file-none")[0] == 404
    status, error = refused(api, name="formats", file_id=upload(api))
    assert (status, error["param"]) == (400, "name") and "comes with this deployment" in error["message"]
    status, error = refused(api, file_id=upload(api), limit=0.1)
    assert (status, error["code"], error["param"]) == (400, "unknown_parameter", "limit")
    assert api.get(PATH).json()["data"] == []


def test_a_second_one_of_the_same_name_is_a_conflict(api: Api):
    create(api)
    status, error = refused(api, file_id=upload(api))
    assert (status, error["code"], error["param"]) == (409, "suite_exists", "name")


def test_an_operators_names_are_taken_and_may_have_limits(make_api: Callable[..., Api], tmp_path: Path):
    (tmp_path / "house-style.jsonl").write_bytes(questions())
    api = make_api(suites_dir=tmp_path)
    status, error = refused(api, name="house-style", file_id=upload(api))
    assert (status, error["param"]) == (400, "name")
    limits = {"house-style": 0.3}
    answer = api.post("/v1/rootstock/policy", json={"release": {"suite_limits": limits}})
    assert answer.json()["release"]["suite_limits"] == limits


def test_limits_are_set_one_by_one_shown_with_the_suite_and_taken_back(api: Api):
    made = create(api)

    def limits(**asked: float | None) -> Any:
        answer = api.post("/v1/rootstock/policy", json={"release": {"suite_limits": asked}})
        return answer.json()["release"]["suite_limits"] if answer.status_code == 200 else answer.json()["error"]

    assert limits(formats=0.2) == {"formats": 0.2}
    assert limits(**{"support-tone": 0}) == {"formats": 0.2, "support-tone": 0}
    assert api.get(f"{PATH}/{made['id']}").json()["limit"] == 0
    api.post("/v1/rootstock/policy", json={"release": {"forgetting_limit": 0.1}})
    assert limits(**{"support-tone": None}) == {"formats": 0.2}
    assert api.get(f"{PATH}/{made['id']}").json()["limit"] == 0.1
    error = limits(fromats=0.1, formats=0.3)
    assert error["param"] == "release.suite_limits"
    assert "no suite named 'fromats'. There are: arithmetic, " in error["message"]
    assert limits(formats=1.5)["param"].startswith("release.suite_limits")
    assert api.get("/v1/rootstock/policy").json()["release"]["suite_limits"] == {"formats": 0.2}


def test_limits_of_suites_that_are_gone_stay_with_the_name_and_are_bounded(api: Api, monkeypatch: pytest.MonkeyPatch):
    made = create(api)
    api.post("/v1/rootstock/policy", json={"release": {"suite_limits": {"support-tone": 0.3}}})
    api.http.delete(f"{PATH}/{made['id']}")
    assert create(api)["limit"] == 0.3
    monkeypatch.setattr(policies, "MOST_LIMITS", 1)
    answer = api.post("/v1/rootstock/policy", json={"release": {"suite_limits": {"formats": 0.3}}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "release.suite_limits")
    swapped = {"formats": 0.3, "support-tone": None}
    answer = api.post("/v1/rootstock/policy", json={"release": {"suite_limits": swapped}})
    assert answer.json()["release"]["suite_limits"] == {"formats": 0.3}
