"""Ray Serve in front of `bitnet-gpu serve`."""

import json
import urllib.request

import pytest
import ray

serve = pytest.importorskip("ray.serve")

from bitnet_gpu.ray import application  # noqa: E402


def test_a_replica_answers_whole_and_streamed(cluster):
    serve.start(http_options={"host": "127.0.0.1", "port": 18437})
    try:
        serve.run(application(backend="cpu", ctx_size=256), route_prefix="/")
        body = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 8}

        def post(**more):
            request = urllib.request.Request(
                "http://127.0.0.1:18437/v1/completions",
                json.dumps({**body, **more}).encode(),
                {"content-type": "application/json"},
            )
            return urllib.request.urlopen(request, timeout=60).read().decode()

        text = json.loads(post())["choices"][0]["text"]
        events = [json.loads(line[6:]) for line in post(stream=True).splitlines() if line.startswith("data: {")]
        assert text == "".join(event["choices"][0]["text"] for event in events if event["choices"]) != ""
    finally:
        serve.shutdown()
