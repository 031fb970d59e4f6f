"""`rootstock upgrade`: the commands and their help. What they do is `upgrading`'s, imported only when it is done."""

from typing import Annotated

import typer

from rootstock.cli.options import DataDir, Key, Url, examples, settings_with

upgrade_app = typer.Typer(
    help="Tuned models on their way to another base model.",
    epilog=examples(
        "rootstock upgrade plan --from Qwen3-0.6B --to Qwen3-1.7B",
        "rootstock upgrade start upgrade_8x2… --wait",
        "rootstock upgrade report upgrade_8x2…",
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)

Id = Annotated[str, typer.Argument(help="Id from `rootstock upgrade list`.")]


@upgrade_app.command(
    "plan",
    epilog=examples(
        "rootstock upgrade plan --from Qwen3-0.6B --to Qwen3-1.7B",
        "rootstock upgrade plan --from Qwen3-0.6B --to Qwen3-1.7B --model ft:Qwen3-0.6B:acme::aB3dE6gH --concurrency 1",
    ),
)
def plan(
    old: Annotated[str, typer.Option("--from", help="Base model that the tuned ones stand on.")],
    new: Annotated[str, typer.Option("--to", help="Base model to tune them again on.")],
    model: Annotated[list[str] | None, typer.Option(help="Only this tuned model; may be repeated.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Jobs that train at a time.")] = 2,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
) -> None:
    """Show which tuned models stand on a base, which can be tuned again on another one, and what that takes.

    Nothing is started and nothing changes.
    """
    from rootstock.cli import upgrading
    from rootstock.cli.exporting import Server

    wanted = {"from": old, "to": new, "models": model or None, "concurrency": concurrency}
    upgrading.plan(Server(settings_with(data_dir=data_dir), url, key), wanted)


@upgrade_app.command("list", epilog=examples("rootstock upgrade list"))
def list_all(url: Url = None, key: Key = None, data_dir: DataDir = None) -> None:
    """Show every upgrade, newest first."""
    from rootstock.cli import upgrading
    from rootstock.cli.exporting import Server

    upgrading.list_all(Server(settings_with(data_dir=data_dir), url, key))


@upgrade_app.command(
    "start", epilog=examples("rootstock upgrade start upgrade_8x2…", "rootstock upgrade start upgrade_8x2… --wait")
)
def start(
    upgrade: Id,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end.")] = False,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
) -> None:
    """Tune every waiting model of a plan again, and move its aliases when its verdict is to ship it.

    It runs on the server: Ctrl-C ends only the watching.
    """
    from rootstock.cli import upgrading
    from rootstock.cli.exporting import Server

    raise typer.Exit(upgrading.start(Server(settings_with(data_dir=data_dir), url, key), upgrade, wait=wait))


@upgrade_app.command("cancel", epilog=examples("rootstock upgrade cancel upgrade_8x2…"))
def cancel(upgrade: Id, url: Url = None, key: Key = None, data_dir: DataDir = None) -> None:
    """End an upgrade: its jobs are cancelled, aliases that were moved stay where they are."""
    from rootstock.cli import upgrading
    from rootstock.cli.exporting import Server

    upgrading.cancel(Server(settings_with(data_dir=data_dir), url, key), upgrade)


@upgrade_app.command("status", epilog=examples("rootstock upgrade status upgrade_8x2…"))
def status(upgrade: Id, url: Url = None, key: Key = None, data_dir: DataDir = None) -> None:
    """Show how far an upgrade is: each model's state, and why it is there."""
    from rootstock.cli import upgrading
    from rootstock.cli.exporting import Server

    upgrading.status(Server(settings_with(data_dir=data_dir), url, key), upgrade)


@upgrade_app.command("report", epilog=examples("rootstock upgrade report upgrade_8x2…"))
def report(upgrade: Id, url: Url = None, key: Key = None, data_dir: DataDir = None) -> None:
    """Show old and new models side by side, and which aliases were moved."""
    from rootstock.cli import upgrading
    from rootstock.cli.exporting import Server

    upgrading.report(Server(settings_with(data_dir=data_dir), url, key), upgrade)
