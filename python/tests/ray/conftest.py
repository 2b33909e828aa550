"""Ray without a network: two nodes on this machine, which die on demand."""

import os

import pytest

os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_DATA_DISABLE_PROGRESS_BARS="1",
    RAY_USAGE_STATS_ENABLED="0",
)

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

STORE_BYTES = 100_000_000


@pytest.fixture(scope="session")
def cluster():
    """A head with CPUs for reading and one engine; one for all tests, as a start takes long."""
    head = {"num_cpus": 2, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
    yield cluster
    ray.shutdown()
    cluster.shutdown()
