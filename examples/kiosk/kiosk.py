"""A kiosk: a page on which a digit is drawn, or a picture chosen, and classified on the box.

    python examples/kiosk/kiosk.py bundles/mobilenet_v2-….tar.gz --port 8000

Standard library, edgepipe and Pillow (``pip install "edgepipe[cpu,images]"``). It listens on this
machine only, unless told otherwise. The picture is sent as the body of ``POST /classify``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from edgepipe.runners import LoadedBundle, load_bundle
from edgepipe.runners.base import ImageError

PAGE = Path(__file__).with_name("page.html")
MAX_BYTES = 16 << 20
SHOWN = 3


class Kiosk(BaseHTTPRequestHandler):
    """Answers the page and its pictures. One picture is classified at a time."""

    model: ClassVar[LoadedBundle]
    turn: ClassVar[threading.Lock] = threading.Lock()
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """The page, and what is served."""
        if self.path == "/":
            self._answer(HTTPStatus.OK, PAGE.read_bytes(), "text/html; charset=utf-8")
        elif self.path == "/about":
            self._json(HTTPStatus.OK, self._about())
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": "nothing here"})

    def do_POST(self) -> None:
        """Classify the picture in the body."""
        length = self.headers.get("Content-Length", "")
        if self.path != "/classify":
            self.close_connection = True
            self._json(HTTPStatus.NOT_FOUND, {"error": "nothing here"})
        elif not length.isdigit() or not 0 < int(length) <= MAX_BYTES:
            self.close_connection = True
            text = f"send a picture of at most {MAX_BYTES >> 20} MiB"
            self._json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": text})
        else:
            self._classify(self.rfile.read(int(length)))

    def _classify(self, data: bytes) -> None:
        with tempfile.NamedTemporaryFile(prefix="kiosk-") as file:
            file.write(data)
            file.flush()
            try:
                with self.turn:
                    found = self.model.predict(Path(file.name))
            except ImageError as error:
                text = str(error).replace(f"{file.name}: ", "")
                self._json(HTTPStatus.BAD_REQUEST, {"error": text})
                return
        top = [{"label": label, "probability": share} for label, share in found.top(SHOWN)]
        milliseconds = found.preprocess_ms + found.inference_ms
        self._json(HTTPStatus.OK, {"label": found.label, "top": top, "ms": round(milliseconds, 2)})

    def _about(self) -> dict[str, Any]:
        choice = self.model.choice
        return {
            "name": self.model.index.name,
            "digest": self.model.digest,
            "variant": choice.variant,
            "runner": choice.runner,
        }

    def _json(self, status: HTTPStatus, document: Any) -> None:
        self._answer(status, json.dumps(document).encode(), "application/json")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Load the bundle and serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--runner")
    arguments = parser.parse_args()
    with load_bundle(arguments.bundle, runner=arguments.runner) as model:
        Kiosk.model = model
        with ThreadingHTTPServer((arguments.host, arguments.port), Kiosk) as server:
            host, port = server.server_address[:2]
            print(
                f"http://{host}:{port}/  {model.choice.variant} on {model.choice.runner}",
                flush=True,
            )
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print("closed")


if __name__ == "__main__":
    main()
