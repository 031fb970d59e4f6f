"""One job's report: what others wrote down, in one place, for its own project only, harmless as a page."""

from collections.abc import Callable
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal

from rootstock import events
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm
from tests.service.releasing import LABELS, Measured, Models, label

Make = Callable[..., Measured]
EVIL = "<script>alert('x')</script>"


@pytest.fixture
def make(make_api: Callable[..., Api], vllm: FakeVllm, portal: BlockingPortal) -> Make:
    def start(models: Models | None = None, **settings: Any) -> Measured:
        return Measured(make_api(**settings), vllm, portal, models or Models())

    return start


def report(api: Api, job_id: str) -> Any:
    answer = api.get(f"/v1/rootstock/jobs/{job_id}/report")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_measured_job_shows_verdict_confusion_and_worst_examples(make: Make) -> None:
    gate = make(Models(tuned=lambda n: label(n) if n % 8 else EVIL))
    job = gate.finished()
    told = report(gate.api, job.id)
    assert told["release"] == job.rootstock["release"]
    assert told["fine_tuned_model"] == job.fine_tuned_model and told["status"] == "succeeded"
    assert len(told["scores"]["tuned"]) == len(told["scores"]["zero_shot"]) == 24
    tuned = sum(told["scores"]["tuned"]) / 24
    assert abs(tuned - told["release"]["scores"]["tuned"]["mean"]) < 1e-3, "every number can be made again"
    table = told["confusion"]
    assert table["labels"] == sorted(LABELS) and sum(map(sum, table["counts"])) == 24
    wrong = [one for one in told["worst"] if one["after"] == EVIL]
    assert wrong and len(wrong) == sum(row[-1] for row in table["counts"])
    assert all(one["score_after"] == 0 and one["question"] and one["right"] in LABELS for one in wrong)
    page = gate.api.get(f"/v1/rootstock/jobs/{job.id}/report.html")
    assert page.headers["content-type"].startswith("text/html") and "<svg" in page.text
    assert EVIL not in page.text and "&lt;script&gt;" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_curves_are_what_training_told_and_thinned(api: Api) -> None:
    job = api.succeed()
    with api.database.transaction() as tx:
        for step in range(1, 1203):
            data = {"step": step, "train_loss": 3.0 / step} | ({"valid_loss": 2.0} if step % 400 == 0 else {})
            events.add(tx, job.id, "proj_default", f"Step {step}", type="metrics", data=data)
    curves = report(api, job.id)["curves"]
    assert 300 < len(curves["train_loss"]) <= 500 and curves["train_loss"][0] == {"step": 1, "value": 3.0}
    steps = [point["step"] for point in curves["train_loss"]]
    assert steps[-1] == 1202 and steps == sorted(set(steps)), "the end of a curve is what is read"
    assert [point["step"] for point in curves["valid_loss"]] == [400, 800, 1200]
    assert curves["reward"] == [] and "<polyline" in api.get(f"/v1/rootstock/jobs/{job.id}/report.html").text


def test_a_job_that_has_just_been_created_has_an_estimate_and_nothing_else(api: Api) -> None:
    told = report(api, api.job().id)
    assert (told["release"], told["confusion"], told["worst"], told["fine_tuned_model"]) == (None, None, [], None)
    steps = told["estimate"]["steps"]
    assert steps["actual"] is None and steps["estimated"]["mean"] > 0


def test_what_a_job_took_stands_beside_its_estimate(api: Api) -> None:
    told = report(api, api.succeed().id)["estimate"]
    assert told["trained_tokens"]["actual"] > 0 and told["seconds"]["actual"] is not None


def test_a_deleted_file_is_shown_no_more(make: Make) -> None:
    gate = make(Models(tuned=lambda _: "wrong"))
    job = gate.finished()
    assert report(gate.api, job.id)["worst"]
    gate.api.client.files.delete(job.validation_file)
    told = report(gate.api, job.id)
    assert told["worst"] == [] and told["confusion"] is None and told["release"] is not None


@pytest.mark.parametrize("page", ["report", "report.html"])
def test_a_job_of_another_project_is_not_there(api: Api, page: str) -> None:
    job = api.job()
    for path in (f"/rootstock/jobs/{job.id}/{page}", f"/rootstock/jobs/ftjob-none/{page}"):
        with pytest.raises(Exception, match="404"):
            api.other.get(path, cast_to=object)
