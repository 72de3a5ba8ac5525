"""An OpenAI-compatible server, asked about one image with the standard library; asked again where it is busy.

What it may do is bounded: it is not followed to another address (the key goes to the one that was named, and to no
other), a try ends after ``timeout`` seconds however slowly bytes come, and a reply is read up to ``LONGEST`` bytes.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import math
import os
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from socket import gaierror
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import parse_json

if TYPE_CHECKING:
    from PIL.Image import Image

BUSY = (408, 409, 425, 429, 500, 502, 503, 504)  # worth another try
WAIT = 0.5  # seconds before the second try, doubled each time
MOST = 10  # tries after the first
LONGEST = 2**20  # bytes of a reply
HOSTED = "api.openai.com"  # answers nobody without a key
KEY = "OPENAI_API_KEY"  # sent if it is set; another name must be set


@dataclass(frozen=True)
class Endpoint:
    """``(image, question)`` → the answer of an OpenAI-compatible server, at temperature 0.

    Raises :class:`UserError` when it is made, for a setting that cannot be; when it is called, where the server is not
    there, refuses the request or sends it elsewhere; and what went wrong after the last try.
    """

    url: str
    model: str
    key_env: str
    timeout: float  # seconds for each try, all of it
    retries: int
    max_tokens: int
    _key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_url(self.url)
        for name, value, sound, wanted in (
            ("timeout", self.timeout, 0 < self.timeout < math.inf, "seconds above 0"),
            ("retries", self.retries, 0 <= self.retries <= MOST, f"0 to {MOST}"),
            ("max_tokens", self.max_tokens, self.max_tokens >= 1, "1 or more"),
        ):
            if not sound:
                raise UserError(f"{name} of {wanted}", str(value), f"mend {name}= or leave it out")
        object.__setattr__(self, "_key", _key(self.key_env))
        if not self._key and urllib.parse.urlsplit(self.url).hostname == HOSTED:
            raise UserError(f"a key in ${self.key_env} for {HOSTED}", "none", f"set {self.key_env}")

    def __call__(self, image: Image, question: str) -> str:
        request = self._request(image, question)
        attempt = 0
        while True:
            try:
                return _answer(_ask(request, self.timeout))
            except (OSError, HTTPException) as error:  # a timeout, a broken connection, an answer that says no
                self._give_up(error, last=attempt >= self.retries)
            time.sleep(WAIT * 2**attempt)
            attempt += 1

    def _give_up(self, error: Exception, *, last: bool) -> None:
        """Raises what the user can mend at once, and anything on the last try."""
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            if 300 <= error.code < 400:
                do = "write the address it leads to as url=, if you trust it with the images and the key"
                raise UserError(f"an answer from {self.url}", f"HTTP {error.code}, a redirect", do) from None
            if error.code not in BUSY:
                do = f"check url=, model= and the key in ${self.key_env}"
                raise UserError(f"an answer from {self.url}", f"HTTP {error.code} {error.reason}", do) from None
        if not last:
            return
        if isinstance(error, urllib.error.URLError) and isinstance(error.reason, ConnectionRefusedError | gaierror):
            raise UserError(f"a server at {self.url}", str(error.reason), "start it, or mend url=") from None
        raise error

    def _request(self, image: Image, question: str) -> urllib.request.Request:
        file = io.BytesIO()
        image.save(file, format="PNG")
        picture = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": picture}}]
        body = {"model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0,
                "max_tokens": self.max_tokens}  # fmt: skip
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)


def _check_url(url: str) -> None:
    """Raises :class:`UserError` for what is no plain http or https address."""
    do = "write for example url=http://127.0.0.1:8000/v1"
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number, a broken IPv6 address
        host, port, parts = "", None, urllib.parse.urlsplit("")
    if parts.scheme not in ("http", "https") or not host or port == 0 or not url.isascii() or not url.isprintable():
        raise UserError("an http or https url with a host", repr(url), do)
    if parts.username is not None or parts.query or parts.fragment or " " in url:
        raise UserError("a url without a name, a question mark or a #", repr(parts.hostname), do)


def _key(name: str) -> str:
    """The key in the environment, empty where there is none. Raises :class:`UserError` for one that was named and is
    not set, or that cannot stand in a header."""
    key = os.environ.get(name, "").strip()
    if not key and name != KEY:
        raise UserError(f"a key in ${name}", "none", f"set {name}, or leave key_env= out where no key is needed")
    if not key.isascii() or not key.isprintable():
        raise UserError(f"a key in ${name} of printable ASCII", "other characters", f"set {name} again")
    return key


def _ask(request: urllib.request.Request, timeout: float) -> bytes:
    """The reply's body. Raises ``TimeoutError`` where it is not whole after ``timeout`` seconds."""
    watch = _Watch()
    timer = threading.Timer(timeout, watch.end)
    timer.daemon = True
    timer.start()
    try:
        opener = urllib.request.build_opener(_NoRedirect, _Http(watch), _Https(watch))
        with opener.open(request, timeout=timeout) as reply:
            body: bytes = reply.read(LONGEST + 1)
    except (OSError, HTTPException) as error:
        if watch.over:
            raise TimeoutError(f"no whole answer in {timeout:g} s") from None
        raise error
    finally:
        timer.cancel()
        watch.close()
    if watch.over:
        raise TimeoutError(f"no whole answer in {timeout:g} s")
    if len(body) > LONGEST:
        raise ValueError(f"an answer of more than {LONGEST} bytes")
    return body


def _answer(body: bytes) -> str:
    """The text of a chat completion. Raises ``ValueError`` for anything else."""
    try:
        return str(parse_json(body)["choices"][0]["message"]["content"])
    except (ValueError, LookupError, TypeError, RecursionError):
        said = " ".join(body[:80].decode("utf-8", "replace").split())
        raise ValueError(f"no chat completion but {said!r}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer that says no: urllib would send the key along."""

    def redirect_request(self, *_: object) -> None:
        return None


class _Watch:
    """Holds the sockets of a request, to end them when its time is over."""

    def __init__(self) -> None:
        self.over, self._held, self._lock = False, list[socket.socket](), threading.Lock()

    def hold(self, sock: socket.socket) -> None:
        """A copy of the handle: TLS takes the socket itself away."""
        with self._lock:
            self._held.append(sock.dup())
        if self.over:
            self.end()

    def end(self) -> None:
        self.over = True
        with self._lock:
            for sock in self._held:
                with contextlib.suppress(OSError):  # it has ended by itself
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            for sock in self._held:
                sock.close()


class _Connection(HTTPConnection):
    def __init__(self, *args: Any, watch: _Watch, **more: Any) -> None:
        super().__init__(*args, **more)
        self.watch = watch

    def connect(self) -> None:
        super().connect()
        self.watch.hold(self.sock)


class _Secure(HTTPSConnection, _Connection):
    """``HTTPSConnection.connect`` calls that of :class:`_Connection`, then makes it TLS."""


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(functools.partial(_Connection, watch=self.watch), request)  # type: ignore[arg-type]


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(functools.partial(_Secure, watch=self.watch), request)  # type: ignore[arg-type]
