"""One OpenAI-shaped server over HTTP: pages, streams, waiting as told. Knows no object's meaning."""

import contextlib
import io
import random
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from rootstock.errors import ConfigurationError, ImportStopped, RootstockError

ATTEMPTS = 6
WAITS = 100  # how often one request may be told to come back later
UNTOLD_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 3600.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
TIMEOUT = httpx.Timeout(120.0, connect=10.0)
ANSWER_TIMEOUT = httpx.Timeout(600.0, connect=10.0)  # a large upload is checked before it is answered
CHUNK_BYTES = 256 * 1024
LOOPBACK = {"127.0.0.1", "localhost", "::1"}

Result = TypeVar("Result")

Moved = Callable[[int], object]
"""Told how many bytes have just been transferred."""


class Refused(RootstockError):
    """The server answered, and the answer was no. `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.http_status = status


class Unclear(RootstockError):
    """A request was sent and its answer never came: it may have been carried out."""


class Remote:
    """A server at `url` (with or without `/v1`) and a key for it; `name` is what messages call it.

    Every call waits and tries again when it is told to (429) or the server is away, `ATTEMPTS` times.
    Example: `with Remote("OpenAI", "https://api.openai.com/v1", key) as api: api.get("/files/file-1")`.
    """

    def __init__(
        self,
        name: str,
        url: str,
        key: str,
        *,
        headers: dict[str, str] | None = None,
        say: Callable[[str], object] = lambda _: None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.name = name
        self.url = _base(url)
        self._say = say
        self._sleep = sleep
        try:
            self._http = httpx.Client(
                headers={"authorization": f"Bearer {key}", **(headers or {})},
                timeout=TIMEOUT,
                transport=transport,
                trust_env=urlsplit(self.url).hostname not in LOOPBACK,  # a proxy cannot reach this machine
            )
        except UnicodeEncodeError:
            raise ConfigurationError(f"The key for {name} holds characters that no key has.") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str, **params: str | int) -> Any:
        """The JSON at `path`. Raises `Refused`, `ImportStopped`, `ConfigurationError` (key)."""
        return self._repeated(lambda: self._json(self._http.get(self.url + path, params=params)))

    def pages(self, path: str, **params: str | int) -> Iterator[dict[str, Any]]:
        """Every object of a list, page by page. Raises like `get`."""
        after: str | None = None
        while True:
            page = self.get(path, **params, **({} if after is None else {"after": after}))
            data = page.get("data") if isinstance(page, dict) else None
            if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
                raise ImportStopped(f"{self.name} did not answer {self.url}{path} with a list. Is the address right?")
            yield from data
            if not data or not page.get("has_more"):
                return
            last = data[-1].get("id")
            if not isinstance(last, str) or last == after:
                raise ImportStopped(f"{self.name} repeats a page of {path}; the list cannot be followed.")
            after = last

    def download(self, path: str, to: Path, moved: Moved, *, size: int | None) -> None:
        """Stream the body at `path` into the file `to`; nothing is there unless all of it came.

        `size` is how many bytes it must have, if that is known. A cut connection starts it again. Raises like `get`.
        """
        unfinished = to.with_name(to.name + ".part")

        def write(chunks: Iterator[bytes], _: int | None) -> None:
            taken = 0
            try:
                with unfinished.open("wb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                        taken += len(chunk)
                        moved(len(chunk))
                if size is not None and taken != size:
                    raise _Faulty(502, f"only {taken} of {size} bytes came")
            except BaseException:
                moved(-taken)
                raise

        self.receive(path, write)
        unfinished.replace(to)

    def receive(self, path: str, take: Callable[[Iterator[bytes], int | None], Result], **params: str) -> Result:
        """What `take` makes of the body at `path`, given in chunks, and of its announced size.

        A cut connection starts it again: `take` is called anew. Raises like `get`.
        """
        return self._repeated(lambda: self._receive(path, take, params))

    def post(self, path: str, body: dict[str, Any], key: str) -> Any:
        """The answer to a JSON body sent under an `Idempotency-Key`. Raises `Unclear` if none came, else like `get`."""
        headers = {"idempotency-key": key}
        return self._sent(lambda: self._http.post(self.url + path, json=body, headers=headers, timeout=ANSWER_TIMEOUT))

    def upload(self, path: str, file: Path, filename: str, purpose: str, key: str, moved: Moved) -> Any:
        """The answer to a multipart upload, read from disk as it goes. Raises like `post`."""

        def send() -> httpx.Response:
            with _Watched(io.FileIO(file), moved) as stream:
                answer = None
                try:
                    answer = self._http.post(
                        self.url + path,
                        data={"purpose": purpose},
                        files={"file": (filename, stream, "application/octet-stream")},
                        headers={"idempotency-key": key},
                        timeout=ANSWER_TIMEOUT,
                    )
                    return answer
                finally:
                    if answer is None or not answer.is_success:
                        moved(-stream.taken)

        return self._sent(send)

    def pause(self, attempt: int) -> None:
        """Wait before trying again; `attempt` counts from 0."""
        self._sleep(min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt) * (1 - random.random() / 4))

    def _receive(
        self, path: str, take: Callable[[Iterator[bytes], int | None], Result], params: dict[str, str]
    ) -> Result:
        headers = {"accept": "application/binary"}
        with self._http.stream("GET", self.url + path, params=params, headers=headers) as answer:
            if not answer.is_success:
                answer.read()
                self._checked(answer)
            announced = answer.headers.get("content-length", "")
            return take(answer.iter_bytes(CHUNK_BYTES), int(announced) if announced.isdigit() else None)

    def _sent(self, send: Callable[[], httpx.Response]) -> Any:
        """A request that must not be repeated blindly: only "not now" (429) sends it again."""
        for _ in range(WAITS):
            try:
                return self._json(send())
            except _Later as later:
                self._wait(later)
                if later.status != 429:
                    raise Unclear(f"{self.name} did not answer: {later}") from None
            except (httpx.TransportError, _Faulty) as error:
                raise Unclear(f"{self.name} did not answer: {_reason(error)}") from error
        raise ImportStopped(f"{self.name} said {WAITS} times to come back later. Try again later.")

    def _repeated(self, call: Callable[[], Result]) -> Result:
        """A request that may be repeated: until it is answered, or the patience is used up."""
        attempt = waits = 0
        while True:
            try:
                return call()
            except _Later as later:
                waits += 1
                if waits > WAITS:
                    raise ImportStopped(f"{self.name} said {WAITS} times to come back later.") from None
                self._wait(later)
            except (httpx.TransportError, _Faulty) as error:
                attempt += 1
                if attempt >= ATTEMPTS and isinstance(error, _Faulty):
                    raise Refused(error.status, str(error)) from error
                if attempt >= ATTEMPTS:
                    raise ImportStopped(self._unreachable(error)) from error
                self._say(f"{self.name} does not answer ({_reason(error)}); trying again")
                self.pause(attempt - 1)

    def _wait(self, later: "_Later") -> None:
        what = "limits the rate" if later.status == 429 else "is busy"
        self._say(f"{self.name} {what}: waiting {later.seconds:g} s as told")
        self._sleep(later.seconds)

    def _unreachable(self, error: Exception) -> str:
        return f"{self.name} cannot be used at {self.url}: {_reason(error)}. Check the network and the address."

    def _json(self, answer: httpx.Response) -> Any:
        self._checked(answer)
        try:
            return answer.json()
        except ValueError:
            raise ImportStopped(f"{self.name} at {self.url} does not answer with JSON. Is the address right?") from None

    def _checked(self, answer: httpx.Response) -> None:
        """Raise what a status that is not success means for us."""
        if answer.is_success:
            return
        message, code = _error(answer)
        if answer.status_code == 401 and "insufficient permissions" not in message:  # that is a matter of scopes
            raise ConfigurationError(f"{self.name} refused the key: {message}")
        status = answer.status_code
        if (status == 429 and code != "insufficient_quota") or (status == 503 and "retry-after" in answer.headers):
            raise _Later(status, _told(answer.headers))
        if (status == 408 or status >= 500) and answer.headers.get("x-should-retry") != "false":
            raise _Faulty(status, message)
        raise Refused(status, message)


class _Later(Exception):
    """The server said when to come back."""

    def __init__(self, status: int, seconds: float) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.seconds = seconds


class _Faulty(Exception):
    """The server answered with a fault of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Watched(io.BufferedReader):
    """A file that tells how much of it has been read."""

    def __init__(self, raw: io.RawIOBase, moved: Moved) -> None:
        super().__init__(raw)
        self._moved = moved
        self.taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        self._moved(len(data))
        return data


def _base(url: str) -> str:
    """`https://host/v1`, from that or from `https://host/`."""
    tidy = url.strip().rstrip("/")
    parts = urlsplit(tidy)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{url!r} is not an address; it should read like https://api.openai.com/v1.")
    return tidy if parts.path else tidy + "/v1"


def _error(answer: httpx.Response) -> tuple[str, str | None]:
    """What an error answer says, in one line, and its code."""
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        error = answer.json()["error"]
        return " ".join(str(error["message"]).split())[:500], error.get("code")
    return f"HTTP {answer.status_code}", None


def _told(headers: httpx.Headers) -> float:
    """Seconds to wait: `retry-after-ms`, or `retry-after` as a number or a date; else a few."""
    told = UNTOLD_SECONDS
    given = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        told = parsedate_to_datetime(given).timestamp() - time.time()
    with contextlib.suppress(ValueError):
        told = float(given)
    with contextlib.suppress(KeyError, ValueError):
        told = float(headers["retry-after-ms"]) / 1000
    return min(max(0.0, told), LONGEST_WAIT_SECONDS)


def _reason(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
