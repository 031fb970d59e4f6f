"""The commands and their help. Heavy imports happen inside them, so that `rootstock --help` is quick."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from rootstock import __version__
from rootstock.cli.data import app as data_app
from rootstock.cli.distil import distil_app
from rootstock.cli.options import DataDir, Key, Url
from rootstock.cli.options import examples as _examples
from rootstock.cli.options import settings_with as _settings
from rootstock.cli.upgrade import upgrade_app
from rootstock.errors import ConfigurationError, RootstockError

EXIT_CONFIGURATION = 2
EXIT_FAILURE = 1


app = typer.Typer(
    help="Fine-tune and serve language models on your own machines behind the OpenAI API.",
    epilog=_examples("rootstock up", "rootstock config", "rootstock keys create laptop"),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
keys_app = typer.Typer(
    help="API keys, of the default project unless another is named.",
    epilog=_examples("rootstock keys create laptop", "rootstock keys list", "rootstock keys revoke key_8x2…"),
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(keys_app, name="keys")
import_app = typer.Typer(
    help="Bring files, job settings and evals over from another service.",
    epilog=_examples("rootstock import openai", "rootstock import openai --apply"),
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(import_app, name="import")
models_app = typer.Typer(
    help="Models: which may be called, and tuned ones to take away.",
    epilog=_examples("rootstock models list", "rootstock models export ft:rootstock-tiny:rootstock::7p4lURel"),
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")
app.add_typer(distil_app, name="distil")
app.add_typer(upgrade_app, name="upgrade")

Project = Annotated[str, typer.Option(help="Whose keys.")]


def run() -> None:
    """Run the command line; a refused configuration is one line on standard error and exit code 2."""
    try:
        app()
    except ConfigurationError as error:
        typer.echo(f"Error: {error.message}", err=True)
        raise SystemExit(EXIT_CONFIGURATION) from None
    except RootstockError as error:
        typer.echo(f"Error: {error.message}", err=True)
        raise SystemExit(EXIT_FAILURE) from None


@app.command(
    epilog=_examples(
        "rootstock up",
        "rootstock up --port 0 --data-dir /srv/rootstock",
        "rootstock up --base-model Qwen/Qwen3-0.6B",
        "rootstock up --no-serving --workers 2",
        "ROOTSTOCK_DATABASE_URL=postgresql://rs@db/rs ROOTSTOCK_REDIS_URL=redis://cache rootstock up",
    )
)
def up(
    host: Annotated[str | None, typer.Option(help="Address the API listens on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API; 0: a free one.", show_default="8000")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder for everything kept locally.", show_default="rootstock-data")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Hub id or folder of the base model.", show_default="the small one included")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Trainer processes.")] = 1,
    serving: Annotated[bool, typer.Option("--serving/--no-serving", help="Start vLLM and answer completions.")] = True,
    replicas: Annotated[int, typer.Option(min=1, help="vLLM servers of the base model.")] = 1,
) -> None:
    """Start everything: the API, trainers, vLLM, and a Redis unless one is configured. Ctrl-C stops it cleanly.

    Prints one line that begins with Ready when every part answers. The first API key is written to DATA_DIR/api-key.
    Every option can also be set by its ROOTSTOCK_ variable; `rootstock config` lists them.
    """
    from rootstock.cli.terminal import Terminal
    from rootstock.cli.up import up as run_up

    settings = _settings(host=host, port=port, data_dir=data_dir, base_model=base_model)
    raise typer.Exit(run_up(settings, workers=workers, replicas=replicas if serving else 0, terminal=Terminal()))


@app.command(epilog=_examples("rootstock config", "rootstock config --json | jq .database_url.value"))
def config(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show the effective settings, where each comes from and what it is for; secrets are starred out."""
    import os

    from rootstock.settings import PREFIX, Settings

    settings = _settings()
    shown = {
        name: {
            "variable": (variable := PREFIX + name.upper()),
            "value": value,
            "source": "environment" if os.environ.get(variable) else "default",
            "description": Settings.model_fields[name].description,
        }
        for name, value in settings.masked().items()
    }
    if as_json:
        typer.echo(json.dumps(shown, indent=2, default=str))
        return
    for entry in shown.values():
        value = entry["value"]
        text = "" if value is None else json.dumps(value) if isinstance(value, dict) else str(value)
        mark = "   (from the environment)" if entry["source"] == "environment" else ""
        typer.echo(f"{entry['variable']}={text}{mark}\n    {entry['description']}")


@app.command(epilog=_examples("rootstock version"))
def version() -> None:
    """Show the version of Rootstock."""
    typer.echo(__version__)


