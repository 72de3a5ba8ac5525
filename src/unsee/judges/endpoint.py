"""An OpenAI-compatible server, asked about one image with the standard library; asked again where it is busy."""

from __future__ import annotations

import base64
import io
import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from socket import gaierror
from typing import TYPE_CHECKING

from ..errors import UserError
from ..files import parse_json

if TYPE_CHECKING:
    from PIL.Image import Image

BUSY = (408, 409, 425, 429, 500, 502, 503, 504)  # worth another try
LARGEST = 2**20  # bytes of an answer; what is longer is cut, and no JSON
WAIT = 0.5  # seconds before the second try, doubled each time


@dataclass(frozen=True)
class Endpoint:
    """``(image, question)`` → the answer of an OpenAI-compatible server, at temperature 0."""

    url: str
    model: str
    key_env: str
    timeout: float  # seconds for each try
    retries: int
    max_tokens: int

    def __call__(self, image: Image, question: str) -> str:
        request = self._request(image, question)
        attempt = 0
        while True:
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                    return str(parse_json(reply.read(LARGEST))["choices"][0]["message"]["content"])
            except (OSError, HTTPException) as error:  # a timeout, a broken connection, an answer that says no
                self._give_up(error, last=attempt >= self.retries)
            time.sleep(WAIT * 2**attempt)
            attempt += 1

    def _give_up(self, error: Exception, *, last: bool) -> None:
        """Raises what the user can mend at once, and anything on the last try."""
        if isinstance(error, urllib.error.HTTPError):
            error.close()
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
        if key := os.environ.get(self.key_env):
            headers["Authorization"] = f"Bearer {key}"
        return urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
