"""A text from any http(s) address, for `apply -f URL`: unlike the API's calls it follows redirects and proxies."""

import httpx

from kago.client.walk import reason

TIMEOUT_S = 15.0


class FetchFailed(Exception):
    """The address gave no text; says why."""


def fetch(url: str, *, max_bytes: int) -> str:
    """The body as text. FetchFailed."""
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=TIMEOUT_S) as answer:
            if not answer.is_success:
                raise FetchFailed(f"{url}: HTTP {answer.status_code}")
            body = b""
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > max_bytes:
                    raise FetchFailed(f"{url}: larger than {max_bytes} bytes")
            return body.decode("utf-8")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FetchFailed(f"{url}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise FetchFailed(f"{url}: not UTF-8 text") from error
