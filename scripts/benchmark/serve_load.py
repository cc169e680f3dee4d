"""Load test of the translation server: many clients at once, with batching and without.

    python scripts/benchmark/serve_load.py MODEL --text test.en --out docs/measured/serve.json

Each client sends one line of the text at a time, on one connection. The two servers are measured one after the other
on the same lines. Every answer is compared with the first answer for the same line, so lost, mixed up and changed
answers are counted. Memory is the resident memory of the server from the end of the warm-up on.
"""

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from statistics import quantiles
from typing import Any

import click

from fairseq_resmlp.common.atomic_write import open_output
from fairseq_resmlp.common.environment import environment_info
from fairseq_resmlp.common.text import read_lines

WARM_UP = 1000  # requests that are not measured
MEMORY_INTERVAL, MEMORY_SAMPLES = 1.0, 20  # seconds between samples, and number of samples in the result


class Server:
    """A process of `fairseq-resmlp serve` on a free port."""

    def __init__(self, process: "subprocess.Popen[str]", port: int):
        self.process, self.port = process, port

    def memory(self) -> float:
        """Return the resident memory in MiB."""
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1024

    def get(self, path: str) -> Any:
        """Return the JSON of an address."""
        connection = HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())


@contextmanager
def serving(model: str, threads: int | None, *options: str) -> Iterator[Server]:
    """Start a server, and stop it at the end."""
    code = "from fairseq_resmlp.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", model, "--port", "0", *options]
    if threads:
        command += ["--threads", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        yield Server(process, int(line.split("127.0.0.1:")[1].split(".")[0]))
    finally:
        process.terminate()
        process.wait()


@dataclass
class Load:
    """Requests of several clients.

    Args:
        server: where to send them
        lines: texts, sent in turn
        pair: source and target language
    """

    server: Server
    lines: list[str]
    pair: tuple[str, str]
    answers: dict[str, str] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, clients: int, requests: int) -> dict[str, Any]:
        """Send requests from several clients at once, and return the measurements."""
        numbers = iter(range(requests))
        memory = [self.server.memory()]
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            running = [pool.submit(self.client, numbers) for _ in range(clients)]
            while wait(running, MEMORY_INTERVAL).not_done:
                memory.append(self.server.memory())
        elapsed = time.perf_counter() - start
        seconds = [s for client in running for s in client.result()]
        cuts = quantiles(seconds, n=100)
        return {
            "clients": clients,
            "requests": requests,
            "answered": len(seconds),
            "problems": dict(self.problems),
            "seconds": round(elapsed, 2),
            "sentences_per_second": round(len(seconds) / elapsed, 2),
            **{f"p{rank}_seconds": round(cuts[rank - 1], 4) for rank in (50, 95, 99)},
            "memory_mib": [round(value, 1) for value in thin([*memory, self.server.memory()])],
        }

    def client(self, numbers: Iterator[int]) -> list[float]:
        """Send requests until the numbers are used up. Returns the seconds of each answered request."""
        connection, seconds = HTTPConnection("127.0.0.1", self.server.port, timeout=600), []
        while (number := self.next(numbers)) is not None:
            line = self.lines[number % len(self.lines)]
            source, target = self.pair
            body = json.dumps({"q": line, "source": source, "target": target})
            start = time.perf_counter()
            try:
                connection.request("POST", "/translate", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                translation = json.loads(response.read()).get("translatedText")
                problem = None if response.status == 200 else f"status {response.status}"
            except (OSError, HTTPException) as error:
                problem = type(error).__name__
                connection.close()
            elapsed = time.perf_counter() - start
            with self.lock:
                if problem is None and self.answers.setdefault(line, translation) != translation:
                    problem = "another answer than before"
                if problem:
                    self.problems[problem] += 1
                else:
                    seconds.append(elapsed)
        return seconds

    def next(self, numbers: Iterator[int]) -> int | None:
        with self.lock:
            return next(numbers, None)


def thin(values: list[float]) -> list[float]:
    """Return up to `MEMORY_SAMPLES` values, evenly spaced, with the first and the last."""
    count = min(MEMORY_SAMPLES, len(values))
    return [values[i * (len(values) - 1) // (count - 1)] for i in range(count)]


def measure(model: str, lines: list[str], clients: int, requests: int, threads: int | None, *options: str) -> Any:
    """Measure one server."""
    with serving(model, threads, *options) as server:
        (description,) = server.get("/models")
        load = Load(server, lines, (description["source"], description["target"]))
        load.run(clients, min(WARM_UP, requests))
        return load.run(clients, requests)


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False))
@click.option("--text", required=True, type=click.Path(exists=True, dir_okay=False), help="Sentences, one per line.")
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="JSON file for the measurements.")
@click.option("--clients", default=32, show_default=True, help="Clients at once.")
@click.option("--requests", default=10_000, show_default=True, help="Requests with batching.")
@click.option("--unbatched-requests", default=2_000, show_default=True, help="Requests without batching.")
@click.option("--threads", type=int, help="CPU threads of the server (default: all cores).")
def main(
    model: str, text: str, out: str, clients: int, requests: int, unbatched_requests: int, threads: int | None
) -> None:
    """Measure sentences per second, latency, lost answers and memory of fairseq-resmlp serve MODEL."""
    lines = [line for line in next(read_lines(text, requests), []) if line]
    batched = measure(model, lines, clients, requests, threads)
    unbatched = measure(model, lines, clients, unbatched_requests, threads, "--max-batch", "1")
    ratio = batched["sentences_per_second"] / unbatched["sentences_per_second"]
    result = {"batched": batched, "unbatched": unbatched, "ratio": round(ratio, 2)}
    with open_output(out) as file:
        json.dump({**result, **environment_info(["torch", "fastapi", "uvicorn"])}, file, indent=1)
    for name in ("batched", "unbatched"):
        row = result[name]
        click.echo(
            f"{name}: {row['answered']:,} of {row['requests']:,} answered, {row['sentences_per_second']:,.1f} "
            f"sentences per second, p50 {row['p50_seconds']:.3f} s, p95 {row['p95_seconds']:.3f} s, memory "
            f"{row['memory_mib'][0]:,.0f} to {row['memory_mib'][-1]:,.0f} MiB"
        )
    click.echo(f"ratio: {ratio:.2f}")


if __name__ == "__main__":
    main()
