"""A real Ray, small, on the loopback, for the tests that ask for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

STORE_BYTES = 80 << 20


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Ray with three CPUs and two GPUs, initialised in this process."""
    library = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    library.init(
        address="local",
        num_cpus=3,
        num_gpus=2,  # declared, not there
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )
    yield library
    library.shutdown()
