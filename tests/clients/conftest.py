"""The server on the model that is built into the program, for every test of this folder."""

import os
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

PROGRAM = os.environ["BITNET_GPU"]


class Server:
    """A running `bitnet-gpu serve` and where it listens."""

    def __init__(self, *flags: str):
        command = [PROGRAM, "serve", "--port", "0", "--backend", "cpu", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line or self.process.stderr.read()
        self.address = line.removeprefix("listening on ").strip()
        self.v1 = f"{self.address}/v1"
        # A full pipe would stop the server.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self._wait()

    def _wait(self) -> None:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.address}/health")
                return
            except urllib.error.HTTPError:
                time.sleep(0.1)
        raise RuntimeError("the model is not loaded")

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=30)


@pytest.fixture(scope="session")
def server():
    server = Server()
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="session")
def key_server():
    server = Server("--api-key", "secret")
    yield server
    assert server.stop() == 0


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {
            "type": "object",
            # Bounds, or a small model goes on with digits.
            "properties": {
                "place": {"type": "string", "maxLength": 20},
                "days": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["place", "days"],
            "additionalProperties": False,
        },
    },
}
