"""Calls made up from the OpenAPI document: never a fault of ours, and answers as it says."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi import checks

from abupdate.web import openapi
from abupdate.web.api import calls
from tests.web.live_server import LiveServer, until

DOCUMENT = openapi.document(calls())
_SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
# A stream of what changes does not end by itself: test_api.py reads it.
_BOUNDED = _SCHEMA.exclude(path="/api/v1/events")
# Of one job or upload; what is well-formed, for a name is put into it.
_OF_ONE = schemathesis.openapi.from_dict(DOCUMENT).include(path_regex="{id}")
_OF_ONE.config.generation.update(modes=[schemathesis.GenerationMode.POSITIVE])
_EXCLUDED = [
    # A digest that is not the file's, a job that cannot be: what fits the schema may be refused.
    checks.positive_data_acceptance,
    # The gate knows which methods there are at all, before anybody is let in to ask for more.
    checks.allow_header_conformance,
]
_ID = "0123456789abcdef"


@pytest.fixture(scope="module")
def described(lasting: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> LiveServer:
    """The server, with a file for those who help."""
    support = tmp_path_factory.mktemp("support") / "made.tar.gz"
    support.write_bytes(b"of the device")
    lasting.engine.support_file = support
    return lasting


@pytest.fixture(scope="module")
def a_job(lasting: LiveServer) -> str:
    """The name of one that has ended."""
    with lasting.script() as client:
        job = client.post("/api/v1/jobs", json={"kind": "repair"}).raise_for_status().json()["id"]
        until(lambda: client.get(f"/api/v1/jobs/{job}").json()["state"] != "running")
    return str(job)


@pytest.mark.row("S45")
@pytest.mark.timeout(120)
@_BOUNDED.parametrize()
@settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_call_is_a_fault_of_ours(case: Any, described: LiveServer) -> None:
    described.do(lambda: _fresh(described))
    case.call_and_validate(
        base_url=described.url, headers={"Authorization": f"Bearer {described.token}"}, timeout=30,
        excluded_checks=_EXCLUDED,
    )  # fmt: skip


@pytest.mark.row("S45")
@pytest.mark.timeout(120)
@_OF_ONE.parametrize()
@settings(
    max_examples=10,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_nor_is_one_about_what_there_is(case: Any, described: LiveServer, a_job: str) -> None:
    """No made up name is one that there is."""
    described.do(lambda: _fresh(described))
    upload = described.do(lambda: described.context.uploads.create(3)).id
    case.path_parameters = {"id": a_job if "/jobs/" in case.path else upload}
    answer = case.call_and_validate(
        base_url=described.url, headers={"Authorization": f"Bearer {described.token}"}, timeout=30,
        excluded_checks=_EXCLUDED,
    )  # fmt: skip
    assert answer.status_code != 404


def _fresh(server: LiveServer) -> None:
    """No upload is there: there may be one part and two whole ones."""
    for upload in server.context.uploads.all():
        server.context.uploads.drop(upload.id)


@pytest.mark.row("S46")
def test_each_call_wants_a_token(lasting: LiveServer) -> None:
    asked = 0
    with httpx.Client(base_url=lasting.url, trust_env=False, timeout=30) as client:
        for path, methods in DOCUMENT["paths"].items():
            for method in methods:
                answer = client.request(method.upper(), path.replace("{id}", _ID))
                assert answer.status_code == 401, (method, path)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                asked += 1
    assert asked >= 20


def test_the_document_says_what_is_served(server: LiveServer) -> None:
    with server.script() as client:
        assert client.get("/api/v1/openapi.json").json() == DOCUMENT
