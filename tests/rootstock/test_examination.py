"""Large files are examined in another process: the same report, whatever is left unread; it does not die in silence."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from rootstock import examination, examiner
from rootstock.db import Database
from rootstock.storage import LocalStore
from tests.service.conftest import chat_rows

TRAINING, VALIDATION = ("file-training", "files/training"), ("file-validation", "files/validation")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    store.put_bytes(TRAINING[1], chat_rows(40) + b"broken\n" + chat_rows(2))
    store.put_bytes(VALIDATION[1], chat_rows(5))
    return store


def made(database: Database, store: LocalStore) -> dict[str, Any]:
    return examination.of_files(database, store, TRAINING, VALIDATION, context=2048, max_line_bytes=1 << 20)


def test_another_process_reports_the_same(
    database: Database, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [store.get(key) for _, key in (TRAINING, VALIDATION)]
    here = examination.examined(contents, context=2048, max_line_bytes=1 << 20)
    monkeypatch.setattr(examination, "SMALL_BYTES", 0)
    monkeypatch.setattr(examination, "examined", None)  # it is not made here
    there = made(database, store)
    assert {f["kind"] for f in there["findings"]} >= {"invalid_json", "exact_duplicate", "split_leak"}
    assert there["findings"] == here["findings"] and there["summary"] == here["summary"]


def test_what_is_left_of_the_first_file_is_not_taken_for_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, told = io.BytesIO(), io.StringIO()
    for content in (chat_rows(40), chat_rows(3)):
        examination.send(pipe, [content[:1000], b"", content[1000:]])
    pipe.seek(0)
    monkeypatch.setattr(examination, "MOST_LINES", 10)
    monkeypatch.setattr(os, "nice", lambda _: 0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
    monkeypatch.setattr(sys, "stdout", told)
    examiner.main("2048", str(1 << 20), "2")
    summary = json.loads(told.getvalue())["summary"]
    assert summary["examined"]["training"] == {"lines": 10, "whole": False}
    assert summary["examined"]["validation"] == {"lines": 3, "whole": True}


def test_no_more_is_sent_than_is_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "MOST_LINES", 10)
    monkeypatch.setattr(examination, "MOST_BYTES", 1000)
    pipe = io.BytesIO()
    examination.send(pipe, (b"x" * 100 for _ in range(1000)))
    assert len(pipe.getvalue()) < 2000
    pipe.seek(0)
    assert len(b"".join(examination.receive(pipe))) > 1000


def test_content_that_is_cut_off_is_not_reported_on() -> None:
    pipe = io.BytesIO()
    examination.send(pipe, [chat_rows(5)])
    with pytest.raises(EOFError):
        list(examination.receive(io.BytesIO(pipe.getvalue()[:-10])))


def test_a_process_that_dies_is_an_error_and_nothing_is_kept(
    database: Database, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "SMALL_BYTES", 0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="ended with 1"):
        made(database, store)
    monkeypatch.undo()
    assert made(database, store)["findings"]
