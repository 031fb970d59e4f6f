"""`make demo`: start the whole stack on free ports, run examples/quickstart.py against it, stop it again.

Knows nothing about how the stack works: it reads the `Ready` line and the first API key as any user would.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_SECONDS = 300
STOP_TIMEOUT_SECONDS = 90
READY = re.compile(r"Ready\s+(http://\S+)")


class Stack:
    """`rootstock up` in a temporary data folder, its log in a file so that the demo's own output stays readable."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self.data_dir = data_dir
        self.log = data_dir / "demo.log"
        self.url: str | None = None
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rootstock", "up", "--port", "0", "--data-dir", str(data_dir), *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.log.open("w", encoding="utf-8") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                if self.url is None and (found := READY.search(line)):
                    self.url = found[1]
                    self._ready.set()
        self._ready.set()  # it ended: nobody should wait any longer

    def wait(self) -> str:
        """The base URL, once every part answers. Raises `RuntimeError` with the end of the log if it never does."""
        began = time.monotonic()
        while not self._ready.wait(0.5) and time.monotonic() - began < START_TIMEOUT_SECONDS:
            if sys.stdout.isatty():
                print(f"\r  starting … {time.monotonic() - began:3.0f} s", end="", flush=True)
        if self.url is None:
            raise RuntimeError("the stack did not start:\n" + "\n".join(self.log.read_text("utf-8").splitlines()[-30:]))
        print(f"\r  ready after {time.monotonic() - began:.0f} s at {self.url}", flush=True)
        return self.url

    def stop(self) -> None:
        """Ctrl-C, as a user would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()


def main() -> int:
    """Exit code of the quickstart, or 1 when the stack would not start."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rootstock-demo-") as folder:
        print("▸ start the stack (API, worker, vLLM, embedded Redis, SQLite)", flush=True)
        stack = Stack(Path(folder))
        try:
            url = stack.wait()
            key = (stack.data_dir / "api-key").read_text(encoding="utf-8").strip()
            environment = os.environ | {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": key, "PYTHONUNBUFFERED": "1"}
            code = subprocess.run(
                [sys.executable, str(ROOT / "examples" / "quickstart.py"), *sys.argv[1:]], env=environment, check=False
            ).returncode
        except RuntimeError as error:
            print(f"\n{error}", file=sys.stderr)
            code = 1
        except KeyboardInterrupt:
            code = 130
        finally:
            print("\n▸ stop the stack", flush=True)
            stack.stop()
            if sys.exc_info()[0] is None and code not in (0, 130):
                print("  last lines of its log:", file=sys.stderr)
                print("\n".join(stack.log.read_text("utf-8").splitlines()[-20:]), file=sys.stderr)
    print(f"  {time.monotonic() - began:.0f} s in all. To keep a stack running: make up", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
