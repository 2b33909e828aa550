"""Exceptions, one for each kind of error of the engine; all of them are an `Error`."""

from __future__ import annotations

from typing import Any


class Error(Exception):
    """Any error of the engine."""


class UsageError(Error, ValueError):
    """A call or an option that makes no sense."""


class ModelError(Error, ValueError):
    """A model file that is damaged, not supported, or lacks something."""


class ContextError(Error, ValueError):
    """Prompt and answer do not fit the context."""


class FileError(Error, OSError):
    """The operating system refused to open, read, map or write a file."""


class ModelNotFoundError(FileError, FileNotFoundError, ValueError):
    """No file of that name, and no model of it in the cache of the Hub. A `ValueError` as well, as in llama-cpp-python."""

    #: The model that `pull` may fetch.
    pull: str | None = None


class OutOfMemoryError(Error, MemoryError):
    """The system refused memory."""


class DeviceError(Error, RuntimeError):
    """No GPU fits the request, or the GPU failed."""


class DownloadError(Error, ConnectionError):
    """A server or the network failed."""


class EngineError(Error, RuntimeError):
    """The model is closed, or the engine met a bug."""


class Cancelled(Error):
    """Work that was given up, as was asked for."""


_CLASSES: dict[str, type[Error]] = {
    "Io": FileError,
    "NotFound": ModelNotFoundError,
    "Format": ModelError,
    "Unsupported": ModelError,
    "Missing": ModelError,
    "Usage": UsageError,
    "ContextFull": ContextError,
    "OutOfMemory": OutOfMemoryError,
    "NoDevice": DeviceError,
    "Device": DeviceError,
    "Download": DownloadError,
    "Cancelled": Cancelled,
    "Closed": EngineError,
    "Bug": EngineError,
}


def of_kind(kind: str, message: str) -> Error:
    """The exception for an error of the engine."""
    return _CLASSES.get(kind, Error)(message)


def of_answer(error: dict[str, Any]) -> Error:
    """The exception for the object under `error` in an answer."""
    message = str(error.get("message", error))
    match error.get("type"):
        case "exceed_context_size_error":
            return ContextError(message)
        case "unavailable_error":
            return EngineError("the model was closed while it answered")
        case "invalid_request_error":
            return UsageError(message)
        case "not_supported_error":
            return ModelError(message)
        case _:
            return EngineError(message)
