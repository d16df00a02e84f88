"""Errors as the API answers them: a status and a JSON body that says what to do."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from egovlpv2.command.errors import describe, one_line
from egovlpv2.serve.schemas import ErrorBody
from egovlpv2.serve.workers import ClientGone, QueueFull
from egovlpv2.video.container import VideoError

log = logging.getLogger(__name__)
_RETRY_SECONDS = "2"
_CLIENT_GONE = 499  # nobody receives it; known from nginx
_ALWAYS = {400: "The Host header is not one of this server's names.",
           401: "The token is missing or wrong.",
           403: "The request comes from a page of another site.",
           422: "A parameter is missing or out of bounds.",
           503: "The server is busy, or lacks memory or disk space: try again after `Retry-After` seconds."}
_SOME = {404: "There is no such video, or no video of such a name.",
         409: "This server was started without what it takes: a head, or weights with fusion.",
         410: "The video is missing, has changed since it was indexed, or can't be read.",
         416: "The requested range lies outside the file."}


class Refusal(Exception):
    """An error that is answered with a status of its own.

    Args:
        status: HTTP's.
        message: The reason, and what to do.
        headers: Of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a route for its OpenAPI document: those of every route, and some more."""
    texts = {**_ALWAYS, **{status: _SOME[status] for status in statuses}}
    return {status: {"model": ErrorBody, "description": text} for status, text in sorted(texts.items())}


def printable(text: str) -> str:
    """Escape what can't be sent as JSON: bytes of a file's name that are not UTF-8 become `\\udce9`."""
    return text.encode(errors="backslashreplace").decode()


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Make the answer of an error."""
    return JSONResponse({"error": printable(one_line(message))}, status, dict(headers or {}))


def add_handlers(app: FastAPI) -> None:
    """Make an application answer errors as JSON."""
    for kind, handler in ((Refusal, _refuse), (QueueFull, _busy), (ClientGone, _leave), (VideoError, _no_video),
                          (ValueError, _wrong), (RequestValidationError, _invalid), (HTTPException, _plain),
                          (OSError, _unexpected), (MemoryError, _unexpected), (RuntimeError, _unexpected),
                          (Exception, _unexpected)):
        app.add_exception_handler(kind, handler)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error_response(error.status, error.message, error.headers)


async def _busy(request: Request, error: Exception) -> Response:
    return error_response(503, "too many requests are waiting: try again in a few seconds",
                          {"Retry-After": _RETRY_SECONDS})


async def _leave(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_GONE)


async def _no_video(request: Request, error: Exception) -> Response:
    return error_response(410, str(error))


async def _wrong(request: Request, error: Exception) -> Response:
    return error_response(422, str(error))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(422, "; ".join(map(_in_words, error.errors())))


def _in_words(problem: Mapping[str, Any]) -> str:
    name, given = problem["loc"][-1], problem.get("input")
    if problem["type"] == "missing":
        return f"{name} is missing: give a value"
    if problem["type"] == "string_pattern_mismatch" and isinstance(given, str) and not given.strip():
        return f"{name} is empty: give a text, such as '#C C opens the jar'"
    text = problem["msg"].replace("Input should be", "give").replace("String should have", "give").replace(
        "String should match pattern", "give what matches")
    return f"{name} {given!r:.60}: {text}"


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    hints = {404: f"there is nothing at {request.url.path}: /docs lists the addresses of the API",
             405: f"{request.method} is not allowed at {request.url.path}: give GET"}
    message = hints.get(error.status_code) or str(error.detail) or HTTPStatus(error.status_code).phrase
    return error_response(error.status_code, message, error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    """Answer faults of the machine as such. Other errors are the program's own, whose traceback goes to the log."""
    line = describe(error)
    if line is None:
        log.error("%s can't be answered", request.url.path, exc_info=error)
        return error_response(500, "the program has an error of its own: its log has the details")
    log.error("%s can't be answered: %s", request.url.path, line)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else line  # without paths of the machine
    return error_response(503, reason, {"Retry-After": _RETRY_SECONDS})
