"""An HTTP proxy in front of an S3 server: adds latency, lets some requests go wrong, records all of them."""

from __future__ import annotations

import asyncio
import http.client
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.s3 import S3, s3_server

__all__ = ["Proxy", "Request", "Trouble", "proxied", "troubled_s3"]

# Headers that speak of one connection, and the length, which is stated anew.
_OF_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_HEAD_END = b"\r\n\r\n"
_UPSTREAM_THREADS = 16
_TIMEOUT_S = 60


class Request(NamedTuple):
    """What a client asked for: ``range`` is the header of that name, or empty."""

    method: str
    path: str
    query: str
    range: str

    @property
    def is_listing(self) -> bool:
        return self.method == "GET" and "list-type=" in self.query


@dataclass(frozen=True)
class Trouble:
    """What the proxy does to requests.

    Attributes:
        latency_s: Seconds that each request waits before it is passed on.
        refused: Share of requests that are answered with 503 and not passed on.
        cut: Share of answers whose body, if they have one, ends early, with the connection.
        lost: Share of requests that the server fulfils, but the connection ends before there is any answer.
        seed: Of the random numbers: the n-th requests after the trouble was set fare alike in every run.
    """

    latency_s: float = 0.0
    refused: float = 0.0
    cut: float = 0.0
    lost: float = 0.0
    seed: int = 0

    @property
    def kinds(self) -> list[str]:
        """What goes wrong."""
        return [kind for kind in ("refused", "cut", "lost") if getattr(self, kind) > 0]


class _Message(NamedTuple):
    """A request as it came: the names of its headers in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    def request(self) -> Request:
        url = urlsplit(self.target)
        return Request(self.method, url.path, url.query, self.headers.get("range", ""))


class _Answer(NamedTuple):
    """An answer with all its headers; that to HEAD states the length of a body that is not sent."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | memoryview


class _Fate(NamedTuple):
    """What becomes of a request: when it is passed on, what goes wrong if anything, and where an answer is cut."""

    latency_s: float
    kind: str | None
    share: float


class Proxy:
    """Passes requests on to a server, with trouble that may be changed at any time.

    Args:
        upstream: The server's address, ``http://host:port``.
        trouble: What happens to requests.

    Attributes:
        endpoint: The proxy's own address.
        requests: All requests that have come, in that order.
        made: How often each kind of trouble was made: "refused", "cut", "lost".
    """

    def __init__(self, upstream: str, trouble: Trouble) -> None:
        self.endpoint = ""
        self.requests: list[Request] = []
        self.made: Counter[str] = Counter()
        self._host = urlsplit(upstream).netloc
        self._kept: dict[str, _Answer] = {}
        self.set_trouble(trouble)

    def set_trouble(self, trouble: Trouble) -> None:
        """Treat requests like this from now on."""
        self._dice = trouble, random.Random(trouble.seed)

    @property
    def listings(self) -> list[Request]:
        """Those requests that list a part of the bucket."""
        return [request for request in self.requests if request.is_listing]

    def admit(self, request: Request) -> _Fate:
        """Record a request and decide what becomes of it."""
        trouble, dice = self._dice
        self.requests.append(request)
        thrown, share = dice.random(), dice.random()
        for kind in trouble.kinds:
            thrown -= getattr(trouble, kind)
            if thrown < 0:
                return _Fate(trouble.latency_s, kind, share)
        return _Fate(trouble.latency_s, None, share)

    def keep(self, path: str, body: bytes) -> None:
        """Answer for an object from memory, so that a slow server is not what a benchmark measures."""
        headers = [("etag", f'"{hash(path):x}"'), ("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT")]
        self._kept[path] = _Answer(200, [*headers, ("content-length", str(len(body)))], body)

    def kept(self, message: _Message) -> _Answer | None:
        """The answer from memory, if there is one."""
        whole = self._kept.get(message.target)
        return None if whole is None else _part(whole, message.headers.get("range", ""))

    def ask(self, message: _Message) -> _Answer:
        """The server's answer."""
        connection = http.client.HTTPConnection(self._host, timeout=_TIMEOUT_S)
        try:
            passed = {name: text for name, text in message.headers.items() if name not in _OF_CONNECTION}
            connection.request(message.method, message.target, message.body, passed)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        headers = [(name, text) for name, text in response.getheaders() if name.lower() not in _OF_CONNECTION]
        length = response.getheader("content-length", "0") if message.method == "HEAD" else str(len(body))
        return _Answer(response.status, [*headers, ("content-length", length)], body)


