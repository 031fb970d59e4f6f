"""The commands as a user types them; what `up` would start is read from its plan, the real stack is acceptance."""

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rootstock import __version__, keys, usage
from rootstock.cli.app import run
from rootstock.cli.database import prepare
from rootstock.cli.terminal import Terminal
from rootstock.db import Database
from rootstock.errors import InvalidApiKey
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
