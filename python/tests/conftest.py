"""The built-in model, loaded once for all tests of this folder."""

import pytest

from bitnet_gpu import LLM


@pytest.fixture(scope="session")
def llm():
    with LLM(backend="cpu", n_ctx=512, n_seqs=4) as llm:
        yield llm
