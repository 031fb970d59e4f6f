"""`rootstock distil`: the commands and their help. What they do is `distilling`'s, imported only when it is done."""

from pathlib import Path
from typing import Annotated

import typer

from rootstock.cli.options import DataDir, Key, Url, examples, settings_with

distil_app = typer.Typer(
    help="A teacher's answers as training data.",
    epilog=examples(
        "rootstock distil run --prompts prompts.jsonl --teacher gpt-4o --out train.jsonl",
        "rootstock distil list",
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)


@distil_app.command(
    "run",
    epilog=examples(
        "rootstock distil run --prompts prompts.jsonl --teacher gpt-4o",
        "rootstock distil run --stored-model gpt-4o --metadata task=tickets --out train.jsonl",
        "TEACHER_API_KEY=sk-… rootstock distil run --prompts p.jsonl --teacher large --teacher-url https://api.example.com/v1",
        "rootstock distil run --prompts prompts.jsonl --teacher gpt-4o --schema answer.schema.json --suffix tickets",
    ),
)
def run(  # noqa: PLR0913 (one argument per option)
    *,
    prompts: Annotated[
        str | None,
        typer.Option(help="JSONL of chat lines without answers, or the id of such a file.", show_default=False),
    ] = None,
    stored_model: Annotated[
        str | None, typer.Option(help="Stored completions of this model instead of prompts.", show_default=False)
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="Of stored completions: key=value; all must match.", show_default=False)
    ] = None,
    after: Annotated[int | None, typer.Option(help="Of stored completions: Unix seconds.", show_default=False)] = None,
    before: Annotated[int | None, typer.Option(help="Of stored completions: Unix seconds.", show_default=False)] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Model that answers.", show_default="stored completions: their own answers"),
    ] = None,
    teacher_url: Annotated[
        str | None, typer.Option(help="Its OpenAI-compatible endpoint, with /v1.", show_default="this Rootstock")
    ] = None,
    teacher_key: Annotated[
        str | None,
        typer.Option(envvar="TEACHER_API_KEY", help="Key for the endpoint, wiped when it ends.", show_default=False),
    ] = None,
    schema: Annotated[
        Path | None, typer.Option(help="JSON schema that every answer must follow.", show_default=False)
    ] = None,
    grader: Annotated[
        Path | None, typer.Option(help="JSON of a grader: what scores less is left out.", show_default=False)
    ] = None,
    min_score: Annotated[float, typer.Option(help="Least score of the grader.")] = 0.5,
    keep_refusals: Annotated[bool, typer.Option("--keep-refusals", help="Refusals are worth learning, too.")] = False,
    near_duplicates: Annotated[
        float, typer.Option(min=0, max=1, help="How alike two examples may be; 0: not looked at.")
    ] = 0.9,
    max_examples: Annotated[int, typer.Option(min=1, help="Prompts that are asked at most.")] = 10_000,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of all answers and prompts.", show_default="no limit")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Draws the prompts.", show_default="random")] = None,
    suffix: Annotated[str | None, typer.Option(help="Name of the training file.", show_default="the id")] = None,
    out: Annotated[Path | None, typer.Option(help="Also save the training file here.", show_default=False)] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
) -> None:
    """Put prompts to a teacher, or take stored completions, and make a training file of what is worth learning.

    Left out are answers that are empty, cut off, refusals, not of the asked format, below the grader's bar, or nearly
    the same as another one. It runs on the server: Ctrl-C ends only the watching.
    """
    from rootstock.cli import distilling
    from rootstock.cli.exporting import Server

    wanted = distilling.Wanted(
        prompts=prompts,
        stored={"model": stored_model, "metadata": metadata, "created_after": after, "created_before": before},
        teacher=teacher,
        teacher_url=teacher_url,
        teacher_key=teacher_key,
        schema=schema,
        grader=grader,
        min_score=min_score,
        refusals=not keep_refusals,
        near_duplicates=near_duplicates,
        max_examples=max_examples,
        max_tokens=max_tokens,
        seed=seed,
        suffix=suffix,
        out=out,
        wait=wait,
    )
    raise typer.Exit(distilling.run(Server(settings_with(data_dir=data_dir), url, key), wanted))


@distil_app.command("list", epilog=examples("rootstock distil list"))
def list_all(url: Url = None, key: Key = None, data_dir: DataDir = None) -> None:
    """Show every distillation, newest first: id, status, how many were kept of how many, its training file."""
    from rootstock.cli import distilling
    from rootstock.cli.exporting import Server

    for line in distilling.list_all(Server(settings_with(data_dir=data_dir), url, key)):
        typer.echo(line)


@distil_app.command("cancel", epilog=examples("rootstock distil cancel distil_8x2…"))
def cancel(
    distillation: Annotated[str, typer.Argument(help="Id from `rootstock distil list`.")],
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = None,
) -> None:
    """End a distillation without a file."""
    from rootstock.cli import distilling
    from rootstock.cli.exporting import Server

    typer.echo(distilling.cancel(Server(settings_with(data_dir=data_dir), url, key), distillation))
