"""Answers with a file or a part of it, by HTTP Range."""

import re
from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse

from egovlpv2.serve.errors import Refusal
from egovlpv2.video.container import stat_file

_ONE_RANGE = re.compile(r"bytes=(\d{1,18})?-(\d{1,18})?")


def file_response(request: Request, path: Path, media_type: str) -> FileResponse:
    """Answer with the part of a file that a request asks for.

    A Range header that can't be read, or with several ranges, is ignored, as HTTP allows.

    Args:
        request: The request.
        path: The file.
        media_type: Of the file.

    Raises:
        VideoError: The file is missing.
        Refusal: The range lies outside the file.
    """
    state = stat_file(path)
    given = request.headers.get("range")
    if given is not None:
        found = _ONE_RANGE.fullmatch(given.strip())
        if found is None or (found[1], found[2]) == (None, None) or _is_reversed(found):
            headers = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
            request.scope["headers"][:] = headers
        elif not _is_inside(found, state.st_size):
            raise Refusal(416, f"the range {given} lies outside the file, which has {state.st_size} bytes",
                          {"Content-Range": f"bytes */{state.st_size}"})
    return FileResponse(path, media_type=media_type, stat_result=state,
                        headers={"Accept-Ranges": "bytes", "Cache-Control": "private, no-cache"})


def _is_reversed(found: re.Match[str]) -> bool:
    return bool(found[1] and found[2]) and int(found[1]) > int(found[2])


def _is_inside(found: re.Match[str], size: int) -> bool:
    return int(found[1]) < size if found[1] else int(found[2]) > 0
