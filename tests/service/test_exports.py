"""Taking a tuned model away: the tar through the API, who may have it, and what becomes of damage in the store."""

import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from rootstock.adapters import Manifest, base_fingerprint, put_tree, unpack
from rootstock.cli.exporting import Server, Wanted, export, list_models
from rootstock.errors import AdapterInvalid, ConfigurationError, ExportFailed, ImportStopped
from rootstock.importing.remote import Refused
from rootstock.settings import BUILT_IN_BASE, Settings
from rootstock.storage import Store
from service.app import create_app
from tests.rootstock.adapter_files import FACTS, FULL_FACTS, ID, good_tensors, write, write_model
from tests.service.conftest import OTHER_PROJECT, Api, served

NAME = "ft:Qwen/X:org:s:id123456"
WEIGHTS = f"adapters/{ID}/adapter_model.safetensors"


def stored(api: Api) -> Store:
    return api.app.state.parts.store


@pytest.fixture
def manifest(api: Api, tmp_path: Path) -> Manifest:
    return put_tree(stored(api), ID, write(tmp_path / "adapter"), **FACTS)


@pytest.fixture
def name(api: Api, manifest: Manifest) -> str:
    return api.model(NAME, ID)


def path(name: str, query: str = "") -> str:
    return f"/v1/rootstock/models/{name.replace('/', '%2F')}/export{query}"


def refused(answer: httpx.Response, status: int, param: str | None, code: str | None) -> str:
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
    assert "content-disposition" not in answer.headers
    return str(error["message"])


def damage(store: Store, key: str = WEIGHTS, change: Callable[[bytes], bytes] = lambda data: data[:-1] + b"!") -> bytes:
    """Change a stored object behind everybody's back; what it was."""
    before = store.get_bytes(key)
    store.put_bytes(key, change(before))
    return before


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(5, 40)[None]).logits
    return found


