"""The API process' own commands, as an operator types them."""

from pathlib import Path

import pytest

from rootstock import keys
from rootstock.db import Database
from service.__main__ import main


def test_a_key_for_any_project_and_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("ROOTSTOCK_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("rootstock.telemetry.configure_logging", lambda *_: None)  # it would outlive the test
    assert main(["migrate"]) == 0
    made = {}
    for arguments in ([], ["--project", "proj_lab", "--role", "member"]):
        assert main(["key", "--name", "ci", *arguments]) == 0
        database = Database(f"sqlite:///{tmp_path}/rootstock.db")
        with database.read() as tx:
            caller = keys.authenticate(tx, capsys.readouterr().out.strip())
        database.close()
        made[caller.project_id] = caller.role
    assert made == {"proj_default": "owner", "proj_lab": "member"}
    assert main(["key", "--project", "lab"]) == 2
    assert "not a project id" in capsys.readouterr().err
