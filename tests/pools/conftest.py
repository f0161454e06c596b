"""A Prefect server for the tests of a module."""

from collections.abc import Iterator

import pytest

from tests.pools.hosts import prefect


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prefect(tmp_path_factory.mktemp("prefect")) as url:
        yield url
