"""The API server's client: raw JSON in and out, every call with a deadline, every failure one of ours. I/O.

Belongs here: how the API server is reached and what its answers mean as errors. Doesn't: any kind of object.

Configuration, authentication and transport are ``kubernetes.aio``'s. Its model classes are left out: they keep every
field of every object, where the CA wants a handful (``msgspec`` decodes those and skips the rest).
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import os
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
import yaml
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from shared.model.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    RefusedError,
    TouchmarkError,
    UnavailableError,
)
from shared.model.kubernetes.contract import FIELD_MANAGER
from shared.model.version import VERSION
from shared.runtime.open_sockets import OpenSockets

CALL_DEADLINE_S: Final = 15.0
CLOSE_DEADLINE_S: Final = 5.0
# A page of 250 large pods is about 5 MB; the API server's own limit of one object is 1.5 MiB (etcd's). Whoever may make
# objects of a kind that is listed chooses how large they are: then pages hold fewer (``watch.py``).
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
MAX_LINE_BYTES: Final = 8 * 1024 * 1024
MAX_CONNECTIONS: Final = 64
_MAX_MESSAGE_CHARACTERS: Final = 400
_MERGE_PATCH: Final = "application/merge-patch+json"
_APPLY_PATCH: Final = "application/apply-patch+yaml"

_T = TypeVar("_T")


class ExpiredError(ConflictError):
    """The API server no longer has this resource version or page (410 Gone): list again."""

    code = "expired"


class AnswerTooLargeError(UnavailableError):
    """The API server's answer is larger than ``MAX_ANSWER_BYTES``: ask for less."""


class _Transport(RESTClientObject):
    """``kubernetes.aio``'s transport, whose sockets are known."""

    def __init__(self, configuration: Configuration) -> None:
        super().__init__(configuration)
        self.sockets = OpenSockets()

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=self.sockets.open)


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""
    code: int = 0


class ServerVersion(msgspec.Struct):
    """``/version``."""

    git_version: str = msgspec.field(name="gitVersion", default="")