class _Connection(asyncio.Protocol):
    """A client's connection: serves its requests one after another, in the event loop but for what the server does."""

    def __init__(self, proxy: Proxy, threads: ThreadPoolExecutor) -> None:
        self._proxy, self._threads = proxy, threads
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        message = _read(self._received)
        if message is not None:
            self._received.clear()
            fate = self._proxy.admit(message.request())
            self._loop.call_later(fate.latency_s, self._answer, message, fate)

    def _answer(self, message: _Message, fate: _Fate) -> None:
        answer = _REFUSAL if fate.kind == "refused" else self._proxy.kept(message)
        if answer is not None:
            self._send(message, answer, fate)
            return
        asked = self._threads.submit(self._proxy.ask, message)
        asked.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._pass_on, message, done, fate))

    def _pass_on(self, message: _Message, asked: Future[_Answer], fate: _Fate) -> None:
        if asked.exception() is not None:
            self._transport.abort()  # the server has gone
        else:
            self._send(message, asked.result(), fate)

    def _send(self, message: _Message, answer: _Answer, fate: _Fate) -> None:
        if fate.kind == "lost":
            self._spoil(fate.kind)
            return
        lines = [f"HTTP/1.1 {answer.status} {http.client.responses.get(answer.status, '')}"]
        lines += [f"{name}: {text}" for name, text in answer.headers]
        self._transport.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        body = b"" if message.method == "HEAD" else answer.body
        if fate.kind == "cut" and len(body) > 1:
            self._transport.write(body[: int(fate.share * len(body))])
            self._spoil(fate.kind)
            return
        self._proxy.made["refused"] += fate.kind == "refused"
        self._transport.write(body)

    def _spoil(self, kind: str) -> None:
        self._proxy.made[kind] += 1
        self._transport.close()


@contextmanager
def proxied(upstream: str, trouble: Trouble = Trouble()) -> Iterator[Proxy]:
    """A proxy that runs in threads of this process."""
    proxy = Proxy(upstream, trouble)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    with ThreadPoolExecutor(_UPSTREAM_THREADS) as threads:
        listening = loop.create_server(lambda: _Connection(proxy, threads), "127.0.0.1", 0, backlog=512)
        server = asyncio.run_coroutine_threadsafe(listening, loop).result()
        host, port = server.sockets[0].getsockname()
        proxy.endpoint = f"http://{host}:{port}"
        try:
            yield proxy
        finally:
            loop.call_soon_threadsafe(server.close)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
    loop.close()


@contextmanager
def troubled_s3(trouble: Trouble = Trouble()) -> Iterator[tuple[S3, Proxy]]:
    """An S3 server that is reached through a proxy."""
    with s3_server() as server, proxied(server.endpoint, trouble) as proxy:
        yield replace(server, endpoint=proxy.endpoint), proxy


def _read(received: bytearray) -> _Message | None:
    """The request in ``received``; None as long as a part of it is missing."""
    end = received.find(_HEAD_END)
    if end < 0:
        return None
    start, *lines = received[:end].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): text.strip() for name, _, text in pairs}
    if "transfer-encoding" in headers:
        raise NotImplementedError("a request whose length is not stated")
    first, length = end + len(_HEAD_END), int(headers.get("content-length", 0))
    if len(received) < first + length:
        return None
    method, target, _ = start.split(" ")
    return _Message(method, target, headers, bytes(received[first:]))


def _part(whole: _Answer, wanted: str) -> _Answer:
    """The range of an answer that a header asks for."""
    if not wanted:
        return whole
    first, last = wanted.removeprefix("bytes=").split("-")
    size = len(whole.body)
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    kept = [(name, text) for name, text in whole.headers if name != "content-length"]
    length = [("content-range", f"bytes {start}-{stop - 1}/{size}"), ("content-length", str(stop - start))]
    return _Answer(206, kept + length, memoryview(whole.body)[start:stop])


_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_REFUSAL = _Answer(503, [("content-type", "application/xml"), ("content-length", str(len(_SLOW_DOWN)))], _SLOW_DOWN)
