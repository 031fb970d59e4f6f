"""`rootstock data`: check, mend and split training files on this machine. Talks to no server.

Heavy imports happen inside the commands, so that `rootstock --help` is quick.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rootstock.cli.options import examples
from rootstock.errors import ConfigurationError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from rootstock.quality import Report

app = typer.Typer(
    help="Training files: what is wrong with them, what can be mended, what to hold out.",
    epilog=examples(
        "rootstock data check train.jsonl", "rootstock data fix train.jsonl", "rootstock data split train.jsonl"
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)

File = Annotated[Path, typer.Argument(help="JSONL file of a fine-tuning job.")]
Validation = Annotated[Path | None, typer.Option(help="Its validation file.", show_default=False)]

POOL_FROM_BYTES = 8_000_000
"""Smaller files are read in this process: starting others takes longer."""

BAR_FROM_BYTES = 4_000_000
MAX_LINE_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20


@app.command(
    epilog=examples(
        "rootstock data check train.jsonl",
        "rootstock data check train.jsonl --validation held-out.jsonl --html report.html",
        "rootstock data check train.jsonl --json | jq .summary",
        "rootstock data check train.jsonl --context 8192 --block contradiction",
    )
)
def check(
    file: File,
    validation: Validation = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write the report as a page.", show_default=False)] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Context of the base model in tokens.", show_default="32768")
    ] = None,
    block: Annotated[
        list[str] | None, typer.Option(help="Kind to treat as blocking; repeatable.", show_default=False)
    ] = None,
) -> None:
    """Report what is wrong with training data, line by line; docs/data-report.md lists what can be found.

    Ends with 0 when it is clean, 1 for warnings, 2 for what is blocking, 3 for what no job can use. Tokens are
    estimated: no tokenizer is loaded.
    """
    from rootstock.quality import Kind, report

    unknown = sorted(set(block or ()) - set(Kind))
    if unknown:
        raise ConfigurationError(f"There is no kind of finding '{unknown[0]}'. Kinds: {', '.join(Kind)}.")
    paths = _existing(file, validation)
    size = sum(path.stat().st_size for path in paths)
    with _bar(size, quiet=as_json) as advance, _pool(size) as pool:
        found = report(
            _lines(file),
            _lines(validation) if validation else None,
            context=context,
            blocking=[Kind(name) for name in block or ()],
            pool=pool,
            progress=advance,
        )
    if html is not None:
        from rootstock.quality.page import page

        html.write_text(page(found, title=file.name), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        _show(found, html)
    raise typer.Exit(found.exit_code)


@app.command(
    epilog=examples(
        "rootstock data fix train.jsonl", "rootstock data fix train.jsonl --validation held-out.jsonl --out clean"
    )
)
def fix(
    file: File,
    validation: Validation = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; not that of the files.", show_default="fixed beside the file"),
    ] = None,
) -> None:
    """Write cleaned copies and a diff: exact duplicates and leaks taken out, damaged encoding mended.

    The files themselves are left alone. What needs a decision (contradictions, near duplicates) is left in.
    """
    from rootstock.quality.mending import mend

    paths = _existing(file, validation)
    folder = out or file.parent / "fixed"
    if folder.resolve() in {path.parent.resolve() for path in paths}:
        raise ConfigurationError(f"{folder} holds the files themselves: name another folder with --out.")
    folder.mkdir(parents=True, exist_ok=True)
    names = dict(zip(("training", "validation"), paths, strict=False))
    mended = mend(lambda: _lines(file), (lambda: _lines(validation)) if validation else None)
    with (folder / "changes.diff").open("wb") as diff:
        for role, path in names.items():
            with (folder / path.name).open("wb") as clean:
                changed = mended.write(role, _lines(path), clean.write, diff.write, path.name)
            typer.echo(
                f"{folder / path.name}: {changed.kept:,} lines kept, {changed.dropped:,} taken out, "
                f"{changed.mended:,} mended"
            )
    typer.echo(f"{folder / 'changes.diff'}: what was changed")


@app.command(
    epilog=examples(
        "rootstock data split train.jsonl", "rootstock data split train.jsonl --share 0.2 --seed 7 --out parts"
    )
)
def split(
    file: File,
    share: Annotated[float, typer.Option(min=0.001, max=0.5, help="Share of the lines to hold out.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed holds out the same lines.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder to write to.", show_default="that of the file")] = None,
) -> None:
    """Split a file in two, every label in both, nothing in one that is nearly in the other."""
    from rootstock.quality.splitting import held_out

    _existing(file, None)
    chosen = held_out(_lines(file), share=share, seed=seed)
    folder = out or file.parent
    folder.mkdir(parents=True, exist_ok=True)
    kept, held = (folder / f"{file.stem}-{name}.jsonl" for name in ("train", "validation"))
    count = 0
    with kept.open("wb") as train, held.open("wb") as validation:
        for number, line in enumerate(_lines(file), 1):
            if line is not None and line.strip():
                count += number not in chosen
                (validation if number in chosen else train).write(line.rstrip(b"\r\n") + b"\n")
    typer.echo(f"{kept}: {count:,} lines")
    typer.echo(f"{held}: {len(chosen):,} lines")


def _existing(file: Path, validation: Path | None) -> list[Path]:
    paths = [file, *([validation] if validation else [])]
    for path in paths:
        if not path.is_file():
            raise ConfigurationError(f"There is no file {path}.")
    return paths


def _lines(path: Path) -> Iterator[bytes | None]:
    from rootstock.datasets.lines import LineSplitter, NotUtf8

    splitter = LineSplitter(MAX_LINE_BYTES)
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                for _, line in splitter.feed(chunk):
                    yield line
        for _, line in splitter.finish():
            yield line
    except NotUtf8:
        raise ConfigurationError(f"{path} is not UTF-8 but looks like UTF-16 or UTF-32: convert it first.") from None


@contextlib.contextmanager
def _pool(size: int) -> "Iterator[Executor | None]":
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    workers = os.cpu_count() or 1
    if size < POOL_FROM_BYTES or workers < 2:
        yield None
        return
    with ProcessPoolExecutor(min(workers, 8), mp_context=get_context("spawn")) as pool:
        yield pool


@contextlib.contextmanager
def _bar(size: int, *, quiet: bool) -> Iterator[Callable[[int], object]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if quiet or size < BAR_FROM_BYTES or not console.is_terminal:
        yield lambda _: None
        return
    with Progress(
        TextColumn("reading"), BarColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task("reading", total=size)
        yield lambda count: progress.advance(task, count)


def _show(found: "Report", html: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rootstock.telemetry import escaped

    console = Console(highlight=False, markup=False, emoji=False)
    if found.findings:
        table = Table(box=None, pad_edge=False)
        for heading, ratio in (
            ("severity", None),
            ("kind", None),
            ("file", None),
            ("lines", 1),
            ("what, and the cure", 3),
        ):
            table.add_column(heading, ratio=ratio, no_wrap=ratio is None, overflow="fold")
        for finding in found.findings:
            lines = ", ".join(map(str, finding.lines[:6])) + (" …" if len(finding.lines) > 6 else "")
            what = Text(escaped(finding.message)).append(f"\n{finding.cure}", "dim")
            style = {"info": "blue", "warning": "yellow"}.get(finding.severity, "red")
            table.add_row(Text(finding.severity, style), finding.kind, finding.file, lines, what)
        console.print(table)
    for file in ("training", "validation"):
        if (numbers := found.summary.get(file)) is not None:
            tokens = numbers["tokens"]
            console.print(
                f"{file}: {numbers['examples']:,} examples, "
                f"about {tokens['total']:,} tokens (median {tokens['median']:,}, longest {tokens['max']:,}), "
                f"{numbers['loss_share']:.0%} of the text is learnt"
            )
    words = {0: "clean", 1: "warnings", 2: "blocking findings", 3: "lines that no job can use"}
    console.print(
        f"{len(found.findings)} findings: {words[found.exit_code]}" + (f"; written to {html}" if html else "")
    )