class ClusterClient:
    """One client for everything that the CA does at the API server.

    Attributes:
        api: ``kubernetes.aio``'s client, for its API classes.
        clock_skew_s: the API server's clock minus ours, from the last answer's Date (whole seconds); None: none yet.
    """

    def __init__(self, configuration: Configuration) -> None:
        configuration.connection_pool_maxsize = MAX_CONNECTIONS
        self.api = ApiClient(configuration)
        self._transport = self.api.rest_client = _Transport(configuration)
        self.api.user_agent = f"touchmark-ca/{VERSION}"
        self.clock_skew_s: float | None = None

    @classmethod
    async def open(cls, kubeconfig: Path | None) -> ClusterClient:
        """Read the configuration: of the kubeconfig, else of the pod's own service account. Sends nothing yet.

        Raises:
            InputError: there is none that can be used.
        """
        configuration = Configuration()
        try:
            if kubeconfig is not None:
                await load_kube_config(str(kubeconfig), client_configuration=configuration, persist_config=False)
            else:
                load_incluster_config(configuration)
            return cls(configuration)
        except (ConfigException, OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            where = f"the kubeconfig {kubeconfig}" if kubeconfig is not None else "the pod's service account"
            raise InputError(
                f"{where} can't be used: {error}",
                hint="outside a pod set KUBECONFIG; inside, its service account's token must be mounted",
            ) from error

    async def close(self) -> None:
        """Close every connection, and wait a while for those that the API server has to agree to."""
        await self.api.close()
        await self._transport.sockets.wait_closed(timeout_s=CLOSE_DEADLINE_S)

    async def get(
        self,
        path: str,
        kind: type[_T],
        *,
        query: Mapping[str, str] | None = None,
        deadline_s: float = CALL_DEADLINE_S,
    ) -> _T:
        """Read an object as ``kind``.

        Raises:
            NotFoundError, RefusedError, ConflictError, ExpiredError, InputError: the API server said so.
            UnavailableError: it didn't answer in time, or not what was asked for.
        """
        return _decode(await self.ask("GET", path, query=query, deadline_s=deadline_s), kind)

    async def post(self, path: str, body: object, kind: type[_T], *, deadline_s: float = CALL_DEADLINE_S) -> _T:
        """Create an object (a struct or JSON-like value) and read the answer. Raises as ``get``."""
        return _decode(await self.ask("POST", path, body=body, deadline_s=deadline_s), kind)

    async def put(self, path: str, body: object, kind: type[_T], *, deadline_s: float = CALL_DEADLINE_S) -> _T:
        """Replace an object; its resourceVersion makes it a compare-and-swap. Raises as ``get``."""
        return _decode(await self.ask("PUT", path, body=body, deadline_s=deadline_s), kind)

    async def patch(self, path: str, body: object, kind: type[_T], *, deadline_s: float = CALL_DEADLINE_S) -> _T:
        """Merge into an object (RFC 7396). Raises as ``get``."""
        query = {"fieldManager": FIELD_MANAGER}
        content = _MERGE_PATCH
        return _decode(
            await self.ask("PATCH", path, query=query, body=body, content_type=content, deadline_s=deadline_s), kind
        )

    async def apply(self, path: str, body: object, kind: type[_T], *, deadline_s: float = CALL_DEADLINE_S) -> _T:
        """Apply an object server-side as the field manager ``touchmark``, by force. Raises as ``get``."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        content = _APPLY_PATCH
        return _decode(
            await self.ask("PATCH", path, query=query, body=body, content_type=content, deadline_s=deadline_s), kind
        )

    async def delete(self, path: str, *, deadline_s: float = CALL_DEADLINE_S) -> None:
        """Delete an object. Raises as ``get``."""
        await self.ask("DELETE", path, deadline_s=deadline_s)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        deadline_s: float = CALL_DEADLINE_S,
    ) -> bytes:
        """Do one request and return the answer's body. Raises as ``get``."""
        with _translated(f"{method} {path}"):
            async with asyncio.timeout(deadline_s):
                response = await self._send(method, path, query, body, content_type, aiohttp.ClientTimeout(deadline_s))
                try:
                    answer = bytearray(await response.content.read(MAX_ANSWER_BYTES + 1))
                    while not response.content.at_eof() and len(answer) <= MAX_ANSWER_BYTES:
                        answer += await response.content.read(MAX_ANSWER_BYTES + 1 - len(answer))
                finally:
                    if response.content.at_eof():
                        response.release()
                    else:
                        response.close()
        if len(answer) > MAX_ANSWER_BYTES:
            raise AnswerTooLargeError(f"the API server's answer to {method} {path} is larger than {MAX_ANSWER_BYTES}")
        whole = bytes(answer)
        _check_status(response.status, whole, f"{method} {path}")
        return whole

    @contextlib.asynccontextmanager
    async def follow(
        self, path: str, *, query: Mapping[str, str], idle_s: float, deadline_s: float = CALL_DEADLINE_S
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a watch and give its lines, each one JSON object.

        Arguments:
            idle_s: silence after which the connection counts as lost.
            deadline_s: until the answer begins.

        Raises:
            as ``get``, also from the iterator; ``UnavailableError`` when the connection is lost or silent.
        """
        what = f"watch {path}"
        timeout = aiohttp.ClientTimeout(total=None, sock_read=idle_s)
        with _translated(what):
            async with asyncio.timeout(deadline_s):
                response = await self._send("GET", path, query, None, "application/json", timeout)
        try:
            if response.status != 200:
                with _translated(what):
                    async with asyncio.timeout(deadline_s):
                        answer = await response.content.read(MAX_LINE_BYTES)
                _check_status(response.status, answer, what)
            yield _read_lines(response, what)
        finally:
            response.close()

    async def version(self, *, deadline_s: float = CALL_DEADLINE_S) -> ServerVersion:
        """Ask for the API server's version. Raises as ``get``."""
        return await self.get("/version", ServerVersion, deadline_s=deadline_s)

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: object,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        configuration = self.api.configuration
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": self.api.user_agent}
        for setting in (await configuration.auth_settings()).values():
            headers[setting["key"]] = setting["value"]
        url = configuration.host + path + (f"?{urlencode(query)}" if query else "")
        content = None if body is None else msgspec.to_builtins(body)
        answer = await self.api.rest_client.request(method, url, headers, content, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        self._note_clock(response.headers.get("Date", ""))
        return response

    def _note_clock(self, date: str) -> None:
        with contextlib.suppress(ValueError, TypeError):
            self.clock_skew_s = email.utils.parsedate_to_datetime(date).timestamp() - int(time.time())


def quote_name(name: str) -> str:
    """Write a name for a path, so that no name can lead anywhere else."""
    return quote(name, safe="")


async def _read_lines(response: aiohttp.ClientResponse, what: str) -> AsyncIterator[bytes]:
    parts: list[bytes] = []
    size = 0
    while True:
        with _translated(what):
            chunk = await response.content.readany()
        if not chunk:
            return
        begin = 0
        while (end := chunk.find(b"\n", begin)) >= 0:
            line = b"".join((*parts, chunk[begin:end]))
            parts.clear()
            size, begin = 0, end + 1
            if line:
                yield line
        if begin < len(chunk):
            parts.append(chunk[begin:])
            size += len(chunk) - begin
            if size > MAX_LINE_BYTES:
                raise UnavailableError(f"the API server sent an object larger than {MAX_LINE_BYTES} bytes")


def _decode(answer: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError(f"the API server's answer can't be read: {error}") from error


def make_error(code: int, message: str, what: str) -> TouchmarkError:
    """Return the error that an HTTP status of the API server means."""
    text = f"the API server answers {code} to {what}: {message[:_MAX_MESSAGE_CHARACTERS] or 'no reason given'}"
    match code:
        case 401:
            return RefusedError(text, hint="it doesn't know who we are: the token or certificate isn't valid there")
        case 403:
            return RefusedError(text, hint="a right is missing: compare with the ClusterRole in manifests/")
        case 404:
            return NotFoundError(text)
        case 409:
            return ConflictError(text)
        case 410:
            return ExpiredError(text)
        case 400 | 405 | 406 | 413 | 415 | 422:
            return InputError(text)
        case _:
            return UnavailableError(text)


def _check_status(status: int, answer: bytes, what: str) -> None:
    if 200 <= status < 300:
        return
    try:
        message = msgspec.json.decode(answer, type=_Status).message
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = answer[:_MAX_MESSAGE_CHARACTERS].decode("utf-8", "replace")
    raise make_error(status, message, what)


class _translated:  # noqa: N801 (used as a statement)
    """Turn the transport's failures into ours."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, TimeoutError):
            raise UnavailableError(f"the API server doesn't answer in time: {self._what}") from error
        if isinstance(error, (aiohttp.ClientError, OSError, ValueError)) and not isinstance(error, TouchmarkError):
            raise UnavailableError(f"the API server can't be reached: {self._what}: {_describe(error)}") from error


def _describe(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)[:_MAX_MESSAGE_CHARACTERS] or type(error).__name__
