"""The built-in model, loaded once for all tests of this folder."""

import os
import tempfile

import pytest

from bitnet_gpu import LLM


# The software driver of GPUs complains on standard error where it names no folder.
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())


@pytest.fixture(scope="session")
def llm():
    with LLM(backend="cpu", n_ctx=512, n_seqs=4) as llm:
        yield llm
