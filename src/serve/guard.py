"""Checks of each request before it is read, and headers of each answer.

The application answers GET only and never reads a body, so that nothing can be changed through it.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from egovlpv2.serve.errors import Refusal, error_response

GONE = "egovlpv2.gone"
"""Name in a request's scope of the event that is set when its client has left."""
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,200}")
_POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src "
           "'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin", "X-Frame-Options": "DENY"}
_OTHER_SITES = ("cross-site", "same-site")


def require_token(token: str) -> str:
    """Check a token that a user has chosen.

    Raises:
        ValueError: It is short, or has letters that can't stand in an address.
    """
    if not _TOKEN.fullmatch(token):
        raise ValueError("--token: give 8 to 200 letters, digits, dots, dashes, underscores and tildes")
    return token


class Guard:
    """An application behind checks of host, origin and token.

    Args:
        app: The application.
        hosts: Names under which it may be asked, without port and in small letters.
        any_address: Whether it may be asked under any IP address, as a server is that listens on all of them. No other
            site's name leads to an address that is given as such.
        token: What clients have to know; empty if nothing.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], any_address: bool = False, token: str = "") -> None:
        self.app, self.hosts, self.any_address = app, frozenset(hosts), any_address
        self._token = token.encode()
        self._cookie = f"egovlpv2-{hashlib.sha256(self._token).hexdigest()[:8]}"  # one for each server of a host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        gone = scope[GONE] = asyncio.Event()
        watching = asyncio.ensure_future(_watch(receive, gone))
        sender = _Sender(send, gone)
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_origin(headers, scope["path"])
            if self._check_token(headers, scope):
                sender.cookie = f"{self._cookie}={self._token.decode()}; HttpOnly; SameSite=Strict; Path=/"
            await self.app(scope, _no_body(gone), sender)
        except Refusal as refusal:
            await error_response(refusal.status, refusal.message, refusal.headers)(scope, receive, sender)
        except Exception as error:
            # Nobody is left to be told; or a file can't be read on, and the connection ends too early.
            if not gone.is_set() and not (sender.begun and isinstance(error.__cause__ or error, OSError)):
                raise
        finally:
            watching.cancel()

    def _check_host(self, headers: Headers) -> None:
        """Refuse names that are not this server's: another site's name may lead here (DNS rebinding)."""
        given = headers.getlist("host")
        name = _without_port(given[0]) if len(given) == 1 else ""
        if name not in self.hosts and not (self.any_address and _is_address(name)):
            raise Refusal(400, f"this server is not {name or 'that host'!r}: open the address that was printed when it "
                               "was started, or start it with --hosts NAME")

    @staticmethod
    def _check_origin(headers: Headers, path: str) -> None:
        """Refuse what a page of another site asks for in a visitor's name; links to the page itself are followed."""
        if path != "/" and headers.get("sec-fetch-site") in _OTHER_SITES:
            raise Refusal(403, "pages of other sites can't use this server: open its own page")

    def _check_token(self, headers: Headers, scope: Scope) -> bool:
        """Check the token; True if it came with the address, so that a cookie has to replace it."""
        if not self._token:
            return False
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return False
        if self._is_token(_cookie(headers.get("cookie", ""), self._cookie)):
            return False
        if self._is_token(parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]):
            return True
        raise Refusal(401, "the token is missing or wrong: open the address that was printed when the server was "
                           "started, or send it as `Authorization: Bearer TOKEN`", {"WWW-Authenticate": "Bearer"})

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token)


class _Left(Exception):
    """An error that ends an answer whose client has left. No handler answers it."""


class _Sender:
    """Send an answer with the headers of every answer; end it once the client has left."""

    def __init__(self, send: Send, gone: asyncio.Event) -> None:
        self._send, self._gone, self.cookie, self.begun = send, gone, "", False

    async def __call__(self, message: Message) -> None:
        if self._gone.is_set():
            raise _Left  # so that no more of a file is read
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
            if self.cookie:
                headers.append("Set-Cookie", self.cookie)
        await self._send(message)


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    """Skip the request's body, and wait for its client to leave."""
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


def _no_body(gone: asyncio.Event) -> Receive:
    begun = False

    async def receive() -> Message:
        nonlocal begun
        if begun:
            await gone.wait()
            return {"type": "http.disconnect"}
        begun = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive


def _without_port(host: str) -> str:
    found = re.fullmatch(r"\[([0-9a-fA-F:.]+)\](?::\d+)?|([^:\[\]]*)(?::\d+)?", host)
    return "" if found is None else (found[1] or found[2] or "").lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookie(header: str, name: str) -> str:
    """The value of a cookie; those of other programs on this host, which may be of any form, are passed over."""
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")
