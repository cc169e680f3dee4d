"""A translation server in a thread of the tests, and requests to it."""

import http.client
import json
import threading
from contextlib import contextmanager

from fairseq_resmlp.server.app import create_app
from fairseq_resmlp.server.connections import listen, make_server
from fairseq_resmlp.server.models import Models
from fairseq_resmlp.server.serve import load_model
from fairseq_resmlp.server.settings import Settings

KING, WOMEN = "The old king sees a small dog.", "Two women said that a child bought the book."


class Answer:
    """The answer to a request: status, headers (lower case) and text."""

    def __init__(self, response):
        self.status, self.text = response.status, response.read().decode()
        self.headers = {name.lower(): value for name, value in response.getheaders()}

    @property
    def json(self):
        return json.loads(self.text)

    @property
    def events(self):
        """The server-sent events, as (name, data)."""
        blocks = [block.split("\n") for block in self.text.split("\n\n")[:-1]]
        return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


class RunningServer:
    """A server that answers requests.

    Args:
        models: its models
        server: the uvicorn server
        port: its port
    """

    def __init__(self, models, server, port):
        self.models, self.server, self.port = models, server, port
        self.url = f"http://127.0.0.1:{port}/"

    def connect(self, source="127.0.0.1"):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60, source_address=(source, 0))

    def request(self, method, path, body=None, headers=(), source="127.0.0.1"):
        """Send a request. A body that is not text or bytes is sent as JSON."""
        headers = dict(headers)
        if body is not None and not isinstance(body, (str, bytes)):
            body, headers = json.dumps(body), {"Content-Type": "application/json", **headers}
        connection = self.connect(source)
        try:
            connection.request(method, path, body, headers)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, body=None, **options):
        return self.request("POST", path, body, **options)

    def translate(self, q=KING, source="en", target="de", headers=(), **parameters):
        return self.post("/translate", {"q": q, "source": source, "target": target, **parameters}, headers=headers)

    def metric(self, line):
        """Return the value of a metric, given as in /metrics: name{label="value"}; 0 if it is missing."""
        values = dict(text.rsplit(" ", 1) for text in self.get("/metrics").text.splitlines() if text[0] != "#")
        return float(values.get(line, 0))


@contextmanager
def served(*paths, steps=None, **settings):
    """Serve exported models, with one thread.

    Args:
        paths: directories, or pairs of a name and a directory
        steps: a semaphore that each step of a search acquires first
        settings: of `Settings`
    """
    settings = Settings(**settings)
    named = [path if isinstance(path, tuple) else (None, path) for path in paths]
    models = Models(load_model(str(path), name, settings, threads=1) for name, path in named)
    for model in models.models if steps else []:
        model.translator.network.step = after_acquiring(steps, model.translator.network.step)
    server = make_server(create_app(models, settings, "127.0.0.1"), settings)
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield RunningServer(models, server, port)
        finally:
            if steps:
                steps.release(100_000)
            server.should_exit = True
            thread.join()
            models.close()


def after_acquiring(steps, step):
    def step_when_allowed(*args):
        assert steps.acquire(timeout=60)
        return step(*args)

    return step_when_allowed
