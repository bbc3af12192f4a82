"""A web server on this machine that misbehaves on request."""

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

CONTENT = bytes(range(256)) * 2_000  # half a megabyte
SHA256 = hashlib.sha256(CONTENT).hexdigest()

Answer = Callable[["Handler"], None]


@dataclass
class Server:
    """Each request takes the next of `answers`; the last one stays."""

    answers: list[Answer]
    url: str = ""
    ranges: list[str | None] = field(default_factory=list)
    """The Range header of each request that came."""
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def file(self) -> str:
        return f"{self.url}/file.txt"


class Handler(http.server.BaseHTTPRequestHandler):
    site: Server

    def do_GET(self) -> None:
        self.site.ranges.append(self.headers.get("Range"))
        answer = self.site.answers.pop(0) if len(self.site.answers) > 1 else self.site.answers[0]
        answer(self)

    @property
    def start(self) -> int:
        asked = self.headers.get("Range")
        return int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def promise(self, content: bytes = CONTENT) -> bytes:
        """Say what will come, as a server does that knows Range; returns what should follow."""
        if self.start >= len(content):
            self.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=0)
            return b""
        rest = content[self.start :]
        where = {"Content_Range": f"bytes {self.start}-{len(content) - 1}/{len(content)}"} if self.start else {}
        self.head(206 if self.start else 200, Content_Length=len(rest), **where)
        return rest

    def log_message(self, *args: object) -> None:
        pass


def whole(request: Handler) -> None:
    request.wfile.write(request.promise())


def cut(request: Handler) -> None:
    request.wfile.write(request.promise()[:100_000])


def corrupt(request: Handler) -> None:
    rest = request.promise()
    request.wfile.write(bytes([rest[0] ^ 1]) + rest[1:])


def stall(request: Handler) -> None:
    request.wfile.write(request.promise()[:100_000])
    request.wfile.flush()
    request.site.released.wait(10)


def ignore_range(request: Handler) -> None:
    request.head(200, Content_Length=len(CONTENT))
    request.wfile.write(CONTENT)


def without_length(request: Handler) -> None:
    request.head(200)
    request.wfile.write(CONTENT)


def without_length_cut(request: Handler) -> None:
    request.head(200)
    request.wfile.write(CONTENT[:100_000])


def longer(request: Handler) -> None:
    request.wfile.write(request.promise(CONTENT + b"more"))


def wrong_range(request: Handler) -> None:
    request.head(206, Content_Range=f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}", Content_Length=len(CONTENT) - 5)
    request.wfile.write(CONTENT[5:])


def status(code: int) -> Answer:
    return lambda request: request.head(code, Content_Length=0)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    started: list[tuple[http.server.ThreadingHTTPServer, Server]] = []

    def start(*answers: Answer) -> Server:
        site = Server(list(answers))
        handler = type("SiteHandler", (Handler,), {"site": site})
        listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        site.url = f"http://127.0.0.1:{listening.server_port}"
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        started.append((listening, site))
        return site

    yield start
    for listening, site in started:
        site.released.set()
        listening.shutdown()
        listening.server_close()
