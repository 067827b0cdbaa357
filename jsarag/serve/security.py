"""Who may ask, from where, and how much at once."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jsarag.errors import ConfigError
from jsarag.serve.problems import problem

KEY_VARIABLE = "JSARAG_API_KEY"
ADMIN_KEY_VARIABLE = "JSARAG_ADMIN_KEY"
# Opened by the admin key alone.
RELOAD_PATH = "/v1/index/reload"
_PORT = re.compile(r":\d+$")
# Answered without the key: probes, and pages that hold no data.
OPEN_PATHS = frozenset({"/", "/health", "/ready", "/docs", "/openapi.json"})


def read_api_key(
    environment: Mapping[str, str], key_file: Path | None = None, *, variable: str = KEY_VARIABLE
) -> str | None:
    """The bearer key from a file or from ``JSARAG_API_KEY``; None where there is none.

    Args:
        environment: usually ``os.environ``.
        key_file: preferred over the variable; surrounding white space is dropped.
        variable: its name.

    Raises:
        ConfigError: the file cannot be read or is empty, or the variable is set but blank.
    """
    if key_file is not None:
        try:
            key = key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"API key file {key_file}: cannot be read ({error})") from error
        where = str(key_file)
    elif variable in environment:
        key, where = environment[variable].strip(), variable
    else:
        return None
    if not key:
        raise ConfigError(f"{where}: expected an API key, found none; set one, or unset {where}")
    return key


def check_bind(host: str, key: str | None, insecure: bool = False) -> None:
    """Refuse to offer an index to a network without a key.

    Args:
        host: the address to listen on.
        key: the bearer key, if any.
        insecure: the user insists.

    Raises:
        ConfigError: ``host`` is not this machine alone, and there is no key.
    """
    if key or insecure or _is_loopback(host):
        return
    raise ConfigError(
        f"--host {host or '(all addresses)'}: others could read the index without a key. Set "
        f"{KEY_VARIABLE}, listen on 127.0.0.1, or insist with --insecure"
    )


class Gate:
    """ASGI middleware in front of everything: the host, the key, then the size of the body.

    Stands before the framework, so that nothing of an unauthorised request is parsed.

    Args:
        app: what is guarded.
        api_key: None asks for none.
        admin_key: what :data:`RELOAD_PATH` asks for; None leaves that path to the API key.
        max_body_bytes: a larger body is answered 413, also if it comes in pieces.
        hosts: names the server is reached under. Without a key, a request for another name is
            answered 421: it may be a web page's, whose name was made to point at this machine, and
            the browser would let that page read the answer. Addresses are no such names.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | None,
        max_body_bytes: int,
        admin_key: str | None = None,
        hosts: Sequence[str] = (),
    ) -> None:
        self._app = app
        self._hosts = {"localhost", *(name.lower() for name in hosts)}
        self._key = None if api_key is None else f"Bearer {api_key}".encode()
        self._admin_key = self._key if admin_key is None else f"Bearer {admin_key}".encode()
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        path = scope["path"]
        if self._key is None and not self._is_ours(headers.get("host", "")):
            await problem(421, self._another_host)(scope, receive, send)
            return
        key = self._admin_key if path == RELOAD_PATH else self._key
        if key is not None and path not in OPEN_PATHS and not _knows(headers, key):
            refusal = problem(
                401,
                "expected the header 'Authorization: Bearer <key>' with the server's key",
                {"WWW-Authenticate": "Bearer"},
            )
            await refusal(scope, receive, send)
            return
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_body_bytes:
            await problem(413, self._too_large)(scope, receive, send)
            return
        await self._app(scope, self._counted(receive), send)

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server: an address, or one of the known names."""
        name = host.rpartition(":")[0] if _PORT.search(host) else host
        return not name or name.lower().rstrip(".") in self._hosts or _is_address(name)

    @property
    def _another_host(self) -> str:
        return (
            "the Host header names another server; use this one's address, or start it with "
            "--allow-host NAME"
        )

    @property
    def _too_large(self) -> str:
        return f"the body may have {self._max_body_bytes:,} bytes; send fewer or shorter queries"

    def _counted(self, receive: Receive) -> Receive:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return counted


def _knows(headers: Headers, expected: bytes) -> bool:
    given = headers.get("authorization", "")
    scheme, _, key = given.partition(" ")
    candidate = f"Bearer {key.strip()}" if scheme.lower() == "bearer" else given
    # Headers arrive as latin-1 text; bytes, because compare_digest refuses non-ASCII text.
    return hmac.compare_digest(candidate.encode("latin-1"), expected)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name may mean any address
        return False
