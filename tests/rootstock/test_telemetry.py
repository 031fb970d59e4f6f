"""What a line of the log looks like, whoever logs it; no text can pass for a record of its own."""

import io
import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from rootstock import telemetry
from rootstock.errors import ConfigurationError
from rootstock.settings import Settings

Lines = Callable[[], list[str]]


@pytest.fixture
def stream(capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    """Standard error of a process; logging is put back as it was afterwards."""
    root = logging.getLogger()
    handlers, hooks = root.handlers[:], (sys.excepthook, threading.excepthook)
    touched = [root, *(logging.getLogger(name) for name in (*telemetry.CHATTY, *telemetry.OWN_HANDLERS))]
    levels = [logger.level for logger in touched]
    written = [""]

    def lines() -> list[str]:
        written[0] += capsys.readouterr().err
        return written[0].split("\n")[:-1]

    yield lines
    root.handlers[:] = handlers
    for logger, level in zip(touched, levels, strict=True):
        logger.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(False)


def as_json(**changes: Any) -> None:
    telemetry.configure_logging(Settings(log_format="json", **changes), "worker")


def as_text(**changes: Any) -> None:
    telemetry.configure_logging(Settings(log_format="text", **changes), "worker")


log = logging.getLogger("rootstock.somewhere")


def failing() -> None:
    raise ValueError("first\nsecond 00:00:00 info    forged")


def log_failure() -> None:
    try:
        failing()
    except ValueError:
        log.exception("it broke")


class TestJson:
    def test_a_record_is_one_object_with_its_context(self, stream: Lines) -> None:
        as_json()
        with telemetry.log_context(request_id="req_1"), telemetry.log_context(job_id="ftjob-1"):
            log.warning("step %d", 3)
        log.info("outside")
        first, second = map(json.loads, stream())
        assert first.pop("time").endswith("Z")
        assert first == {
            "level": "warning",
            "process": "worker",
            "logger": "rootstock.somewhere",
            "message": "step 3",
            "request_id": "req_1",
            "job_id": "ftjob-1",
        }
        assert "job_id" not in second

    def test_a_traceback_is_a_field(self, stream: Lines) -> None:
        as_json()
        log_failure()
        (line,) = stream()
        assert "in failing" in json.loads(line)["exception"]

    def test_any_text_stays_on_its_line(self, stream: Lines) -> None:
        as_json()
        log.info('a\r\n\x1b[2J\u2028"\ud800')
        (line,) = stream()
        assert line.isascii()
        assert json.loads(line)["message"] == 'a\r\n\x1b[2J\u2028"\ud800'

    def test_context_cannot_replace_the_records_own_fields(self, stream: Lines) -> None:
        as_json()
        with telemetry.log_context(level="debug"):
            log.error("x")
        assert json.loads(stream()[0])["level"] == "error"


class TestText:
    def test_a_record_is_a_short_line(self, stream: Lines) -> None:
        as_text()
        with telemetry.log_context(job_id="ftjob-1"):
            log.info("claimed")
        (line,) = stream()
        assert line[8:] == " info    claimed  job_id=ftjob-1"

    def test_no_text_can_start_a_line_or_move_the_cursor(self, stream: Lines) -> None:
        as_text()
        with telemetry.log_context(request_id="x\n00:00:00 info    forged"):
            log.info("file %s", "a\r\nb\x1b[2J\x9b\u2028\x00")
        (line,) = stream()
        assert r"a\r\nb\x1b[2J\x9b\u2028\x00" in line
        assert r"x\n00:00:00" in line

    def test_a_traceback_follows_indented(self, stream: Lines) -> None:
        as_text()
        log_failure()
        first, *rest = stream()
        assert first.endswith("it broke")
        assert rest[0] == "    Traceback (most recent call last):"
        assert all(line.startswith("    ") for line in rest)
        assert any("forged" in line for line in rest)


@pytest.mark.parametrize("configure", [as_json, as_text])
class TestBoth:
    def test_keys_and_passwords_are_starred_out(self, configure: Callable[[], None], stream: Lines) -> None:
        configure()
        log.warning("used %s on %s", "sk-rs-abcdefgh-0123456789abcdefghij", "postgresql://user:pa55word@host/db")
        (line,) = stream()
        assert "0123456789" not in line and "pa55word" not in line
        assert "postgresql://user:***@host/db" in line and "sk-" in line

    @pytest.mark.parametrize(
        "name", ["uvicorn.error", "uvicorn.access", "rq.worker", "sqlalchemy.engine", "py.warnings"]
    )
    def test_every_library_logs_in_our_format_once(
        self, name: str, configure: Callable[[], None], stream: Lines
    ) -> None:
        noisy = logging.getLogger(name)
        noisy.addHandler(logging.StreamHandler(io.StringIO())) if name.startswith(("uvicorn", "rq")) else None
        configure()
        configure()
        noisy.warning("hello from elsewhere")
        assert len(stream()) == 1
        assert "hello from elsewhere" in stream()[0]
        assert not noisy.handlers

    def test_an_uncaught_error_of_a_thread_is_a_record(self, configure: Callable[[], None], stream: Lines) -> None:
        configure()
        thread = threading.Thread(target=failing)
        thread.start()
        thread.join()
        assert "stopped by an error" in stream()[0]
        assert "in failing" in "\n".join(stream())

    def test_an_uncaught_error_of_the_process_is_a_record(self, configure: Callable[[], None], stream: Lines) -> None:
        configure()
        try:
            failing()
        except ValueError as error:
            sys.excepthook(ValueError, error, error.__traceback__)
        sys.excepthook(SystemExit, SystemExit(0), None)
        assert sum("stopped by an error" in line for line in stream()) == 1


def test_the_level_is_the_settings(stream: Lines) -> None:
    as_text(log_level="warning")
    log.info("quiet")
    log.warning("loud")
    assert len(stream()) == 1


def test_debug_is_ours_and_not_that_of_libraries_which_sign_requests(stream: Lines) -> None:
    as_text(log_level="debug")
    log.debug("ours")
    logging.getLogger("botocore.auth").debug("Signature: secret")
    assert len(stream()) == 1


def test_every_metric_is_ours_and_is_rendered() -> None:
    telemetry.REQUESTS.labels("/v1/files", "GET", "200").inc()
    telemetry.SWEEP_REPAIRS.labels("unrung").inc()
    text, kind = telemetry.render()
    assert kind.startswith("text/plain")
    assert b'rootstock_requests_total{method="GET",route="/v1/files",status="200"}' in text
    assert b'rootstock_sweep_repairs_total{rule="unrung"}' in text


@pytest.mark.integration
def test_metrics_are_served_on_a_port_of_their_own() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    telemetry.serve("127.0.0.1", port)
    shown = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    assert "rootstock_train_memory_bytes" in shown
    with pytest.raises(ConfigurationError, match=f"cannot be served on 127.0.0.1:{port}"):
        telemetry.serve("127.0.0.1", port)
