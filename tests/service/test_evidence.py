"""Evidence packs: what leads from the data to the model, valid by the published schema, harmless as a page."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import sqlalchemy as sa

from rootstock import tables
from rootstock.adapters import put_tree
from rootstock.cli.evidence import save_evidence
from rootstock.cli.exporting import Server
from rootstock.storage import open_store
from tests.rootstock.adapter_files import FACTS, write
from tests.service.conftest import Api

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "openapi/evidence.schema.json").read_text("utf-8"))


def tuned(api: Api, folder: Path, **more: Any) -> Any:
    """A job that succeeded, with its adapter in the store."""
    job = api.succeed(**more)
    put_tree(open_store(api.settings), f"adapter-{job.id[-8:]}-final", write(folder / "adapter"), **FACTS)
    return job


def evidence(api: Api, model: str, **params: str) -> Any:
    return api.get(f"/v1/rootstock/models/{model}/evidence", params=params)


def test_a_pack_leads_from_the_data_to_the_weights(api: Api, tmp_path: Path) -> None:
    job = tuned(api, tmp_path)
    pack = evidence(api, job.fine_tuned_model).json()
    jsonschema_rs.validate(SCHEMA, pack)
    lineage = pack["lineage"]
    assert lineage["job_id"] == job.id and lineage["training_file"]["id"] == job.training_file
    assert lineage["training_file"]["examples"] == 12 and len(lineage["training_file"]["sha256"]) == 64
    assert set(lineage["files"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert pack["compute"]["operations"] == 4 * pack["compute"]["base_weights"] * job.trained_tokens
    assert pack["compute"]["ratio"] is None and any(
        "ROOTSTOCK_BASE_TRAINING_FLOPS" in limit for limit in pack["limits"]
    )
    assert pack["release"] is None or pack["release"]["verdict"] == "unmeasured"
    assert any("not measured" in limit for limit in pack["limits"])


@pytest.mark.parametrize(("flops", "over"), [(1e30, False), (1.0, True)])
def test_the_share_of_the_bases_training_is_held_against_a_third(
    make_api: Any, tmp_path: Path, flops: float, over: bool
) -> None:
    api = make_api(base_training_flops=flops)
    compute = evidence(api, tuned(api, tmp_path).fine_tuned_model).json()["compute"]
    assert compute["ratio"] == compute["operations"] / flops and compute["over_threshold"] is over


def test_why_the_share_is_unknown_is_the_true_reason(api: Api, tmp_path: Path) -> None:
    job = tuned(api, tmp_path)
    with api.database.transaction() as tx:
        tx.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job.id).values(trained_tokens=None))
    limits = evidence(api, job.fine_tuned_model).json()["limits"]
    assert any("no count of trained tokens" in limit for limit in limits)
    assert not any("ROOTSTOCK_BASE_TRAINING_FLOPS" in limit for limit in limits)


def test_a_deleted_file_is_told_as_such(api: Api, tmp_path: Path) -> None:
    job = tuned(api, tmp_path)
    api.client.files.delete(job.training_file)
    pack = evidence(api, job.fine_tuned_model).json()
    assert pack["lineage"]["training_file"]["deleted"] and pack["lineage"]["training_file"]["sha256"]


def test_the_page_holds_no_markup_of_clients(api: Api, tmp_path: Path) -> None:
    name = "x](http://evil) | <b>.jsonl"
    content = b"".join(
        json.dumps({"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": "a"}]}).encode()
        + b"\n"
        for n in range(12)
    )
    file = api.client.files.create(file=(name, content), purpose="fine-tune").id
    job = tuned(api, tmp_path, training_file=file)
    page = evidence(api, job.fine_tuned_model, format="markdown")
    assert page.headers["content-type"].startswith("text/markdown")
    assert f"# Evidence for `{job.fine_tuned_model}`" in page.text and "<b>" not in page.text
    rows = [line for line in page.text.splitlines() if line.startswith("| training |")]
    assert len(rows) == 1 and rows[0].count("|") - rows[0].count("\\|") == 8


def test_what_has_no_evidence_is_refused(api: Api, tmp_path: Path) -> None:
    job = tuned(api, tmp_path)
    assert evidence(api, "rootstock-tiny").json()["error"]["param"] == "model"
    assert evidence(api, "ft:none").status_code == 404
    assert evidence(api, job.fine_tuned_model, format="pdf").status_code == 400
    with pytest.raises(Exception, match="404"):
        api.other.get(f"/rootstock/models/{job.fine_tuned_model}/evidence", cast_to=object)


def test_the_command_saves_both(api: Api, tmp_path: Path) -> None:
    job = tuned(api, tmp_path)
    server = Server(api.settings, "http://api/v1", api.client.api_key, transport=api.http._transport)
    folder = save_evidence(server, job.fine_tuned_model, tmp_path / "out")
    assert json.loads((folder / "evidence.json").read_text())["model"] == job.fine_tuned_model
    assert (folder / "evidence.md").read_text().startswith("# Evidence for")
