"""A stand-in for what the registry that Debian ships lacks: the referrers API, and tokens.

Everything goes to the real one behind it. What distribution-spec 1.1 says of referrers is added: a
manifest with a ``subject`` is noted, which the answer's ``OCI-Subject`` says, and ``GET
/v2/NAME/referrers/DIGEST`` lists it. With ``account`` it asks for a token, as Docker's
specification has it (distribution.github.io, "Token Authentication Specification"): who has the
account gets one at the address that the refusal names.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "a-token"
INDEX = "application/vnd.oci.image.index.v1+json"


@contextmanager
def in_front_of(host: str, account: str = "") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The host and port of a stand-in, and the descriptors that it has noted."""
    noted: list[dict[str, Any]] = []
    subjects: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.startswith("/token?"):
                known = self.headers.get("Authorization") == f"Basic {account}"
                answer = json.dumps({"token": TOKEN} if known else {}).encode()
                self._answer(200 if known else 401, {}, answer)
                return
            name, _, digest = self.path.rpartition("/")
            if name.endswith("/referrers"):
                found = [
                    one for one, subject in zip(noted, subjects, strict=True) if subject == digest
                ]
                listed = {"schemaVersion": 2, "mediaType": INDEX, "manifests": found}
                self._answer(200, {"Content-Type": INDEX}, json.dumps(listed).encode())
                return
            self._pass_on()

        def do_PUT(self) -> None:
            self._pass_on()

        do_HEAD = do_POST = do_PATCH = do_PUT  # noqa: N815

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if account and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                realm = f"http://{self.headers['Host']}/token"
                asked = f'Bearer realm="{realm}",service="a test",scope="repository:x:pull,push"'
                self._answer(401, {"WWW-Authenticate": asked}, b"{}")
                return
            behind = http.client.HTTPConnection(host)
            headers = {
                name: value
                for name, value in self.headers.items()
                if name not in ("Host", "Authorization")
            }
            behind.request(self.command, self.path, body, headers)
            answer = behind.getresponse()
            data = answer.read()
            dropped = ("content-length", "transfer-encoding", "connection")
            given = dict(answer.getheaders())
            given = {name: given[name] for name in given if name.lower() not in dropped}
            if self.command == "PUT" and "/manifests/" in self.path and answer.status == 201:
                self._note(body, given)
            length = answer.getheader("Content-Length", "0")
            self._answer(answer.status, given, data, length if self.command == "HEAD" else None)
            behind.close()

        def _note(self, body: bytes, headers: dict[str, str]) -> None:
            document = json.loads(body)
            if subject := document.get("subject"):
                headers["OCI-Subject"] = subject["digest"]
                noted.append(
                    {
                        "mediaType": document["mediaType"],
                        "digest": f"sha256:{hashlib.sha256(body).hexdigest()}",
                        "size": len(body),
                        "artifactType": document["artifactType"],
                    }
                )
                subjects.append(subject["digest"])

        def _answer(
            self, status: int, headers: dict[str, str], data: bytes, length: str | None = None
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", noted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
