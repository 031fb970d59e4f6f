"""What a project lets through: read by all, set by owners, changed piece by piece, its own."""

from collections.abc import Callable

from rootstock import keys
from rootstock.quality.kinds import Kind
from tests.service.conftest import Api

DEFAULT = {
    "object": "rootstock.policy",
    "data": {"blocking": []},
    "release": {"mode": "inform", "forgetting_limit": 0.05, "suite_limits": {}},
}


def test_it_is_changed_piece_by_piece_and_is_the_projects_own(api: Api):
    assert api.get("/v1/rootstock/policy").json() == DEFAULT
    assert api.post("/v1/rootstock/policy", json={"release": {"mode": "enforce"}}).status_code == 200
    kinds = [Kind.CONTRADICTION, Kind.SPLIT_LEAK]
    answer = api.post("/v1/rootstock/policy", json={"data": {"blocking": kinds}})
    wanted = DEFAULT | {
        "data": {"blocking": kinds},
        "release": {"mode": "enforce", "forgetting_limit": 0.05, "suite_limits": {}},
    }
    assert answer.json() == wanted == api.get("/v1/rootstock/policy").json()
    other = api.get("/v1/rootstock/policy", headers={"Authorization": f"Bearer {api.other.api_key}"})
    assert other.json() == DEFAULT


def test_what_is_no_kind_is_named(api: Api):
    answer = api.post("/v1/rootstock/policy", json={"data": {"blocking": ["contradiction", "ugly"]}})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "data.blocking[1]", "invalid_value")
    assert "secret" in error["message"]


def test_members_read_only(make_api: Callable[..., Api]):
    api = make_api()
    with api.database.transaction() as tx:
        member = keys.create(tx, "proj_default", "m", keys.MEMBER)
    headers = {"Authorization": f"Bearer {member}"}
    assert api.get("/v1/rootstock/policy", headers=headers).status_code == 200
    assert api.post("/v1/rootstock/policy", json={}, headers=headers).status_code == 403
