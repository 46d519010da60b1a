"""An HTTP proxy in front of an S3 server: adds latency, refuses some requests, cuts some answers short, counts all."""

from __future__ import annotations

import http.client
import random
import re
import socketserver
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

from tests.s3 import S3, s3_server

__all__ = ["Proxy", "Request", "Trouble", "proxied", "troubled_s3"]

# Speak of one connection, not of the message; the length is stated anew.
_OF_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_DATA_FILE = re.compile(r"/data/[^/]+\.lance$")


class Request(NamedTuple):
    """What a client asked for: ``range`` is the header of that name, or empty."""

    method: str
    path: str
    query: str
    range: str

    @property
    def is_listing(self) -> bool:
        return self.method == "GET" and "list-type=" in self.query


class Message(NamedTuple):
    """A request as it came: names of headers in lower case."""

    start: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(frozen=True)
class Trouble:
    """What the proxy does to requests.

    Attributes:
        latency_s: Seconds that each request waits before it is passed on.
        refused: Share of requests that are answered with 503 and not passed on.
        cut: Share of answers whose body ends early, with the connection.
        seed: Of the random numbers: the n-th requests of two runs fare alike.
    """

    latency_s: float = 0.0
    refused: float = 0.0
    cut: float = 0.0
    seed: int = 0


class Proxy:
    """Passes requests on to a server, with trouble that may be changed at any time.

    Args:
        upstream: The server's address, ``http://host:port``.
        trouble: What happens to requests.
        keeps_data_files: Data files, which never change, are fetched once and then answered from memory, so that a
            slow server behind the proxy is not what a benchmark measures.

    Attributes:
        requests: All requests that have come, in that order.
        refused: How many of them were answered with 503.
        cut: How many answers were cut short.
    """

    def __init__(self, upstream: str, trouble: Trouble = Trouble(), *, keeps_data_files: bool = False) -> None:
        self.requests: list[Request] = []
        self.refused = self.cut = 0
        self.endpoint = ""
        self._address = urlsplit(upstream).netloc
        self._files: dict[str, Answer] | None = {} if keeps_data_files else None
        self._lock = threading.Lock()
        self.set_trouble(trouble)

    def set_trouble(self, trouble: Trouble) -> None:
        """Treat requests like this from now on; the random numbers begin anew."""
        with self._lock:
            self._trouble, self._random = trouble, random.Random(trouble.seed)

    def listings(self) -> list[Request]:
        """Those requests that list a part of the bucket."""
        return [request for request in self.requests if request.is_listing]

    def admit(self, request: Request) -> tuple[bool, float | None]:
        """Record a request and decide its fate: whether it is passed on, and which share of its answer arrives."""
        with self._lock:
            trouble = self._trouble
            self.requests.append(request)
            is_refused, is_cut = self._random.random() < trouble.refused, self._random.random() < trouble.cut
            share = self._random.random() if is_cut else None
            self.refused += is_refused
        time.sleep(trouble.latency_s)
        return not is_refused, share

    def count_cut(self) -> None:
        with self._lock:
            self.cut += 1

    def answer(self, connection: http.client.HTTPConnection, target: str, request: Request, message: Message) -> Answer:
        """The server's answer, or the kept one of a data file."""
        if self._files is None or request.method != "GET" or not _DATA_FILE.search(request.path):
            return _ask(connection, request.method, target, message.headers, message.body)
        whole = self._files.get(request.path)
        if whole is None:
            unranged = {name: value for name, value in message.headers.items() if name != "range"}
            whole = _ask(connection, "GET", target, unranged, b"")
            if whole.status != 200:
                return whole
            self._files[request.path] = whole
        return _part(whole, request.range) if request.range else whole

    def connect(self) -> http.client.HTTPConnection:
        """A connection to the server, opened when it is used."""
        return http.client.HTTPConnection(self._address)


class _Handler(socketserver.StreamRequestHandler):
    """One client's connection, which serves any number of requests."""

    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def handle(self) -> None:
        proxy = self.server.proxy
        upstream = proxy.connect()
        try:
            while (message := _read_message(self.rfile)) is not None:
                method, target, _ = message.start.split(" ", 2)
                url = urlsplit(target)
                request = Request(method, url.path, url.query, message.headers.get("range", ""))
                is_admitted, share = proxy.admit(request)
                answer = proxy.answer(upstream, target, request, message) if is_admitted else _REFUSAL
                if not self._send(method, answer, share):
                    proxy.count_cut()
                    return
        except ConnectionError:
            return  # the client has gone
        finally:
            upstream.close()

    def _send(self, method: str, answer: Answer, share: float | None) -> bool:
        """Send an answer, or the given share of its body; returns whether it was sent whole."""
        lines = [f"HTTP/1.1 {answer.status} {http.client.responses.get(answer.status, '')}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        sent = answer.body
        if share is not None and len(sent) > 1:
            sent = sent[: int(share * len(sent))]
        self.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if method != "HEAD":
            self.wfile.write(sent)
        self.wfile.flush()
        return len(sent) == len(answer.body)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy


@contextmanager
def proxied(upstream: str, trouble: Trouble = Trouble(), *, keeps_data_files: bool = False) -> Iterator[Proxy]:
    """A proxy that runs in threads of this process."""
    proxy = Proxy(upstream, trouble, keeps_data_files=keeps_data_files)
    with _Server(proxy) as server:
        host, port = server.server_address[:2]
        proxy.endpoint = f"http://{host}:{port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def troubled_s3(trouble: Trouble = Trouble(), *, keeps_data_files: bool = False) -> Iterator[tuple[S3, Proxy]]:
    """An S3 server that is reached through a proxy."""
    with s3_server() as server, proxied(server.endpoint, trouble, keeps_data_files=keeps_data_files) as proxy:
        yield S3(proxy.endpoint), proxy


def _read_message(stream: BinaryIO) -> Message | None:
    """The next request of a connection; None where the client has closed it."""
    start = stream.readline()
    if not start.strip():
        return None
    headers: dict[str, str] = {}
    while (line := stream.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if "transfer-encoding" in headers:
        raise NotImplementedError("a request in chunks")
    return Message(start.decode("latin-1").strip(), headers, stream.read(int(headers.get("content-length", 0))))


def _ask(
    connection: http.client.HTTPConnection, method: str, target: str, headers: Mapping[str, str], body: bytes
) -> Answer:
    passed = {name: value for name, value in headers.items() if name not in _OF_CONNECTION}
    connection.request(method, target, body or None, {**passed, "content-length": str(len(body))})
    response = connection.getresponse()
    content = response.read()
    kept = [(name, value) for name, value in response.getheaders() if name.lower() not in _OF_CONNECTION]
    length = response.getheader("content-length", "0") if method == "HEAD" else str(len(content))
    return Answer(response.status, [*kept, ("content-length", length)], content)


def _part(whole: Answer, wanted: str) -> Answer:
    first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted).groups()
    size = len(whole.body)
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    kept = [(name, value) for name, value in whole.headers if name != "content-length"]
    length = [("content-range", f"bytes {start}-{stop - 1}/{size}"), ("content-length", str(stop - start))]
    return Answer(206, kept + length, whole.body[start:stop])


_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_REFUSAL = Answer(503, [("content-type", "application/xml"), ("content-length", str(len(_SLOW_DOWN)))], _SLOW_DOWN)