@app.command(epilog=_examples("rootstock usage", "rootstock usage --project proj_research --days 7"))
def usage(
    project: Annotated[str | None, typer.Option(help="Only this project.", show_default="all")] = None,
    days: Annotated[int, typer.Option(min=1, max=3660, help="Today and the days before it, UTC.")] = 30,
    data_dir: DataDir = None,
) -> None:
    """Show the requests and tokens of each project and model."""
    from rootstock.cli.usage import table

    for line in table(_settings(data_dir=data_dir), project, days):
        typer.echo(line)


@keys_app.command(
    "create",
    epilog=_examples(
        "rootstock keys create laptop",
        "export OPENAI_API_KEY=$(rootstock keys create ci)",
        "rootstock keys create alice --project proj_research --role member",
    ),
)
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    project: Annotated[str, typer.Option(help="Whose key it is; made if it does not exist.")] = "proj_default",
    role: Annotated[
        str, typer.Option(help="owner, or member: one who may not delete models nor manage permissions and webhooks.")
    ] = "owner",
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it, this once."""
    from rootstock import keys
    from rootstock.cli.database import opened

    settings = _settings(data_dir=data_dir)
    with opened(settings) as database, database.transaction() as tx:
        typer.echo(keys.create(tx, keys.ensure_project(tx, project, settings.organization), name, role))


@keys_app.command("list", epilog=_examples("rootstock keys list", "rootstock keys list --data-dir /srv/rootstock"))
def list_keys(project: Project = "proj_default", data_dir: DataDir = None) -> None:
    """Show every key's id, first characters and state; the keys themselves are not kept."""
    from datetime import UTC, datetime

    from rootstock import keys
    from rootstock.cli.database import opened

    with opened(_settings(data_dir=data_dir)) as database, database.read() as tx:
        for key in keys.list_all(tx, project):
            made = datetime.fromtimestamp(key.created_at, UTC).strftime("%Y-%m-%d %H:%M")
            state = "active" if key.revoked_at is None else "revoked"
            typer.echo(f"{key.id}  sk-rs-{key.prefix}-…  {made}  {state:<7}  {key.role:<6}  {key.name}")


@keys_app.command("revoke", epilog=_examples("rootstock keys revoke key_8x2…"))
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="Id from `rootstock keys list`.")],
    project: Project = "proj_default",
    data_dir: DataDir = None,
) -> None:
    """Refuse a key from now on."""
    from rootstock import keys
    from rootstock.cli.database import opened

    with opened(_settings(data_dir=data_dir)) as database, database.transaction() as tx:
        revoked = keys.revoke(tx, project, key_id)
    if not revoked:
        raise ConfigurationError(f"There is no active key {key_id}. `rootstock keys list` shows them.")
    typer.echo(f"revoked {key_id}")


@import_app.command(
    "openai",
    epilog=_examples(
        "rootstock import openai                  # show what would be copied; changes nothing",
        "rootstock import openai --export-only    # save it all to openai-export/",
        "rootstock import openai --apply          # save it, then copy it to this machine's Rootstock",
        "rootstock import openai --apply --run-jobs --to https://tunes.example.com/v1 --to-key sk-rs-…",
        "rootstock import openai --from-folder openai-export --apply",
    ),
)
def import_openai(
    api_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", help="Key of the source.", show_default=False)
    ] = None,
    organization: Annotated[
        str | None, typer.Option(envvar="OPENAI_ORG_ID", help="Organisation of the source.", show_default=False)
    ] = None,
    project: Annotated[
        str | None, typer.Option(envvar="OPENAI_PROJECT_ID", help="Project of the source.", show_default=False)
    ] = None,
    from_url: Annotated[str, typer.Option(help="Base URL of the source.")] = "https://api.openai.com/v1",
    from_folder: Annotated[
        Path | None, typer.Option(help="Folder of an earlier export, instead of a source.", show_default=False)
    ] = None,
    folder: Annotated[Path, typer.Option(help="Folder to save to.")] = Path("openai-export"),
    to: Annotated[
        str | None, typer.Option(help="Base URL of the Rootstock to copy to.", show_default="the one on this machine")
    ] = None,
    to_key: Annotated[
        str | None, typer.Option(help="Key for it.", show_default="DATA_DIR/api-key, on this machine")
    ] = None,
    data_dir: DataDir = None,
    export_only: Annotated[bool, typer.Option("--export-only", help="Save to the folder and stop.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Save to the folder, then copy to Rootstock.")] = False,
    run_jobs: Annotated[bool, typer.Option("--run-jobs", help="Also start the jobs that had succeeded.")] = False,
) -> None:
    """Bring files, job settings (as recipes) and evals over from OpenAI. Shows what it would do until --apply.

    Two phases: the source is saved to a folder, the folder is copied to Rootstock. Either can be killed at any point:
    the same command goes on from there and sends nothing twice. What cannot be carried is named with its reason, on
    the screen and in report.json. The source is only read.
    """
    from rootstock.cli.importing import Wanted, import_all

    wanted = Wanted(
        api_key=api_key,
        headers={"OpenAI-Organization": organization, "OpenAI-Project": project},
        from_url=from_url,
        from_folder=from_folder,
        folder=folder,
        to=to,
        to_key=to_key,
        settings=_settings(data_dir=data_dir),
        export_only=export_only,
        apply=apply,
        run_jobs=run_jobs,
    )
    raise typer.Exit(import_all(wanted))


