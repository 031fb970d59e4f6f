"""Settings become vLLM's arguments and variables."""

import subprocess
import sys
from pathlib import Path

import pytest

from rootstock.settings import Settings
from serving.__main__ import Platform, vllm_arguments, vllm_environment


def pairs(arguments: list[str]) -> dict[str, str | None]:
    """`--flag value` and bare `--flag` as one dictionary."""
    found: dict[str, str | None] = {}
    for position, word in enumerate(arguments):
        if word.startswith("--"):
            following = arguments[position + 1] if position + 1 < len(arguments) else "--"
            found[word] = None if following.startswith("--") else following
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, base_model="models/Base-1B", vllm_port=9001)


def test_the_base_is_served_under_its_public_name_at_the_private_address(settings: Settings, tmp_path: Path) -> None:
    flags = pairs(vllm_arguments(settings, "cpu", tmp_path, None))
    assert flags["--model"] == str(tmp_path)
    assert flags["--served-model-name"] == "Base-1B"
    assert (flags["--host"], flags["--port"]) == ("127.0.0.1", "9001")
    assert "--enable-lora" in flags


def test_limits_come_from_the_settings(settings: Settings, tmp_path: Path) -> None:
    limited = settings.with_values(max_loras=2, max_cpu_loras=9, max_lora_rank=64, max_context_tokens=700)
    flags = pairs(vllm_arguments(limited, "cpu", tmp_path, None))
    assert flags["--max-loras"] == "2"
    assert flags["--max-cpu-loras"] == "9"
    assert flags["--max-lora-rank"] == "64"
    assert flags["--max-model-len"] == "700"
    assert "--max-model-len" not in pairs(vllm_arguments(settings, "cpu", tmp_path, None))


def test_tools_are_chosen_by_the_model_where_a_parser_is_named(settings: Settings, tmp_path: Path) -> None:
    assert "--enable-auto-tool-choice" not in pairs(vllm_arguments(settings, "gpu", tmp_path, None))
    flags = pairs(vllm_arguments(settings.with_values(tool_call_parser="hermes"), "gpu", tmp_path, None))
    assert flags["--tool-call-parser"] == "hermes" and "--enable-auto-tool-choice" in flags


def test_a_cpu_and_a_gpu_get_their_own(settings: Settings, tmp_path: Path) -> None:
    cpu, gpu = (pairs(vllm_arguments(settings, platform, tmp_path, None)) for platform in ("cpu", "gpu"))
    assert "--no-enable-chunked-prefill" in cpu
    assert "--gpu-memory-utilization" not in cpu
    assert gpu["--gpu-memory-utilization"] == "0.85"
    assert "--dtype" not in gpu
    assert "--enforce-eager" not in gpu


@pytest.mark.parametrize(("native", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_cpu_serves_in_what_it_multiplies_itself(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, dtype: str
) -> None:
    monkeypatch.setattr("serving.__main__.computes_bfloat16", lambda: native)
    assert pairs(vllm_arguments(settings, "cpu", tmp_path, None))["--dtype"] == dtype


def test_the_identity_adapter_is_listed_where_there_is_one(settings: Settings, tmp_path: Path) -> None:
    flags = pairs(vllm_arguments(settings, "cpu", tmp_path, tmp_path / "identity"))
    assert flags["--lora-modules"] == f"identity-lora={tmp_path / 'identity'}"
    assert "--lora-modules" not in pairs(vllm_arguments(settings, "cpu", tmp_path, None))


def test_the_chat_template_is_the_very_file_of_the_base(settings: Settings, tmp_path: Path) -> None:
    assert "--chat-template" not in pairs(vllm_arguments(settings, "cpu", tmp_path, None))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    flags = pairs(vllm_arguments(settings, "cpu", tmp_path, None))
    assert flags["--chat-template"] == str(tmp_path / "chat_template.jinja")


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_only_our_plugin_runs_and_nothing_is_reported_home(settings: Settings, platform: Platform) -> None:
    variables = vllm_environment(settings, platform, cores=8)
    assert variables["VLLM_PLUGINS"] == "rootstock"
    assert variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert variables["VLLM_NO_USAGE_STATS"] == variables["DO_NOT_TRACK"] == variables["HF_HUB_OFFLINE"] == "1"
    assert "--trust-remote-code" not in vllm_arguments(settings, platform, Path("base"), None)


@pytest.mark.parametrize(("cores", "threads"), [(1, "1"), (2, "1"), (16, "15")])
def test_a_core_is_left_to_the_rest_of_the_stack(settings: Settings, cores: int, threads: str) -> None:
    variables = vllm_environment(settings, "cpu", cores=cores)
    assert variables["OMP_NUM_THREADS"] == threads
    assert "OMP_NUM_THREADS" not in vllm_environment(settings, "gpu", cores=cores)


@pytest.mark.parametrize(
    ("level", "shown"), [("debug", "INFO"), ("info", "WARNING"), ("warning", "WARNING"), ("error", "ERROR")]
)
def test_vllm_is_quieter_than_we_are(settings: Settings, level: str, shown: str) -> None:
    variables = vllm_environment(settings.with_values(log_level=level), "cpu", cores=2)
    assert variables["VLLM_LOGGING_LEVEL"] == shown


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )


@pytest.mark.integration
def test_help_shows_how_to_start_it() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert ".venv-vllm/bin/python -m serving" in shown.stdout
    assert "-m serving --model" in shown.stdout


@pytest.mark.integration
def test_an_interpreter_without_vllm_is_told_where_it_is() -> None:
    refused = run()
    assert refused.returncode == 2
    assert ".venv-vllm/bin/python" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.integration
def test_an_unknown_setting_refuses_to_start() -> None:
    refused = run(ROOTSTOCK_VLLM_PROT="1")
    assert refused.returncode == 2
    assert "ROOTSTOCK_VLLM_PORT" in refused.stderr
