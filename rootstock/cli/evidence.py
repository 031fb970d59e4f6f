"""`rootstock models evidence`: the evidence pack of a tuned model as two files. Knows the API only."""

import json
from pathlib import Path
from urllib.parse import quote

from rootstock import adapters
from rootstock.cli.exporting import Server
from rootstock.cli.terminal import Lines
from rootstock.errors import ExportFailed


def save_evidence(server: Server, model: str, out: Path | None) -> Path:
    """Write `evidence.json` and `evidence.md` into a folder and return it. Raises `Refused` by the server."""
    folder = out or Path(f"{adapters.safe_name(model)}-evidence")
    path = f"/rootstock/models/{quote(model, safe='')}/evidence"
    with server.connect(Lines()) as remote:
        pack = remote.get(path)
        page = remote.receive(path, lambda chunks, _: b"".join(chunks).decode(), format="markdown")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evidence.json").write_text(json.dumps(pack, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "evidence.md").write_text(page, encoding="utf-8")
    except OSError as error:
        raise ExportFailed(f"{error.filename or folder}: {error.strerror or error}.") from error
    return folder
