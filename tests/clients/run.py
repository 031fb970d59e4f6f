"""`make clients`: install real third-party clients, run each against a running stack, write docs/clients.md.

    make clients                                the whole list, and the page
    make clients ARGS="--only litellm"          one client (repeatable), prints its table, leaves the page alone
    make clients ARGS="--install-only"          fill the cache, start nothing
    make clients ARGS="--only wandb --keep"     keep the folder that the client worked in

Which clients and which versions: tests/clients/pins.toml. What each does: its script in tests/clients/flows, which
imports nothing of ours and is told only OPENAI_BASE_URL, OPENAI_API_KEY, TRAINING_FILE, VALIDATION_FILE (and
TUNED_MODEL where the client cannot tune). A script passes when it exits with 0 and ends with `answer: TEXT`, what the
tuned model said; lines that begin with `note: ` go into the table. Knows nothing about any client.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openai import OpenAI

from scripts.demo import Stack
from tests.clients.environments import Environments, Unavailable

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs" / "clients.md"
DATA = ROOT / "examples" / "data"
FLOW_SECONDS = 300
RAISED = re.compile(r"[\w.]*(Error|Exception|Exit)\b")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
TRAINING_ROWS, VALIDATION_ROWS = 32, 12


@dataclass(frozen=True)
class Outcome:
    """One row of the table."""

    client: str
    version: str
    flow: str
    does: str
    passed: bool
    result: str
    seconds: float

    def row(self) -> str:
        """The row in Markdown."""
        cells = [self.client, self.version, f"[{self.flow}](../tests/clients/flows/{self.flow})", self.does]
        return f"| {' | '.join(cells)} | {self.result.replace('|', '&#124;')} | {self.seconds:.0f} |"


def pins() -> dict[str, dict[str, Any]]:
    """The clients by name, in the order of the file."""
    return dict(tomllib.loads((HERE / "pins.toml").read_text("utf-8"))["clients"])


def clean(text: str, hide: Mapping[str, str]) -> str:
    """One line of at most 200 characters without the paths of this machine."""
    for path, name in hide.items():
        text = text.replace(path, name)
    flat = " ".join(text.split())
    return flat if len(flat) <= 200 else flat[:199] + "…"


def run_flow(name: str, pin: Mapping[str, Any], environments: Environments, told: dict[str, str], log: Path) -> str:
    """Run one script; the table's words for its success. Raises `RuntimeError` with the reason of its failure."""
    work = Path(told["HOME"])
    flow = HERE / "flows" / pin["flow"]
    command = environments.command(name, flow)
    if flow.suffix == ".mjs":  # modules are looked up from where the script lies
        shutil.copy(flow, environments.folder(name) / flow.name)
    with log.open("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=work, env=told, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(FLOW_SECONDS)
            code = f"exit {status}" if status else ""
        except subprocess.TimeoutExpired:
            code = f"stopped after {FLOW_SECONDS} s"
        finally:
            # Its whole group: a client may have left helpers of its own behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        lines = [line.strip() for line in COLOUR.sub("", output.read()).splitlines() if line.strip()]
    if code:
        raised = [line for line in lines if RAISED.match(line)]
        raise RuntimeError(f"{code}: {(raised or lines or ['no output'])[-1]}")
    if not lines or not lines[-1].removeprefix("answer:").strip() or not lines[-1].startswith("answer:"):
        raise RuntimeError("it ended without an answer from the tuned model")
    return "; ".join(["passed", *(line.removeprefix("note: ") for line in lines if line.startswith("note: "))])


def tuned_model(client: OpenAI, files: Mapping[str, str]) -> str:
    """A model for the clients that cannot tune one."""
    file = client.files.create(file=Path(files["TRAINING_FILE"]), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini",
        training_file=file.id,
        suffix="ready",
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
    )
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(1)
        job = client.fine_tuning.jobs.retrieve(job.id)
    if job.fine_tuned_model is None:
        raise RuntimeError(f"the model for the clients that cannot tune: {job.status}, {job.error}")
    return job.fine_tuned_model


def faults(stack: Stack, since: int) -> int:
    """Tracebacks in the stack's log after byte `since`: a client that retries would hide them."""
    with stack.log.open("rb") as log:
        log.seek(since)
        return log.read().count(b"Traceback (most recent call last)")


def run_all(names: list[str], environments: Environments, broken: dict[str, str], folder: Path) -> list[Outcome]:
    """Start one stack and run the clients against it, one after the other."""
    files = {}
    for variable, name, rows in (
        ("TRAINING_FILE", "tickets-train.jsonl", TRAINING_ROWS),
        ("VALIDATION_FILE", "tickets-validation.jsonl", VALIDATION_ROWS),
    ):
        lines = (DATA / name).read_text("utf-8").splitlines(keepends=True)[:rows]
        (folder / name).write_text("".join(lines), "utf-8")
        files[variable] = str(folder / name)
    (folder / "stack").mkdir()
    hide = {str(folder): "", str(environments.cache): "", str(ROOT): "", str(Path.home()): "~"}
    outcomes = []
    print("▸ start the stack", flush=True)
    stack = Stack(folder / "stack")
    try:
        url = stack.wait()
        key = (stack.data_dir / "api-key").read_text("utf-8").strip()
        if any(pins()[name].get("tuned") for name in names):
            print("▸ tune a model for the clients that cannot", flush=True)
            files["TUNED_MODEL"] = tuned_model(OpenAI(base_url=url, api_key=key), files)
        for name in names:
            pin = pins()[name]
            print(f"▸ {name} …", end="", flush=True)
            began, since = time.monotonic(), stack.log.stat().st_size
            work = folder / name
            work.mkdir()
            told = files | {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": key, "HOME": str(work)}
            try:
                if name in broken:
                    raise Unavailable(broken[name])
                result = run_flow(
                    name, pin, environments, environments.variables(name) | told, environments.log(name, "run")
                )
                if count := faults(stack, since):
                    raise RuntimeError(f"the client was content, but the server logged {count} tracebacks")
                passed = True
            except Unavailable as error:
                result, passed = f"**not run**, could not be installed: {clean(str(error), hide)}", False
            except RuntimeError as error:
                result, passed = f"**failed**: {clean(str(error), hide)}", False
            seconds = time.monotonic() - began
            version = environments.version(name) if name not in broken else "none"
            print(f" {clean(result, hide)} ({seconds:.0f} s)", flush=True)
            outcomes.append(Outcome(name, version, pin["flow"], pin["does"], passed, result, seconds))
    finally:
        print("▸ stop the stack", flush=True)
        stack.stop()
    return outcomes


def commit() -> str:
    """The commit that is being tried, and whether something tracked differs from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True).stdout
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    dirty = any(not line.endswith("docs/clients.md") for line in changed)
    return f"{head.strip()}{' with local changes' if dirty else ''}"


def page(outcomes: list[Outcome], tried: str, seconds: float) -> str:
    """docs/clients.md."""
    passed = sum(outcome.passed for outcome in outcomes)
    return "\n".join(
        [
            "# Third-party clients",
            "",
            "Real clients as their authors published them, pinned in [pins.toml](../tests/clients/pins.toml), each",
            "doing its own flow against a running stack (`rootstock up`: the built-in base model, OpenAI names as",
            "aliases) up to an answer from the tuned model. Only the base URL and the key are set. Written by",
            "`make clients`, never by hand; a client that fails or cannot be installed stays in the table as that.",
            "In brackets: what a client brought along that matters here, or needed older than its metadata says.",
            "",
            f"Run of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC at commit {tried}: "
            f"**{passed} of {len(outcomes)} passed**, {seconds:.0f} s.",
            "",
            "| client | version that ran | script | what it does | result | seconds |",
            "|---|---|---|---|---|---|",
            *(outcome.row() for outcome in outcomes),
            "",
        ]
    )


def main() -> int:
    """0 when every client asked for passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", action="append", metavar="NAME", choices=list(pins()), help="run this one; repeatable"
    )
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".rootstock" / "clients", help="where clients are installed"
    )
    parser.add_argument("--install-only", action="store_true", help="install, then stop")
    parser.add_argument("--keep", action="store_true", help="do not delete the working folders and the stack's log")
    options = parser.parse_args()
    names = options.only or list(pins())
    began, tried = time.monotonic(), commit()
    environments = Environments(options.cache.absolute(), tomllib.loads((HERE / "pins.toml").read_text("utf-8")))
    broken: dict[str, str] = {}
    for name in names:
        try:
            took = environments.install(name)
        except Unavailable as error:
            broken[name] = str(error)
            print(f"▸ {name}: could not be installed: {error}", flush=True)
        else:
            if took:
                print(f"▸ installed {name} in {took:.0f} s", flush=True)
    if options.install_only:
        return 1 if broken else 0
    folder = Path(tempfile.mkdtemp(prefix="rootstock-clients-"))
    try:
        outcomes = run_all(names, environments, broken, folder)
    finally:
        if options.keep:
            print(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for outcome in outcomes:
        print(outcome.row())
    if not options.only:
        PAGE.write_text(page(outcomes, tried, time.monotonic() - began), "utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
