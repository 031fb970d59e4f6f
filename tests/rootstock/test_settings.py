"""What a wrong setting says, what is shown, and that a child process reads exactly what its parent read."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock.errors import ConfigurationError
from rootstock.settings import DEFAULT_ALIASES, LORA_RANKS, Settings


def refused(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env(environ)
    assert "\n" not in caught.value.message
    return caught.value.message


class TestReading:
    def test_nothing_given_is_enough(self) -> None:
        settings = Settings.from_env({"PATH": "/bin", "ROOTSTOCK_PORT": ""})
        assert settings.port == 8000
        assert settings.s3_bucket is None
        assert settings.model_aliases == DEFAULT_ALIASES

    def test_variables_are_read_and_flags_win(self) -> None:
        environ = {"ROOTSTOCK_PORT": "9000", "ROOTSTOCK_HOST": "0.0.0.0"}
        settings = Settings.from_env(environ, port=9001)
        assert (settings.host, settings.port) == ("0.0.0.0", 9001)

    @pytest.mark.parametrize(
        ("name", "hint"),
        [("ROOTSTOCK_REDIS_ULR", "ROOTSTOCK_REDIS_URL"), ("ROOTSTOCK_DATBASE_URL", "ROOTSTOCK_DATABASE_URL")],
    )
    def test_a_typo_is_refused_with_the_nearest_name(self, name: str, hint: str) -> None:
        assert refused({name: "x"}) == f"{name} is not a setting; did you mean {hint}?"

    def test_an_unknown_variable_is_refused_with_the_way_to_find_the_right_one(self) -> None:
        assert "rootstock config" in refused({"ROOTSTOCK_ZZZZZZ": "1"})

    @pytest.mark.parametrize("text", ["gpt-x=snap-1, gpt-y=snap-2", '{"gpt-x": "snap-1", "gpt-y": "snap-2"}'])
    def test_aliases_are_pairs_or_json(self, text: str) -> None:
        settings = Settings.from_env({"ROOTSTOCK_MODEL_ALIASES": text})
        assert settings.model_aliases == {"gpt-x": "snap-1", "gpt-y": "snap-2"}


class TestImpossible:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PORT", "80000"),
            ("PORT", "http"),
            ("LEASE_SECONDS", "-1"),
            ("LEASE_SECONDS", "nan"),
            ("LOG_FORMAT", "xml"),
            ("TRAINER_DEVICE", "tpu"),
            ("MAX_LORAS", "0"),
            ("GPU_MEMORY_UTILIZATION", "1.5"),
            ("MODEL_ALIASES", "just-a-name"),
            ("MODEL_ALIASES", "{broken"),
        ],
    )
    def test_a_value_out_of_range_is_named_with_what_was_given(self, name: str, value: str) -> None:
        message = refused({f"ROOTSTOCK_{name}": value})
        assert message.startswith(f"ROOTSTOCK_{name}: ")
        assert value in message

    @pytest.mark.parametrize(
        ("environ", "says"),
        [
            ({"MAX_LORA_RANK": "12"}, "max_lora_rank must be one of 1, 8, 16"),
            ({"MAX_LORAS": "8", "MAX_CPU_LORAS": "4"}, "max_cpu_loras must be at least max_loras"),
            ({"LEASE_SECONDS": "5", "HEARTBEAT_SECONDS": "4"}, "twice heartbeat_seconds"),
            ({"S3_BUCKET": "b", "S3_ACCESS_KEY_ID": "k"}, "must be set together"),
            ({"S3_ENDPOINT_URL": "http://s3"}, "s3_bucket is missing"),
            ({"ORGANIZATION": "my:org"}, "organization must not be empty"),
            ({"MODEL_ALIASES": "gpt=snap:1"}, "holds ':' or '/'"),
        ],
    )
    def test_values_that_do_not_fit_together_say_why(self, environ: dict[str, str], says: str) -> None:
        assert says in refused({f"ROOTSTOCK_{name}": value for name, value in environ.items()})

    def test_a_copy_is_checked_like_the_original(self) -> None:
        settings = Settings()
        assert settings.with_values(port=1).port == 1
        with pytest.raises(ConfigurationError, match="ROOTSTOCK_PORT"):
            settings.with_values(port=-1)


SECRETS = {
    "ROOTSTOCK_DATABASE_URL": "postgresql://rs:hunter2@db/rs",
    "ROOTSTOCK_REDIS_URL": "redis://:hunter2@redis:6379/0",
    "ROOTSTOCK_S3_BUCKET": "bucket",
    "ROOTSTOCK_S3_ACCESS_KEY_ID": "hunter2id",
    "ROOTSTOCK_S3_SECRET_ACCESS_KEY": "hunter2",
    "ROOTSTOCK_S3_ENDPOINT_URL": "https://me:hunter2@s3.example",
    "ROOTSTOCK_VLLM_URL": "http://me:hunter2@vllm:8000",
}


class TestShowing:
    def test_no_secret_is_shown(self) -> None:
        settings = Settings.from_env(SECRETS)
        for shown in (repr(settings), str(settings)):
            assert "hunter2@db" not in shown and "hunter2@redis" not in shown and "hunter2id" not in shown
        masked = settings.masked()
        assert "hunter2" not in json.dumps(masked)
        assert masked["database_url"] == "postgresql://rs:********@db/rs"
        assert masked["redis_url"] == "redis://:********@redis:6379/0"
        assert masked["s3_bucket"] == "bucket"

    def test_what_follows_from_other_settings_is_shown_too(self, tmp_path: Path) -> None:
        masked = Settings(data_dir=tmp_path, base_model="Qwen/Qwen3-0.6B").masked()
        assert masked["database_url"] == f"sqlite:///{tmp_path}/rootstock.db"
        assert masked["adapter_cache_dir"] == f"{tmp_path}/adapter-cache"
        assert masked["base_model_name"] == "Qwen3-0.6B"

    def test_every_setting_says_what_it_is_for(self) -> None:
        assert [name for name, field in Settings.model_fields.items() if not field.description] == []


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,15}", fullmatch=True)
SOME = st.fixed_dictionaries(
    {},
    optional={
        "data_dir": TEXT.map(Path),
        "database_url": TEXT,
        "redis_url": TEXT,
        "s3_bucket": TEXT,
        "s3_prefix": TEXT,
        "base_model": TEXT,
        "base_model_name": TEXT,
        "model_aliases": st.dictionaries(TEXT, NAMES, max_size=3),
        "port": st.integers(0, 65535),
        "sweep_seconds": st.floats(0.001, 1e6),
        "lease_seconds": st.floats(10, 1e6),
        "max_lora_rank": st.sampled_from(LORA_RANKS),
        "vllm_url": st.lists(NAMES.map("http://{}".format), min_size=1, max_size=3).map(",".join),
        "adapter_cache_dir": TEXT.map(Path),
        "log_format": st.sampled_from(["text", "json"]),
    },
)


@given(SOME)
def test_a_child_process_reads_what_its_parent_read(values: dict[str, Any]) -> None:
    settings = Settings.model_validate(values)
    environ = settings.to_env()
    assert not any("\0" in value for value in environ.values())
    assert Settings.from_env(environ) == settings


def test_the_round_trip_keeps_secrets() -> None:
    settings = Settings.from_env(SECRETS)
    assert Settings.from_env(settings.to_env()) == settings
    assert settings.to_env()["ROOTSTOCK_S3_SECRET_ACCESS_KEY"] == "hunter2"
