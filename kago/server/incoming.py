"""Sanic's request, with three things put right that no route should have to know of, and made again without being read again."""

import re
from typing import Any
from urllib.parse import unquote

from sanic import Request
from sanic.exceptions import BadURL

_UNRESERVED = re.compile(r"(?:%(?:2[dDeE]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aAeE]))+")
"""Percent-encoded characters that mean the same as plain ones (RFC 3986, 2.3)."""


class Incoming(Request):
    """A request to the API.

    HEAD is routed as GET (Sanic itself leaves the body out). A path that needlessly encodes its letters is the path without it. And the
    empty request that Sanic makes up to say that an address cannot be parsed does not fail over the same address again.
    """

    def __init__(self, url_bytes: bytes, headers: Any, version: str, method: str, *rest: Any, **more: Any) -> None:
        routed = "GET" if method == "HEAD" else method
        try:
            super().__init__(url_bytes, headers, version, routed, *rest, **more)
        except BadURL:
            if method != "NONE":
                raise
            super().__init__(b"*", headers, version, routed, *rest, **more)

    def again(self, body: bytes, transport: Any, conn_info: Any) -> "Incoming":
        """The same request with another body, whole, over another connection or none."""
        other = type(self)(self.raw_url, self.headers, self.version, self.method, transport, self.app, self.head)
        other.body, other.conn_info = body, conn_info
        other.route, other._match_info, other.parsed_args = self.route, self._match_info, self.parsed_args
        return other

    @property
    def path(self) -> str:
        path = super().path
        return _UNRESERVED.sub(lambda match: unquote(match[0]), path) if "%" in path else path
