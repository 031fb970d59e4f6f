"""`rootstock models`: what may be called, and a tuned model as a folder of one's own. Knows no tensors.

Merging is the trainer's work, in a process of its own: nothing here loads torch.
"""

import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import httpx

from rootstock import adapters
from rootstock.adapters import Manifest
from rootstock.cli.stack import found
from rootstock.cli.terminal import Lines
from rootstock.errors import ConfigurationError, ExportFailed
from rootstock.importing.remote import Moved, Remote
from rootstock.settings import Settings
from rootstock.telemetry import escaped

INTERRUPTED = 130
_MERGER_NEEDS = ("torch", "transformers", "peft", "trainer")


@dataclass(frozen=True)
class Server:
    """Which Rootstock to ask. `transport` and `sleep` replace the network and the clock in tests."""

    settings: Settings
    url: str | None
    key: str | None
    transport: httpx.BaseTransport | None = None
    sleep: Callable[[float], object] = time.sleep

    def connect(self, screen: Lines) -> Remote:
        """A connection to it. Raises `ConfigurationError` when address or key are not known."""
        url, key = found(self.settings, self.url, self.key, url_option="--url", key_option="--key")
        return Remote("Rootstock", url, key, say=screen.say, transport=self.transport, sleep=self.sleep)


@dataclass(frozen=True)
class Wanted:
    """The options of one export."""

    model: str
    out: Path | None
    format: Literal["peft", "merged"]
    base: str | None


def list_models(server: Server) -> list[str]:
    """A line for each model that the key may call: when it was made, whose it is, its name."""
    with server.connect(Lines()) as remote:
        models = list(remote.pages("/models"))
    return [escaped(_line(model)) for model in models]


def export(server: Server, wanted: Wanted) -> int:
    """Bring the model into its folder and return the exit code; on failure nothing is left of it.

    Raises `ConfigurationError`, `Refused` by the server, `AdapterInvalid` for an archive that is not as it says, and
    `ExportFailed`.
    """
    screen = Lines()
    out = wanted.out or Path(adapters.safe_name(wanted.model))
    if wanted.format == "merged":
        _check_merger()
    elif wanted.base is not None:
        raise ConfigurationError("--base names the model to merge with, so it needs --format merged.")
    try:
        with adapters.whole_folder(out) as folder, server.connect(screen) as remote:
            if wanted.format == "peft":
                manifest = _download(remote, wanted.model, folder, screen)
            else:
                manifest = _merged(remote, wanted, folder, screen)
    except KeyboardInterrupt:
        screen.say("Stopped. Nothing was kept.")
        return INTERRUPTED
    except OSError as error:
        raise ExportFailed(f"{error.filename or out}: {error.strerror or error}.") from error
    what = "whole model" if manifest.kind == "full" else "adapter"
    if wanted.format == "merged":
        screen.say(f"Saved to {out}: a model that needs no adapter.")
    else:
        screen.say(f"Saved to {out}: the {what}, made on {manifest.base}. README.md there says how to load it.")
    return 0


def _download(remote: Remote, model: str, folder: Path, screen: Lines) -> Manifest:
    def take(chunks: Iterator[bytes], size: int | None) -> Manifest:
        with screen.transfer(model, size or 0) as moved:
            return adapters.unpack(_watched(chunks, moved), folder)

    return remote.receive(f"/rootstock/models/{quote(model, safe='')}/export", take, format="peft")


def _watched(chunks: Iterator[bytes], moved: Moved) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        moved(len(chunk))


def _merged(remote: Remote, wanted: Wanted, folder: Path, screen: Lines) -> Manifest:
    tuned, merged = folder / "adapter", folder / "merged"
    tuned.mkdir()
    manifest = _download(remote, wanted.model, tuned, screen)
    # -P: a folder of that name where the user happens to be is none of ours.
    command = [sys.executable, "-P", "-m", "trainer", "merge", "--adapter", str(tuned), "--out", str(merged)]
    command += [] if wanted.base is None else ["--base", wanted.base]
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        raise ExportFailed(f"The model could not be merged (exit code {code}); the reason is above.")
    for path in merged.iterdir():
        path.rename(folder / path.name)
    merged.rmdir()
    shutil.rmtree(tuned)
    return manifest


def _check_merger() -> None:
    """Before anything is downloaded: `find_spec` looks for the packages and imports none."""
    missing = [name for name in _MERGER_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"Merging needs {missing[0]}, which is not installed here. Install the extra `rootstock[trainer]`, or "
            "export with --format peft and run `python -m trainer merge` where the trainer is."
        )


def _line(model: dict[str, object]) -> str:
    created = model.get("created")
    made = (
        "" if not isinstance(created, int) or not created else f"{datetime.fromtimestamp(created, UTC):%Y-%m-%d %H:%M}"
    )
    owner = "base" if model.get("owned_by") == "system" else str(model.get("owned_by"))
    return f"{made:<16}  {owner:<12}  {model.get('id')}"
