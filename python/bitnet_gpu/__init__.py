"""Ternary language models (BitNet b1.58 and kin) on any GPU, or on the CPU with SIMD kernels.

    from bitnet_gpu import LLM

    llm = LLM()                                  # the built-in story model; or a path, or a name of the Hub
    for output in llm.generate(["Once upon a time", "The dog"], max_tokens=20):
        print(output.text)
"""

from ._commands import bench, convert, inspect, pull
from ._core import __version__
from ._errors import (
    Cancelled,
    ContextError,
    DeviceError,
    DownloadError,
    EngineError,
    Error,
    FileError,
    ModelError,
    ModelNotFoundError,
    OutOfMemoryError,
    UsageError,
)
from ._llm import LLM
from ._outputs import AsyncTextStream, Chat, Completion, Output, TextStream
from ._sampling import SamplingParams

__all__ = [
    "LLM",
    "AsyncTextStream",
    "Cancelled",
    "Chat",
    "Completion",
    "ContextError",
    "DeviceError",
    "DownloadError",
    "EngineError",
    "Error",
    "FileError",
    "ModelError",
    "ModelNotFoundError",
    "Output",
    "OutOfMemoryError",
    "SamplingParams",
    "TextStream",
    "UsageError",
    "__version__",
    "bench",
    "convert",
    "inspect",
    "pull",
]
