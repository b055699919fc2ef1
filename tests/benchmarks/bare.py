"""A Sanic server that does nothing but answer with bytes made beforehand: what Kago's reads are measured against.

python -m tests.benchmarks.bare PORT FILE
"""

import sys
from pathlib import Path

from sanic import HTTPResponse, Request, Sanic
from sanic.response import raw


def serve(port: int, content: bytes) -> None:
    app = Sanic("bare")

    @app.get("/thing")
    async def thing(request: Request) -> HTTPResponse:
        return raw(content, content_type="application/json")

    app.run("127.0.0.1", port, single_process=True, access_log=False, debug=False, motd=False)


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes())
