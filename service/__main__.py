"""The API process and its operator's commands. Reads the settings once and passes them down."""

import argparse
import json
import sys

from rootstock.errors import ConfigurationError
from rootstock.settings import Settings

SHUTDOWN_SECONDS = 30

EXAMPLES = """examples:
  python -m service                          serve on ROOTSTOCK_HOST:ROOTSTOCK_PORT (127.0.0.1:8000)
  python -m service serve --port 9000        the same on another port
  python -m service batch-worker             answer batches; a process of its own beside the API
  python -m service migrate                  bring the database schema to this version, then exit
  python -m service key --name ci            make an API key and print it (it is shown only once)
  python -m service key --project proj_research --role member
                                             the same for another project, made if need be, with fewer rights
  python -m service openapi > openapi.json   print the OpenAPI document

Settings come from the environment; `rootstock config` prints them all."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="The OpenAI-compatible API of Rootstock.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = ["serve", "batch-worker", "migrate", "key", "openapi"]
    parser.add_argument("command", nargs="?", default="serve", choices=commands)
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="port to listen on")
    parser.add_argument("--name", default="default", help="what the new key is called")
    parser.add_argument("--project", default="proj_default", help="whose key it is; made if it does not exist")
    parser.add_argument(
        "--role", choices=["owner", "member"], default="owner", help="owners may also delete models and manage webhooks"
    )
    given = parser.parse_args(arguments)
    flags = {name: value for name in ("host", "port") if (value := getattr(given, name)) is not None}
    try:
        settings = Settings.from_env(**flags)
        return _run(given, settings)
    except ConfigurationError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2


def _run(given: argparse.Namespace, settings: Settings) -> int:
    # Imported late: a wrong setting or `--help` should not wait for seconds of imports.
    from rootstock import keys
    from rootstock.db import Database
    from rootstock.telemetry import configure_logging

    if given.command == "openapi":
        from service.app import create_app

        print(json.dumps(create_app(settings).openapi(), indent=2, sort_keys=True))
        return 0
    configure_logging(settings, "batches" if given.command == "batch-worker" else "service")
    if given.command == "batch-worker":
        from service.batching.process import work

        work(settings)
        return 0
    database = Database(settings.effective_database_url)
    try:
        if given.command == "migrate":
            database.migrate()
            return 0
        database.wait_until_migrated()
        if given.command == "key":
            with database.transaction() as tx:
                project = keys.ensure_project(tx, given.project, settings.organization)
                print(keys.create(tx, project, given.name, given.role))
            return 0
    finally:
        database.close()
    _serve(settings)
    return 0


def _serve(settings: Settings) -> None:
    import gc

    import uvicorn

    from service.app import create_app

    app = create_app(settings)
    # What was imported stays for good: looking through it again and again would hold up answers, for 0.1 s at a time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # a request makes some hundred objects that are all gone with it
    # Threads that compute (a report, a large upload's check) let the one that answers go on sooner: by its default each
    # of its turns costs it 5 ms then.
    sys.setswitchinterval(0.0005)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


if __name__ == "__main__":
    sys.exit(main())
