"""Requests to a service on this machine, against a real server."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from metaflow_extensions.sandbox.loopback import ask


class Server:
    """Answers with the method, the path and the body; keeps connections open, and counts them."""

    def __init__(self, port: int = 0) -> None:
        self.connections: list[threading.Thread] = []
        self.ends_after_one = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections.append(threading.current_thread())
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                said = f"{self.command} {self.path} {body.decode()}".encode()
                self.send_response(409 if "conflict" in self.path else 200)
                self.send_header("Content-Length", str(len(said)))
                self.send_header("version", "1.2")
                self.end_headers()
                self.wfile.write(said)
                # Without a word about it: as a service that is killed.
                self.close_connection = outer.ends_after_one

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_answers_are_whole(server: Server) -> None:
    """Guards what is sent and read: queries, names that need quoting, bodies, statuses, headers."""
    assert ask("GET", f"{server.url}/flows?a=%20b", {}).text == "GET /flows?a=%20b "
    assert ask("GET", f"{server.url}/flows/ä b%20", {}).text == "GET /flows/%C3%A4%20b%20 "
    assert ask("POST", f"{server.url}/x", {"Content-Type": "a/b"}, '"ö"').text == 'POST /x "ö"'
    found = ask("POST", f"{server.url}/conflict", {}, "{}")
    assert (found.status_code, found.headers.get("Version")) == (409, "1.2")


def test_connections_are_kept(server: Server) -> None:
    """Guards the cost of a connection for each request, and one that two threads would share."""
    for _ in range(5):
        ask("GET", server.url, {})
    assert len(server.connections) == 1
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda number: ask("GET", f"{server.url}/{number}", {}).text, range(100)))
    assert said == [f"GET /{number} " for number in range(100)]
    assert len(server.connections) <= 5


def test_connection_that_the_service_has_closed(server: Server) -> None:
    """Guards the first request after the service was away: it is asked anew, at once."""
    server.ends_after_one = True
    for number in range(3):
        assert ask("POST", server.url, {}, str(number)).status_code == 200
    assert len(server.connections) == 3


def test_no_answer() -> None:
    """Guards the error that callers wait after: an OSError, whatever went wrong."""
    with pytest.raises(OSError, match="refused"):
        ask("GET", "http://127.0.0.1:1/", {})
    with socket.create_server(("127.0.0.1", 0)) as other:

        def talk() -> None:
            with other.accept()[0] as client:
                client.sendall(b"220 mail here\r\n")

        threading.Thread(target=talk, daemon=True).start()
        with pytest.raises(OSError, match="no HTTP answer"):
            ask("GET", f"http://127.0.0.1:{other.getsockname()[1]}/", {})


def test_child_has_connections_of_its_own(server: Server) -> None:
    """Guards a step that forks: parent and child must not read each other's answers."""
    ask("GET", server.url, {})
    child = os.fork()
    if not child:
        same = ask("GET", f"{server.url}/child", {}).text == "GET /child "
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert ask("GET", f"{server.url}/parent", {}).text == "GET /parent "
    assert len(server.connections) == 2
