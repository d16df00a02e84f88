"""Made-up requests get answers that the API's own document describes, and none fails."""

from collections import Counter
from contextlib import suppress
from zlib import crc32

import pytest
from serve.serving import IDS, QUERY

from egovlpv2.serve.app import make_app
from egovlpv2.serve.service import Service

hypothesis = pytest.importorskip("hypothesis", reason="needs schemathesis, which needs Python 3.11")
schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, which needs Python 3.11")
# Whether every request that the document allows is answered with 2xx is not asked: a moment may lie past the end.
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
          "response_headers_conformance", "negative_data_rejection", "unsupported_method")
REAL = {"id": list(IDS.values()), "q": [QUERY], "start": [0, 1.5], "end": [2, 3.5], "at": [0, 2.5],
        "format": ["csv", "srt", "zip"], "like": [f"{IDS['a']}@1"]}


def fuzz(service: Service, examples: int) -> Counter[int]:
    """Send so many made-up requests to each operation, most of them with parameters that are real ones; count the
    statuses of the answers."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(service, {"testserver", "127.0.0.1"}))
    statuses: Counter[int] = Counter()
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in schemathesis.GenerationMode:
            run(operation, mode, examples // 2, statuses)
    return statuses


def run(operation: object, mode: object, examples: int, statuses: Counter[int]) -> None:
    schemathesis.checks.load_all_checks()
    checks = [schemathesis.checks.CHECKS.get_one(name) for name in CHECKS]

    @hypothesis.seed(0)
    @hypothesis.settings(max_examples=examples, deadline=None, database=None, phases=[hypothesis.Phase.generate],
              suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def test(case: object) -> None:
        for values in (case.path_parameters, case.query):
            for name in set(values or {}) & REAL.keys() if mode.is_positive else ():
                drawn = crc32(str(values[name]).encode("utf-8", "replace"))
                if drawn % 4:
                    values[name] = REAL[name][drawn % len(REAL[name])]
        answer = case.call()
        statuses[answer.status_code] += 1
        case.validate_response(answer, checks=checks)

    with suppress(hypothesis.errors.Unsatisfiable):  # an operation without parameters has no wrong ones
        test()


def test_made_up_requests(service: Service) -> None:
    statuses = fuzz(service, 24)
    assert sum(statuses.values()) >= 9 * 20 and statuses[200] > 20 and statuses[422] > 20
    assert not [status for status in statuses if status >= 500], statuses


@pytest.mark.slow
def test_ten_thousand_made_up_requests(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    statuses = fuzz(service, 1400)
    with capsys.disabled():
        print(f"\n{sum(statuses.values())} requests: {dict(sorted(statuses.items()))}")
    assert sum(statuses.values()) >= 10_000 and not [status for status in statuses if status >= 500]
