"""Puts one of everything into an API through its own routes, and finds the ids that its document's paths ask for.

Knows the names of path parameters; routes that do not exist (yet) are skipped.
"""

from typing import Any

import httpx

from scripts.api.live import BASE, MODEL, NEXT, TERMINAL, Live, batch_rows, suite_rows, training_rows
from scripts.api.operations import ASKING, GRADER, ITEMS
from tests.service.conftest import OTHER_PROJECT
from tests.waiting import eventually

JOBS = 6
EVAL = {"data_source_config": ITEMS, "testing_criteria": [GRADER]}


def seed(api: Live) -> None:
    """Fill `api`, one that we started, and note the ids under where requests name them."""
    assert api.inbox is not None
    with api.http() as http:
        training = _upload(http, "fine-tune", training_rows())
        files = [training, _upload(http, "batch", batch_rows()), *(_upload(http, "user_data", b"x") for _ in range(3))]
        jobs = [_post(http, "/v1/fine_tuning/jobs", {"model": MODEL, "training_file": training}) for _ in range(JOBS)]
        held = {"model": MODEL, "training_file": training, "metadata": {"hold": "running"}}
        jobs += [_post(http, "/v1/fine_tuning/jobs", held) for _ in range(2)]
        done = [_ended(http, job["id"]) for job in jobs[:JOBS]]
        tuned = [job["fine_tuned_model"] for job in done]
        checkpoints = [
            point["fine_tuned_model_checkpoint"]
            for job in done
            for point in http.get(f"/v1/fine_tuning/jobs/{job['id']}/checkpoints").json()["data"]
        ]
        hooks = [_post(http, "/v1/webhook_endpoints", {"url": api.inbox.url, "name": str(n)})["id"] for n in range(8)]
        granted = _post(http, f"/v1/fine_tuning/checkpoints/{tuned[0]}/permissions", {"project_ids": [OTHER_PROJECT]})
        ask = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "store": True, "metadata": {"k": "v"}}
        stored = [_post(http, "/v1/chat/completions", ask)["id"] for _ in range(8)]
        batch = {"input_file_id": files[1], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batches = [_post(http, "/v1/batches", batch | {"metadata": {"n": str(n)}})["id"] for n in range(6)]
        distil = {"source": {"type": "stored_completions"}}
        distillations = [_post(http, "/v1/rootstock/distillations", distil)["id"] for _ in range(6)]
        upgrades = [_post(http, "/v1/rootstock/upgrades", {"from": BASE, "to": NEXT})["id"] for _ in range(6)]
        piece = {"filename": "u.jsonl", "purpose": "fine-tune", "bytes": 4, "mime_type": "application/jsonl"}
        uploads = [_post(http, "/v1/uploads", piece)["id"] for _ in range(8)]
        evals = [_post(http, "/v1/evals", EVAL)["id"] for _ in range(6)]
        runs = [_post(http, f"/v1/evals/{evals[0]}/runs", {"data_source": ASKING})["id"] for _ in range(6)]
        questions = _upload(http, "evals", suite_rows())
        asked = [{"name": f"seed-{n}", "file_id": questions} for n in range(6)]
        suites = [_post(http, "/v1/rootstock/suites", suite)["id"] for suite in asked]
        api.known = {
            ("path.suite_id",): suites,
            ("body.file_id",): [questions],
            ("path.eval_id",): evals,
            ("path.run_id",): runs,
            ("path.upload_id",): uploads,
            ("path.batch_id",): batches,
            ("path.distillation_id",): distillations,
            ("path.upgrade_id",): upgrades,
            ("body.from",): [BASE],
            ("body.to",): [NEXT],
            ("body.input_file_id",): [files[1]],
            ("path.completion_id",): stored,
            ("path.webhook_endpoint_id",): hooks,
            ("path.permission_id",): [granted["data"][0]["id"]],
            ("body.project_ids[*]",): [OTHER_PROJECT],
            ("path.file_id",): [*files, *(job["result_files"][0] for job in done)],
            ("path.job_id",): [job["id"] for job in jobs],
            ("path.model", "body.model"): [*tuned, *checkpoints, MODEL],
            ("body.training_file", "body.validation_file"): [training],
        }


def _upload(http: httpx.Client, purpose: str, data: bytes) -> str:
    answer = http.post("/v1/files", data={"purpose": purpose}, files={"file": ("seed.jsonl", data)})
    return str(_ok(answer)["id"])


def _post(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    return _ok(http.post(path, json=body))


def _ok(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


def _ended(http: httpx.Client, job_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job = _ok(http.get(f"/v1/fine_tuning/jobs/{job_id}"))
        return job if job["status"] in TERMINAL else None

    ended: dict[str, Any] = eventually(look)
    return ended
