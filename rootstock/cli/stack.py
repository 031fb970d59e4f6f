"""Where the Rootstock is that a command shall talk to, and with which key. Knows no wire."""

from urllib.parse import urlsplit

from rootstock.errors import ConfigurationError
from rootstock.importing.remote import LOOPBACK
from rootstock.settings import Settings


def found(settings: Settings, url: str | None, key: str | None, *, url_option: str, key_option: str) -> tuple[str, str]:
    """Its base URL and a key for it: what was asked for, else those of the stack on this machine.

    Raises `ConfigurationError`, naming the options, when there is none to be found.
    """
    if url is None and settings.port == 0:
        raise ConfigurationError(
            f"The port of this machine's Rootstock is not fixed; say where it is with {url_option}."
        )
    url = url or f"http://127.0.0.1:{settings.port}/v1"
    if key is not None:
        return url, key
    # The local key is no business of another machine.
    if urlsplit(url).hostname not in LOOPBACK:
        raise ConfigurationError(f"There is no key for {url}; give {key_option}.")
    path = settings.data_dir / "api-key"
    try:
        return url, path.read_text(encoding="utf-8").strip()
    except OSError:
        raise ConfigurationError(f"There is no key in {path}; give {key_option}, or --data-dir.") from None
