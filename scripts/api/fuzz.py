"""Fuzz a running API against its own document with schemathesis: positive and negative data, every operation.

`python -m scripts.api.fuzz --minutes 10`; the test suite runs the short form. Knows no route by name: what the
document lists is fuzzed, and the ids that fill its paths are whatever the lists of the API answer.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scripts.api.live import Live, live
from scripts.api.seed import seed

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "openapi" / "openapi.json"
RULES = ROOT / "openapi" / "schemathesis.toml"


def fuzz(
    api: Live, *, arguments: list[str], include: str | None = None, short: bool = False
) -> tuple[int, dict[str, Any]]:
    """Run schemathesis in a process of its own; its exit status (0: nothing found) and its report."""
    with tempfile.TemporaryDirectory() as folder:
        rules, report = Path(folder) / "schemathesis.toml", Path(folder) / "report.json"
        rules.write_text(configuration(api) + (SHORTER if short else ""), encoding="utf-8")
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(rules), "run", str(DOCUMENT)]
        command += ["--report", "json", "--report-json-path", str(report), *arguments]
        if include:
            command += ["--include-path-regex", include]
        status = subprocess.run(command, cwd=ROOT, env=os.environ | {"FUZZ_KEY": api.key}, check=False).returncode
        return status, json.loads(report.read_text("utf-8")) if report.exists() else {}


def configuration(api: Live) -> str:
    """The committed rules, with this API's address, key and ids."""
    lines = [
        f'base-url = "{api.url}"',
        'headers = { Authorization = "Bearer ${FUZZ_KEY}" }',
        RULES.read_text("utf-8"),
    ]
    parameters = []
    for number, (places, ids) in enumerate(api.known.items()):
        lines.append(f"[dictionaries.known{number}]\nvalues = {json.dumps(ids)}")
        parameters += [f'"{place}" = {{ dictionary = "known{number}", probability = 0.6 }}' for place in places]
    return "\n".join([*lines, "[parameters]", *parameters, ""])


def never_accepted(report: dict[str, Any]) -> list[str]:
    """Operations that no request of the run succeeded on, so that little was seen of them."""
    return [
        operation
        for operation, phases in sorted(report.get("valid_rates", {}).items())
        if not any(phase["accepted"] for phase in phases.values())
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz every operation of the API document.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to go on (default: 10)")
    parser.add_argument("--seed", type=int, help="repeat the run that printed this seed")
    parser.add_argument("--only", help="regular expression that paths must match")
    parser.add_argument("--short", action="store_true", help="the form that the test suite runs")
    given = parser.parse_args()
    arguments = SHORT if given.short else ["--max-time", str(max(1, round(given.minutes * 60)))]
    if given.seed is not None:
        arguments = [*arguments, "--seed", str(given.seed)]
    logging.basicConfig(level=logging.ERROR)
    with live() as api:
        seed(api)
        status, report = fuzz(api, arguments=arguments, include=given.only, short=given.short)
    print(f"\nNever answered with success: {', '.join(never_accepted(report)) or 'none'}")
    print(f"Switched off, and why: {RULES.relative_to(ROOT)}")
    return status


SHORT = ["--max-examples", "2", "--seed", "1", "--generation-deterministic", "--no-shrink"]

TWINS = {
    "/v1/rootstock/estimates": "/v1/fine_tuning/jobs",
    "/v1/fine_tuning/alpha/graders/validate": "/v1/fine_tuning/alpha/graders/run",
    "/v1/webhook_endpoints": "/v1/rootstock/webhooks",
}
"""Operations whose body is another's, too: the short form puts every variant of it to one of the two."""

SHORTER = "".join(f'\n[[operations]]\ninclude-path = "{path}"\nphases.coverage.enabled = false\n' for path in TWINS)

if __name__ == "__main__":
    sys.exit(main())
