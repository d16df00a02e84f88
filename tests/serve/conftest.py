"""An index that the tests of a module share, and one of a test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs fastapi and uvicorn (pip install 'egovlpv2[serve]')")

from serve.serving import client_of, opened, write_head, write_index  # noqa: E402 (after the check)
from starlette.testclient import TestClient  # noqa: E402

from egovlpv2.serve.app import make_app  # noqa: E402
from egovlpv2.serve.service import Service  # noqa: E402


@pytest.fixture(autouse=True)
def something_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What random weights find is often no better than chance."""
    monkeypatch.setattr("egovlpv2.search.index.LEAST_DEVIATION", float("-inf"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("serve")
    made = write_index(folder)
    with opened(made, write_head(folder)) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> TestClient:
    return client_of(make_app(service, {"127.0.0.1", "localhost"}))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Path, Service, TestClient]]:
    """An index that a test may change: its folder, which has `videos` beside it, its service and a client."""
    made = write_index(tmp_path)
    with opened(made) as service:
        yield made, service, client_of(make_app(service, {"127.0.0.1"}))
