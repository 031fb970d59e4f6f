"""How long a page of each list takes in a large database against a small one, on SQLite and PostgreSQL.

`make bench-api` fills two databases per back-end (100 jobs and 100 events; 100,000 jobs, 1,000,000 events), asks both
over HTTP in turn for the first, a middle and the last page, and prints p95 of each with the ratio; 2 is the target.
Knows the tables; nothing about how pages are read.
"""

import argparse
import contextlib
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from rootstock import keys, labels, tables
from rootstock.db import Database, Tx
from rootstock.settings import Settings
from service.app import create_app
from tests.service.conftest import served

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PROJECT = "proj_default"
PAGE = 20
WARM_UP = 5
TARGET = 2.0
SMALL = (100, 100)
LARGE = (100_000, 1_000_000)


@dataclass
class Filled:
    """An API over one database."""

    http: httpx.Client
    jobs: int
    events: int

    def cases(self) -> dict[str, str]:
        """What is asked: list and page -> path with query."""
        found = {}
        lists = {
            "jobs": ("/v1/fine_tuning/jobs?", "ftjob-", self.jobs, 1),
            "jobs, metadata of every other": ("/v1/fine_tuning/jobs?metadata[even]=1&", "ftjob-", self.jobs, 2),
            "files": ("/v1/files?", "file-", self.jobs, 1),
            "events of one job": ("/v1/fine_tuning/jobs/ftjob-1/events?", "ftevent-", self.events // 2, 1),
            "checkpoints of one job": ("/v1/fine_tuning/jobs/ftjob-1/checkpoints?", "ftckpt_", min(self.jobs, 100), 1),
        }
        for name, (path, prefix, count, every) in lists.items():
            pages = {"first": None, "middle": count // 2, "last": PAGE * every + 1}
            for page, after in pages.items():
                cursor = f"&after={prefix}{after}" if after else ""
                found[f"{name}: {page}"] = f"{path}limit={PAGE}{cursor}"
        found["jobs, metadata of a single one: first"] = f"/v1/fine_tuning/jobs?metadata[single]=1&limit={PAGE}"
        return found


def fill(tx: Tx, jobs: int, events: int) -> None:
    """Insert everything with a few statements; half of the events belong to the first job."""
    as_json = "" if tx.dialect.name == "sqlite" else "::json"
    series = "WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < :count)"

    def insert(count: int, table: str, **columns: str) -> None:
        names = ", ".join(f'"{name}"' for name in columns)
        # PostgreSQL wants the WITH before the SELECT, SQLite takes it there too.
        text = f"INSERT INTO {table} ({names}) {series} SELECT {', '.join(columns.values())} FROM series"
        tx.execute(sa.text(text), {"count": count})

    even, single = (f"(CASE WHEN {which} THEN 1 ELSE 0 END)" for which in ("n % 2 = 0", "n = 1"))
    insert(
        jobs,
        "files",
        id="'file-' || n",
        project_id=f"'{PROJECT}'",
        filename="'train.jsonl'",
        purpose="'fine-tune'",
        bytes="1000",
        sha256="'0'",
        object_key="'files/' || n",
        status="'processed'",
        created_at="1700000000 + n",
    )
    insert(
        jobs,
        "jobs",
        id="'ftjob-' || n",
        project_id=f"'{PROJECT}'",
        status="'cancelled'",
        want="'cancel'",
        fence="0",
        attempts="0",
        not_before="0",
        rings="0",
        model="'gpt-4o-mini-2024-07-18'",
        base="'rootstock-tiny'",
        training_file="'file-' || n",
        training_object="'files/' || n",
        seed="n",
        method='\'{"type": "supervised", "supervised": {}}\'' + as_json,
        hyperparameters="'{}'" + as_json,
        integrations="'[]'" + as_json,
        metadata=f"""('{{"even": "' || {even} || '", "single": "' || {single} || '"}}'){as_json}""",
        created_at="1700000000 + n",
        finished_at="1700000000 + n",
        progress_step="0",
    )
    insert(
        events,
        "job_events",
        id="'ftevent-' || n",
        job_id=f"'ftjob-' || (CASE WHEN n <= {events // 2} THEN 1 ELSE n % ({jobs} - 1) + 2 END)",
        project_id=f"'{PROJECT}'",
        created_at="1700000000 + n",
        level="'info'",
        type="'message'",
        message="'Step ' || n",
        dedupe="'step-' || n",
    )
    insert(
        jobs,
        "job_checkpoints",
        id="'ftckpt_' || n",
        job_id="'ftjob-' || (CASE WHEN n <= 100 THEN 1 ELSE n END)",
        project_id=f"'{PROJECT}'",
        created_at="1700000000 + n",
        step_number="n",
        epoch="1",
        model_name="'ft:gpt-4o-mini-2024-07-18:rootstock::' || n",
        adapter_id="'a' || n",
        metrics="'{}'" + as_json,
    )
    carried = tx.execute(sa.select(tables.jobs.c.seq, tables.jobs.c.metadata)).all()
    tx.execute(
        tables.job_labels.insert(), [row for seq, pairs in carried for row in labels.rows(PROJECT, seq, pairs or {})]
    )


@contextlib.contextmanager
def filled(url: str, folder: Path, size: tuple[int, int]) -> Iterator[Filled]:
    """An API over a database that was made and filled at `url`."""
    database = Database(url)
    database.migrate()
    with database.transaction() as tx:
        key = keys.create(tx, keys.ensure_default_project(tx, "rootstock"), "bench")
        fill(tx, *size)
    if not database.is_sqlite:  # PostgreSQL does it by itself after a while; SQLite never
        with database.transaction() as tx:
            tx.exec_driver_sql("ANALYZE")
    database.close()
    settings = Settings.from_env(
        {}, data_dir=folder, database_url=url, redis_url="redis://127.0.0.1:1/0", sweep_seconds=3600.0
    )
    headers = {"Authorization": f"Bearer {key}"}
    with served(create_app(settings)) as address, httpx.Client(base_url=address, headers=headers, timeout=60) as http:
        yield Filled(http, *size)


def measure(small: Filled, large: Filled, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each case in both databases, asked in turn so that a busy machine slows both."""
    results = {}
    for case, path in small.cases().items():
        times: dict[str, list[float]] = {"small": [], "large": []}
        for _ in range(WARM_UP + repeats):
            for name, api, asked in (("small", small, path), ("large", large, large.cases()[case])):
                began = time.perf_counter()
                answer = api.http.get(asked)
                times[name].append((time.perf_counter() - began) * 1000)
                assert answer.status_code == 200 and answer.json()["data"], f"{asked}: {answer.text[:200]}"
        times = {name: values[WARM_UP:] for name, values in times.items()}
        row = {f"{name}_p95_ms": p95(values) for name, values in times.items()}
        row |= {f"{name}_median_ms": statistics.median(values) for name, values in times.items()}
        results[case] = row | {"ratio_p95": row["large_p95_ms"] / row["small_p95_ms"]}
        print(
            f"  {case:45} {row['small_p95_ms']:8.1f} {row['large_p95_ms']:8.1f} {results[case]['ratio_p95']:6.2f}",
            flush=True,
        )
    return results


def p95(values: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(values, n=20)[-1]


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[list[str]]:
    """Two empty databases: on the server of ROOTSTOCK_TEST_POSTGRES_URL, else on one that is started here."""
    url, own = os.environ.get("ROOTSTOCK_TEST_POSTGRES_URL"), None
    if not url:
        import pgserver

        own = pgserver.get_server(folder / "postgres", cleanup_mode="delete")
        url = own.get_uri()
    admin_url = sa.make_url(url).set(drivername="postgresql+psycopg")
    admin = sa.create_engine(admin_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    names = [f"rootstock_bench_{os.getpid()}_{size}" for size in ("small", "large")]
    try:
        with admin.connect() as connection:
            for name in names:
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield [admin_url.set(database=name).render_as_string(hide_password=False) for name in names]
    finally:
        with admin.connect() as connection:
            for name in names:
                connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        if own:
            own.cleanup()


def about() -> dict[str, Any]:
    """What the numbers depend on."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    cpus = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "cpu": cpus[0] if cpus else platform.machine(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "sqlalchemy": sa.__version__,
        "sqlite": sa.create_engine("sqlite://").connect().exec_driver_sql("SELECT sqlite_version()").scalar(),
        "sizes": {"small": SMALL, "large": LARGE},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Time list pages in a large database against a small one.")
    parser.add_argument("--repeats", type=int, default=60, help="requests of each page (default: 60)")
    parser.add_argument("--only", choices=["sqlite", "postgresql"], help="one back-end only")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/api.json")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    report = about() | {"repeats": given.repeats, "backends": {}}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for backend in ("sqlite", "postgresql") if given.only is None else (given.only,):
            with contextlib.ExitStack() as stack:
                if backend == "sqlite":
                    urls = [f"sqlite:///{folder}/{size}.db" for size in ("small", "large")]
                else:
                    urls = stack.enter_context(postgresql(folder))
                print(f"{backend}: p95 in ms, small, large, ratio", flush=True)
                small = stack.enter_context(filled(urls[0], folder / f"{backend}-small", SMALL))
                large = stack.enter_context(filled(urls[1], folder / f"{backend}-large", LARGE))
                report["backends"][backend] = measure(small, large, given.repeats)
    worst = max(row["ratio_p95"] for rows in report["backends"].values() for row in rows.values())
    print(f"worst ratio {worst:.2f}, target {TARGET}")
    if given.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "api.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0 if worst <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
