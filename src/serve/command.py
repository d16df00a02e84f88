"""Serve a search index as a web application: `egovlpv2 serve`."""

import errno
import ipaddress
import logging
import os
import resource
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import uvicorn

from egovlpv2.arguments import check_call
from egovlpv2.search.manifest import read_manifest
from egovlpv2.serve.app import make_app
from egovlpv2.serve.asking import ModelOptions
from egovlpv2.serve.guard import require_token
from egovlpv2.serve.service import Service
from egovlpv2.types import NumTokens, Port, Precision

_LOCAL = ("localhost", "127.0.0.1", "::1")
_IDLE = 30  # seconds that a connection stays open between requests: longer than clients keep theirs
_AUTO = "auto"
_MOST_FILES = 65_536
_TO_END = 1  # seconds that answers have to end at Ctrl-C
_HINTS = {errno.EADDRINUSE: "another program uses it: give another --port, or 0 for any that is free",
          errno.EACCES: "it may not be used: give a --port from 1024 on",
          errno.EADDRNOTAVAIL: "this machine has no such address: give one of its own as --host"}


def serve(index: str | Path, *, host: str = "127.0.0.1", port: Port = 8000, head: str | None = None,
          token: str | None = None, hosts: Sequence[str] | None = None, weights: str | None = None,
          tokenizer: str | None = None, max_tokens: NumTokens | None = None, device: str | None = None,
          precision: Precision | None = None) -> None:
    """Search in an index with a browser: serve a web page and a JSON API.

    It ends at Ctrl-C. Whoever can reach it can see the videos of the index: it listens on this machine only, unless
    another --host is given, and then asks for a token.

    Args:
        index: folder that `egovlpv2 index` wrote
        host: address to listen on; 0.0.0.0 for all of this machine
        port: port to listen on; 0 for any that is free
        head: a checkpoint of `make finetune-nlq`, to locate answers in a video
        token: what clients have to know, or `auto` for one that is made up and printed; if not given, there is one
            only where others can reach the server
        hosts: more names under which the server is opened, such as that of a proxy; it then asks for a token
        weights: those of the index, if they have moved
        tokenizer: the text tower's, if it has moved
        max_tokens: tokens of a query; as the index says, if not given
        device: cuda or cpu; cuda where there is one
        precision: bf16 on a GPU if not given, else 32

    Raises:
        ValueError: An argument, the index or the head doesn't allow it, or the port is in use.
    """
    check_call(serve, locals())
    if token is not None and token != _AUTO:
        require_token(token)
    read_manifest(Path(index))
    _raise_file_limit()
    with listen(host, port) as listening:
        address = listening.getsockname()[0]
        is_local = ipaddress.ip_address(address).is_loopback
        reachable = not is_local or bool(hosts)  # those are a proxy's names
        secret = secrets.token_urlsafe(24) if token == _AUTO or (token is None and reachable) else token or ""
        options = ModelOptions(weights, tokenizer, max_tokens, device, precision)
        service = Service(Path(index), options, None if head is None else Path(head))
        try:
            app = make_app(service, names_of(host, hosts or ()), not is_local, secret)
            print(f"serving {index} at {url_of(host, listening, secret)} (Ctrl-C ends it)", flush=True)
            config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off",
                                    proxy_headers=False, timeout_keep_alive=_IDLE, timeout_graceful_shutdown=_TO_END)
            _Server(config).run(sockets=[listening])
        finally:
            service.close()


class _Server(uvicorn.Server):
    """A server that logs nothing once it is told to end: answers that are cut off then are no errors."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End for a signal."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        super().handle_exit(sig, frame)


def _raise_file_limit() -> None:
    """Allow as many connections as the system does: usual limits are a thousand open files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _MOST_FILES) if most > 0 else _MOST_FILES, most))


def listen(host: str, port: int) -> socket.socket:
    """Listen on a port.

    Raises:
        ValueError: There is no such host, or the port can't be used; says why.
    """
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(place[:2], family=family)
    except socket.gaierror as error:
        raise ValueError(f"--host {host}: there is no such address ({error.strerror}): give 127.0.0.1, or an address "
                         "of this machine") from error
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        hint = _HINTS.get(number or 0, "give another --host or --port")
        raise ValueError(f"--port {port} of {host} can't be listened on ({os.strerror(number) if number else error}): "
                         f"{hint}") from error


def names_of(host: str, more: Sequence[str]) -> set[str]:
    """The names under which a server may be asked, in small letters and without a port."""
    own = socket.gethostname()
    return {name.lower().rstrip(".") for name in (*_LOCAL, host, own, f"{own}.local", *more)}


def url_of(host: str, listening: socket.socket, token: str) -> str:
    """The address to open in a browser."""
    port = listening.getsockname()[1]
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
