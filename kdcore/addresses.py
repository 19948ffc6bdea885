"""What may be downloaded: addresses of web servers. Imports nothing that is slow."""

import re
from urllib.parse import urlsplit

from kdcore.errors import shown

HOST = re.compile(r"[\w.:%-]+")


def check_address(text: str) -> str:
    """An address as it is, if a web server could be asked for it.

    Raises:
        ValueError: it is of another scheme, holds control characters or a user, or names no host or an impossible port.
    """
    if not text.startswith(("http://", "https://")):
        raise ValueError(f"{shown(text)}: only http and https addresses are allowed")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # refuses what no name server could be asked for
    except ValueError:
        host, port = "", None
    if not text.isprintable() or not HOST.fullmatch(host) or port == 0:
        raise ValueError(f"{shown(text)}: names no host, or an impossible one; expected as in https://host.org/file")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"the address at {host}: holds a user or password, which cards and tables would show; ~/.netrc is for them"
        )
    return text
