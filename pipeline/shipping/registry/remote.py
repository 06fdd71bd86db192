"""A repository in a registry, through ORAS's Python client: all that knows of HTTP is here.

distribution-spec 1.1 (github.com/opencontainers/distribution-spec). Credentials are those that
``docker login`` or ``oras login`` left in ``~/.docker/config.json`` (or in ``$DOCKER_CONFIG``,
``$REGISTRY_AUTH_FILE``, or a credential helper named there), or ``$ORAS_USER``, ``$ORAS_PASS``.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import InputError, UsageError
from ...settings.shipping import RegistryAccess
from . import oci
from .address import Address, Interrupted
from .libraries import library
from .oci import Descriptor

CHUNK_BYTES = 1 << 20
# Below that a blob goes in one request, above in pieces, so that no file is held in memory.
PIECE_BYTES = 16 << 20
CONNECT_S, ANSWER_S = 10.0, 60.0
TRIES, WAIT_S = 3, 0.5
UNWELL = (502, 503, 504)
MAX_REASON = 300
ACCEPTED = ", ".join((oci.MANIFEST, oci.INDEX))


class Registry:
    """A repository in a registry. No request is made before it is asked for something."""

    def __init__(self, address: Address, access: RegistryAccess) -> None:
        self.where = address.repository
        self._access = access
        host = str(address.host)
        # ORAS takes a name without a dot or a port for a folder of docker.io.
        named = "." in host or ":" in host
        self._host = host if named else f"{host}:{80 if self._plain(host) else 443}"
        self._name = address.name
        self._connected: Any = None

    def manifest(self, reference: str) -> bytes | None:
        """See ``Store``."""
        return self._document(f"manifests/{reference}", ACCEPTED)

    def referrers(self, digest: str) -> bytes | None:
        """See ``Store``: ``None`` where the registry doesn't know of such requests."""
        return self._document(f"referrers/{digest}", oci.INDEX)

    def put_manifest(self, data: bytes, media_type: str, tag: str | None = None) -> bool:
        """See ``Store``."""
        reference = tag or oci.digest_of(data)
        headers = {"Content-Type": media_type}
        answer = self._ask(f"manifests/{reference}", "PUT", data=data, headers=headers)
        self._check(answer, f"did not take the manifest {reference}")
        return "OCI-Subject" in answer.headers

    def has(self, blob: Descriptor) -> bool:
        """See ``Store``."""
        answer = self._ask(f"blobs/{blob.digest}", "HEAD")
        if answer.status_code == 404:
            return False
        self._check(answer, f"said nothing of {blob.digest}")
        return True

    def put(self, blob: Descriptor, data: Path) -> None:
        """See ``Store``."""
        with self._spoken():
            client = self._client()
            about = {"digest": blob.digest, "size": blob.size}
            container = client.get_container(f"{self._host}/{self._name}")
            if blob.size > PIECE_BYTES:
                answer = client.chunked_upload(str(data), container, about, PIECE_BYTES)
            else:
                answer = client.put_upload(str(data), container, about)
        self._check(answer, f"did not take {blob.title or blob.digest}")

    def read(self, blob: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """See ``Store``."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        answer = self._ask(f"blobs/{blob.digest}", "GET", headers=headers, stream=True)
        try:
            self._check(answer, f"did not give {blob.title or blob.digest}")
            skipped = offset if answer.status_code != 206 else 0
            with self._spoken():
                for chunk in answer.iter_content(CHUNK_BYTES):
                    yield chunk[skipped:]
                    skipped = max(0, skipped - len(chunk))
        finally:
            answer.close()

    def _document(self, place: str, accepted: str) -> bytes | None:
        answer = self._ask(place, "GET", headers={"Accept": accepted}, stream=True)
        try:
            if answer.status_code == 404:
                return None
            self._check(answer, f"did not give {place}")
            data = b""
            with self._spoken():
                for chunk in answer.iter_content(CHUNK_BYTES):
                    data += chunk
                    if len(data) > oci.MAX_DOCUMENT_BYTES:
                        raise InputError(f"{self.where}: {place} is too large for a document")
            return data
        finally:
            answer.close()

    def _ask(self, place: str, method: str, **options: Any) -> Any:
        with self._spoken():
            client = self._client()
            url = f"{client.prefix}://{self._host}/v2/{self._name}/{place}"
            return client.do_request(url, method, **options)

    def _check(self, answer: Any, what: str) -> None:
        """Raise ``InputError`` for an answer that isn't one of success."""
        if answer.status_code in (401, 403):
            raise InputError(self._unauthorized())
        if not 200 <= answer.status_code < 300:
            said = " ".join(answer.text.split())[:MAX_REASON] or answer.reason
            raise InputError(f"{self.where}: {what}: {answer.status_code} {said}")

    def _unauthorized(self) -> str:
        return (
            f"{self.where}: not authorized; `docker login {self._host}`, or set ORAS_USER and "
            "ORAS_PASS"
        )

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        """Turn what a conversation ends with into one line."""
        exceptions = library("requests.exceptions")
        try:
            yield
        except exceptions.SSLError as error:
            raise InputError(
                f"{self.where}: no TLS that can be trusted ({_line(error)}); --ca FILE for "
                "certificates of your own, --plain-http for a registry without TLS"
            ) from error
        except exceptions.ChunkedEncodingError as error:
            raise Interrupted(f"{self.where}: the connection broke; try again") from error
        except exceptions.RequestException as error:
            raise Interrupted(f"{self.where}: can't be reached ({_line(error)})") from error
        except ValueError as error:  # of ORAS
            if "authentication" in str(error):
                raise InputError(self._unauthorized()) from error
            raise InputError(f"{self.where}: {_line(error)}") from error

    def _client(self) -> Any:
        if self._connected is None:
            self._connected = self._connect()
        return self._connected

    def _connect(self) -> Any:
        """A client that knows how the registry wants to be told who asks."""
        provider: Any = library("oras.provider").Registry
        # What it has to say, it raises as well.
        library("oras.logger").logger.logger.setLevel(logging.CRITICAL)
        asked = vars(provider.do_request)["__wrapped__"]

        class Client(provider):
            """Asks once: ORAS would try for two minutes whatever the error, a typo included."""

            def do_request(self, *arguments: Any, headers: Any = None, **options: Any) -> Any:
                headers = {"Accept-Encoding": "identity", **(headers or {})}
                return asked(self, *arguments, headers=headers, **options)

        plain = self._plain(self._host)
        made = Client(self._host, insecure=plain, tls_verify=self._certificates())
        made.session.mount("http://", _adapter())
        made.session.mount("https://", _adapter())
        scheme = _challenge(made, f"{made.prefix}://{self._host}/v2/")
        if scheme == "basic":
            basic = Client(
                self._host,
                insecure=plain,
                tls_verify=self._certificates(),
                auth_backend="basic",
            )
            basic.session, basic.auth.session = made.session, made.session
            made = basic
        self._log_in(made, scheme)
        return made

    def _log_in(self, client: Any, scheme: str) -> None:
        """Give a client what is known of who asks. Raises ``InputError`` where that is needed."""
        folder, file = os.environ.get("DOCKER_CONFIG"), os.environ.get("REGISTRY_AUTH_FILE")
        configs = [f"{folder}/config.json"] if folder else []
        configs += [file] if file else []
        container = client.get_container(f"{self._host}/{self._name}")
        client.auth.load_configs(container, [one for one in configs if Path(one).is_file()])
        user, password = os.environ.get("ORAS_USER"), os.environ.get("ORAS_PASS")
        if user and password:
            client.auth.set_basic_auth(user, password)
        if scheme == "basic" and not getattr(client.auth, "_basic_auth", None):
            raise InputError(self._unauthorized())

    def _plain(self, host: str) -> bool:
        return self._access.plain_http or (self._access.ca is None and is_loopback(host))

    def _certificates(self) -> bool | str:
        ca = self._access.ca
        if ca is not None and not ca.is_file():
            raise UsageError(f"{ca}: no such file of certificates")
        return str(ca) if ca else True


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this very machine."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"


def _challenge(client: Any, url: str) -> str:
    """How a registry wants to be told who asks: "basic", "bearer", or "" for not at all."""
    answer = client.session.get(url, verify=client._tls_verify)
    if answer.status_code != 401:
        return ""
    return answer.headers.get("WWW-Authenticate", "").split(" ")[0].lower()


def _adapter() -> Any:
    """Connections that time out, and are tried again where that can do no harm."""
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    class Patient(HTTPAdapter):
        def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
            options["timeout"] = (CONNECT_S, ANSWER_S)
            return super().send(request, *arguments, **options)

    retries = Retry(
        TRIES - 1,
        backoff_factor=WAIT_S,
        status_forcelist=UNWELL,
        raise_on_status=False,
        raise_on_redirect=False,
    )
    return Patient(max_retries=retries)


def _line(error: Exception) -> str:
    """The innermost reason, which is the one that says something."""
    inner: BaseException = error
    while isinstance(getattr(inner, "reason", None), BaseException) or (
        inner.args and isinstance(inner.args[0], BaseException)
    ):
        reason = getattr(inner, "reason", None)
        inner = reason if isinstance(reason, BaseException) else inner.args[0]
    return " ".join(str(inner).split())[:MAX_REASON] or type(inner).__name__