@app.command(
    epilog=_examples(
        'rootstock advise train.jsonl --task "Sort support tickets into four queues."',
        "rootstock advise train.jsonl --json | jq .recommendation",
    )
)
def advise(
    file: Annotated[Path, typer.Argument(help="Examples, one JSON object a line; at most 1000 of them are sent.")],
    task: Annotated[str | None, typer.Option(help="What is to be done, in a sentence.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole answer as one JSON object.")] = False,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
) -> None:
    """Should this be tuned at all? Says prompting, retrieval, tuning or both, and why."""
    from rootstock.cli.advising import told
    from rootstock.cli.exporting import Server

    for line in told(Server(_settings(data_dir=data_dir), url, key), file, task, as_json=as_json):
        typer.echo(line)


@models_app.command(
    "list",
    epilog=_examples("rootstock models list", "rootstock models list --url https://tunes.example.com/v1 --key sk-rs-…"),
)
def list_models(url: Url = None, key: Key = None, data_dir: DataDir = None) -> None:
    """Show every model that the key may call: when it was made (UTC), whose it is, its name."""
    from rootstock.cli.exporting import Server, list_models

    for line in list_models(Server(_settings(data_dir=data_dir), url, key)):
        typer.echo(line)


@models_app.command(
    "evidence",
    epilog=_examples(
        "rootstock models evidence ft:rootstock-tiny:rootstock::7p4lURel",
        "rootstock models evidence ft:rootstock-tiny:rootstock::7p4lURel --out audit/support",
    ),
)
def model_evidence(
    model: Annotated[str, typer.Argument(help="Name of a tuned model or checkpoint; `rootstock models list`.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to save to.", show_default="the model's name and -evidence")
    ] = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
) -> None:
    """Save what a tuned model is made of and was measured to do: evidence.json (it has a schema) and evidence.md."""
    from rootstock.cli.evidence import save_evidence
    from rootstock.cli.exporting import Server

    folder = save_evidence(Server(_settings(data_dir=data_dir), url, key), model, out)
    typer.echo(f"Saved to {folder}: evidence.json and evidence.md.")


@models_app.command(
    "export",
    epilog=_examples(
        "rootstock models export ft:rootstock-tiny:rootstock::7p4lURel",
        "rootstock models export ft:rootstock-tiny:rootstock::7p4lURel:ckpt-step-40 --out step-40",
        "rootstock models export ft:rootstock-tiny:rootstock::7p4lURel --format merged --out merged",
        "rootstock models export ft:Qwen3-0.6B:acme::aB3dE6gH --format merged --base Qwen/Qwen3-0.6B",
        "rootstock models export ft:Qwen3-0.6B:acme::aB3dE6gH --url https://tunes.example.com/v1 --key sk-rs-…",
    ),
)
def export_model(
    model: Annotated[str, typer.Argument(help="Name of a tuned model or checkpoint; `rootstock models list`.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to save to; a new or an empty one.", show_default="the model's name")
    ] = None,
    format: Annotated[
        Literal["peft", "merged"],
        typer.Option(help="The adapter in PEFT's format, or one model with it in its weights."),
    ] = "peft",
    base: Annotated[
        str | None,
        typer.Option(help="To merge with: hub id or folder of the base.", show_default="ROOTSTOCK_BASE_MODEL"),
    ] = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
) -> None:
    """Save a tuned model to a folder: the adapter alone, or merged with its base into a model of its own.

    Every file is compared with the hash that was taken when the model was made. Merging needs the trainer's packages
    and memory for the base in float32; the result is measured against adapter and base before it is kept. On failure
    nothing is left.
    """
    from rootstock.cli.exporting import Server, Wanted, export

    server = Server(_settings(data_dir=data_dir), url, key)
    raise typer.Exit(export(server, Wanted(model, out, format, base)))
