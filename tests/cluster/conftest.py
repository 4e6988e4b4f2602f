"""A Slurm for the tests of this folder."""

from collections.abc import Iterator

import pytest
from cluster.private_slurm import PrivateSlurm, why_not


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSlurm]:
    """One private Slurm with the defaults, for all tests."""
    if reason := why_not():
        pytest.skip(reason)
    with PrivateSlurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm
