"""A local web application over a search index: `egovlpv2 serve`. It needs the extra `serve`."""

from importlib.util import find_spec

if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
    raise ValueError(f"`egovlpv2 serve` needs {' and '.join(missing)}: `pip install 'egovlpv2[serve]'`")
