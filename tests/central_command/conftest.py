"""Both databases, certificates, and one running server on each database for the tests that do not break it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.central_command.rig import GENEROUS, Central, Certificates, Postgres, make_certificates

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


MakeCentral = Callable[..., Central]


@pytest.fixture(scope="session")
def make_central(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[MakeCentral]:
    """A new Central Command on a new database; it is stopped at the end whatever happens."""
    made: list[Central] = []

    def make(kind: str, config: str = GENEROUS) -> Central:
        data: Path = tmp_path_factory.mktemp("central") / "data"
        url = f"sqlite:///{data}/central.db" if kind == "sqlite" else request.getfixturevalue("postgres").new_url()
        made.append(Central(data, url, certificates, config))
        return made[-1].prepare()

    yield make
    for central in made:
        if central.process is not None:
            central.kill()


@pytest.fixture(scope="session", params=DATABASES)
def central(request: pytest.FixtureRequest, make_central: MakeCentral) -> Central:
    """A running server, shared by the tests; each brings its own site and devices."""
    return make_central(request.param).start()


STRICT = """
[limits]
enrolment_failures = 3
login_failures = 9
device_rate = 0.01
device_burst = 3
"""


@pytest.fixture(scope="session")
def strict_central(make_central: MakeCentral) -> Central:
    """A running server with limits that a test reaches."""
    return make_central("sqlite", STRICT).start()


@pytest.fixture(scope="session")
def sqlite_central(make_central: MakeCentral) -> Central:
    """A running server of its own on SQLite, for what does not depend on the database."""
    return make_central("sqlite").start()