def tuned(api: Api, scratch: Path) -> tuple[str, torch.Tensor]:
    """A ready model with an adapter that PEFT itself wrote for the built-in base, and what the two answer."""
    torch.manual_seed(0)
    targets = ["q_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    model: Any = get_peft_model(load(BUILT_IN_BASE), config)
    model.peft_config["default"].base_model_name_or_path = "rootstock-tiny"
    model.peft_config["default"].init_lora_weights = True  # how it began is of no interest to who loads it
    model.save_pretrained(scratch / "adapter", save_embedding_layers=False)
    facts = {"base": "rootstock-tiny", "base_sha256": base_fingerprint(BUILT_IN_BASE), "target_modules": targets}
    put_tree(stored(api), ID, scratch / "adapter", **FACTS | facts)
    return api.model(NAME, ID), logits(model)


class TestArchive:
    def test_it_is_a_tar_of_the_files_as_they_are_stored(self, api: Api, name: str, manifest: Manifest) -> None:
        answer = api.get(path(name))
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/x-tar"
        assert answer.headers["content-disposition"] == 'attachment; filename="ft-Qwen-X-org-s-id123456.tar"'
        assert int(answer.headers["content-length"]) == len(answer.content)
        with tarfile.open(fileobj=io.BytesIO(answer.content), mode="r:") as archive:
            members = archive.getmembers()
            content = {member.name: archive.extractfile(member).read() for member in members}
        assert list(content) == ["README.md", "manifest.json", "adapter_config.json", "adapter_model.safetensors"]
        assert all(member.isreg() and (member.uid, member.mode) == (0, 0o644) for member in members)
        assert Manifest.model_validate_json(content["manifest.json"]) == manifest
        for file in manifest.files:
            assert content[file] == stored(api).get_bytes(f"adapters/{ID}/{file}")
        card = content["README.md"].decode()
        assert card.startswith(f"# {name}\n") and f"`{'0' * 64}`" in card and "base model: `tiny`" in card
        assert "PeftModel.from_pretrained(base," in card

    def test_the_same_model_is_the_same_archive(self, api: Api, name: str) -> None:
        assert api.get(path(name)).content == api.get(path(name, "?format=peft")).content

    def test_the_sdk_streams_it(self, api: Api, name: str, manifest: Manifest, tmp_path: Path) -> None:
        url = path(name).removeprefix("/v1")
        answer = api.client.get(url, cast_to=httpx.Response)
        (tmp_path / "got").mkdir()
        assert unpack(answer.iter_bytes(1000), tmp_path / "got") == manifest

    def test_a_checkpoint_too(self, api: Api, tmp_path: Path) -> None:
        api.job()
        job = api.claim()
        checkpoint = api.checkpoint(job, 3)
        put_tree(stored(api), f"adapter-{job.id[-8:]}-3", write(tmp_path / "adapter"), **FACTS)
        answer = api.get(path(checkpoint))
        assert answer.status_code == 200 and "ckpt-step-3.tar" in answer.headers["content-disposition"]

    def test_a_whole_model_in_shards(self, api: Api, tmp_path: Path) -> None:
        put_tree(stored(api), ID, write_model(tmp_path / "model", shards=3), **FULL_FACTS)
        answer = api.get(path(api.model(NAME, ID)))
        (tmp_path / "got").mkdir()
        unpack(iter([answer.content]), tmp_path / "got")
        for file in (tmp_path / "model").iterdir():
            assert (tmp_path / "got" / file.name).read_bytes() == file.read_bytes()
        card = (tmp_path / "got" / "README.md").read_text()
        assert "A whole language model" in card and "PeftModel" not in card

    def test_peft_loads_it(self, api: Api, tmp_path: Path) -> None:
        name, wanted = tuned(api, tmp_path)
        with tarfile.open(fileobj=io.BytesIO(api.get(path(name)).content)) as archive:
            archive.extractall(tmp_path / "got", filter="data")
        base = load(BUILT_IN_BASE)
        assert not torch.allclose(logits(base), wanted, atol=0.1)
        torch.testing.assert_close(logits(PeftModel.from_pretrained(base, str(tmp_path / "got"))), wanted)


class TestWho:
    def test_another_projects_model_is_not_there(self, api: Api, manifest: Manifest) -> None:
        theirs = api.model(NAME, ID, project=OTHER_PROJECT)
        absent = refused(api.get(path("ft:a:b::nothere")), 404, "model", "model_not_found")
        assert refused(api.get(path(theirs)), 404, "model", "model_not_found") == absent.replace(
            "ft:a:b::nothere", theirs
        )

    def test_a_project_that_was_let_in_may_until_it_is_not(self, api: Api, name: str) -> None:
        key = {"Authorization": f"Bearer {api.other.api_key}"}
        assert api.get(path(name), headers=key).status_code == 404
        permissions = api.client.fine_tuning.checkpoints.permissions
        (granted,) = permissions.create(name, project_ids=[OTHER_PROJECT])
        assert api.get(path(name), headers=key).status_code == 200
        permissions.delete(granted.id, fine_tuned_model_checkpoint=name)
        assert api.get(path(name), headers=key).status_code == 404

    def test_a_deleted_model_is_gone(self, api: Api, name: str) -> None:
        api.client.models.delete(name)
        refused(api.get(path(name)), 404, "model", "model_not_found")

    def test_a_model_that_was_not_seen_answering_is_not_there(self, api: Api, tmp_path: Path) -> None:
        api.job()
        job = api.finalize(api.claim())
        put_tree(stored(api), f"adapter-{job.id[-8:]}-final", write(tmp_path / "adapter"), **FACTS)
        final = api.client.fine_tuning.jobs.checkpoints.list(job.id).data[0].fine_tuned_model_checkpoint
        assert api.get(path(final)).status_code == 404

    def test_without_a_key_nothing(self, api: Api, name: str) -> None:
        assert api.get(path(name), headers={"Authorization": ""}).status_code == 401

    @pytest.mark.parametrize("model", ["rootstock-tiny", "gpt-4o-mini", "gpt-4o-mini-2024-07-18"])
    def test_a_base_model_is_refused(self, api: Api, model: str) -> None:
        message = refused(api.get(path(model)), 400, "model", None)
        assert message.startswith(f"The model '{model}' is a base model")

    @pytest.mark.parametrize("model", ["None", "../x", "a b", "é", "x" * 5000, "%00"])
    def test_what_never_was_is_404(self, api: Api, model: str) -> None:
        assert api.get(path(model)).status_code == 404


class TestFormat:
    def test_merged_models_are_the_command_lines(self, api: Api, name: str) -> None:
        message = refused(api.get(path(name, "?format=merged")), 400, "format", "unsupported_value")
        assert "rootstock models export MODEL --format merged" in message

    def test_another_is_refused(self, api: Api, name: str) -> None:
        message = refused(api.get(path(name, "?format=gguf")), 400, "format", "invalid_value")
        assert message == "Invalid value: 'gguf'. Supported values are: 'peft'."


class TestDamage:
    """What can be seen before the first byte is an error object, what cannot breaks the answer off."""

    @pytest.mark.parametrize("key", ["manifest.json", "adapter_model.safetensors", "adapter_config.json"])
    def test_a_missing_file_is_an_error(self, api: Api, name: str, key: str) -> None:
        stored(api).delete(f"adapters/{ID}/{key}")
        answer = api.get(path(name))
        assert refused(answer, 500, None, "model_damaged").startswith(f"The stored files of the model '{name}'")
        assert answer.headers["x-should-retry"] == "false"

    @pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"!", lambda data: b""])
    def test_a_file_of_another_size_is_an_error(self, api: Api, name: str, change: Any) -> None:
        damage(stored(api), change=change)
        refused(api.get(path(name)), 500, None, "model_damaged")

    @pytest.mark.parametrize("text", [b"", b"{", b"{}", b"x" * 2**21])
    def test_a_manifest_that_is_none_is_an_error(self, api: Api, name: str, text: bytes) -> None:
        damage(stored(api), f"adapters/{ID}/manifest.json", lambda _: text)
        refused(api.get(path(name)), 500, None, "model_damaged")

    @pytest.mark.parametrize("key", ["adapter_model.safetensors", "adapter_config.json"])
    def test_a_file_with_other_bytes_breaks_the_answer_off(
        self, api: Api, name: str, key: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        before = damage(stored(api), f"adapters/{ID}/{key}")
        answer = api.get(path(name))
        assert len(answer.content) < int(answer.headers["content-length"])
        assert before not in answer.content and before[:-1] not in answer.content, "the wrong file never comes whole"
        assert f"the export of {name} was broken off: {key} of adapter {ID} has another SHA-256" in caplog.text
        with pytest.raises(AdapterInvalid):
            unpack(iter([answer.content]), tmp_path)


@pytest.mark.integration
class TestOverHttp:
    """A real server and the command line."""

    @pytest.fixture
    def url(self, settings: Settings, tmp_path: Path) -> Iterator[str]:
        with served(create_app(settings.with_values(redis_url="redis://127.0.0.1:1/0", vllm_url=None))) as url:
            yield f"{url}/v1"

    def server(self, api: Api, url: str) -> Server:
        return Server(api.settings, url, api.key, sleep=lambda _: None)

    def test_the_command_line_lists_and_saves_it(
        self, api: Api, url: str, name: str, manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        listed = list_models(self.server(api, url))
        assert any(line.endswith(name) and "rootstock" in line for line in listed)
        assert any(line.split() == ["base", "rootstock-tiny"] for line in listed)
        out = tmp_path / "out"
        assert export(self.server(api, url), Wanted(name, out, "peft", None)) == 0
        assert {file.name for file in out.iterdir()} == {"README.md", "manifest.json", *manifest.files}
        assert json.loads((out / "manifest.json").read_text())["adapter_id"] == ID
        assert f"Saved to {out}: the adapter, made on tiny" in capsys.readouterr().out

    def test_it_saves_it_merged_with_its_base(
        self, api: Api, url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        name, wanted = tuned(api, tmp_path)
        out = tmp_path / "out"
        assert export(self.server(api, url), Wanted(name, out, "merged", str(BUILT_IN_BASE))) == 0
        said = capfd.readouterr().out
        assert "merged into rootstock-tiny, saved in bfloat16" in said and f"Saved to {out}: a model that needs" in said
        assert sorted(file.name for file in out.iterdir()) == sorted(
            file.name for file in BUILT_IN_BASE.iterdir() if file.name != "README.md"
        )
        assert (logits(load(out)) - wanted).abs().mean() < 0.05 < (logits(load(BUILT_IN_BASE)) - wanted).abs().mean()
        with pytest.raises(ExportFailed, match=r"could not be merged \(exit code 2\)"):
            export(self.server(api, url), Wanted(name, tmp_path / "no", "merged", str(tmp_path)))
        assert "holds no base model" in capfd.readouterr().err and not (tmp_path / "no").exists()

    def test_damage_cuts_the_connection(self, api: Api, url: str, name: str, tmp_path: Path) -> None:
        damage(stored(api))
        headers = {"Authorization": f"Bearer {api.key}"}
        with httpx.stream("GET", url.removesuffix("/v1") + path(name), headers=headers) as cut:
            assert cut.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                cut.read()
        out = tmp_path / "out"
        with pytest.raises(ImportStopped, match="cannot be used at"):
            export(self.server(api, url), Wanted(name, out, "peft", None))
        assert not out.exists() and not list(tmp_path.glob(".*part"))

    def test_what_the_server_refuses_is_one_sentence(self, api: Api, url: str, name: str, tmp_path: Path) -> None:
        stranger = Server(api.settings, url, str(api.other.api_key))
        with pytest.raises(Refused, match=f"The model '{name}' does not exist"):
            export(stranger, Wanted(name, tmp_path / "out", "peft", None))
        with pytest.raises(ConfigurationError, match="Rootstock refused the key"):
            export(Server(api.settings, url, "sk-wrong"), Wanted(name, tmp_path / "out", "peft", None))
        stored(api).delete(WEIGHTS)  # damage that the server sees is not asked for again
        with pytest.raises(Refused, match="The stored files of the model"):
            export(Server(api.settings, url, api.key, sleep=pytest.fail), Wanted(name, tmp_path / "out", "peft", None))
        assert not (tmp_path / "out").exists()

    def test_a_large_model_passes_in_bounded_memory(self, api: Api, url: str, tmp_path: Path) -> None:
        tensors = good_tensors() | {"padding": ("F32", [16_000_000], bytes(64_000_000))}
        put_tree(stored(api), ID, write(tmp_path / "adapter", tensors), **FACTS)
        name = api.model(NAME, ID)
        del tensors
        tracemalloc.start()
        try:
            export(self.server(api, url), Wanted(name, tmp_path / "out", "peft", None))
            assert tracemalloc.get_traced_memory()[1] < 32_000_000
        finally:
            tracemalloc.stop()
