"""How a verb fails: exit codes, and errors of the rim in words that say what to do."""

from enum import IntEnum

from kago.cli.manifest import ManifestError
from kago.client.errors import ClientError, Problem, TimedOut, Unreachable


class Code(IntEnum):
    DONE = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 4
    CONFLICT = 5
    NO_SERVER = 6
    """No server reachable, no leader or no quorum."""
    ROLLOUT_FAILED = 7
    NOT_PLACED = 8
    TIMED_OUT = 124
    INTERRUPTED = 130


class VerbFailed(Exception):
    """Ends the process with this message on stderr and this code."""

    def __init__(self, message: str, code: Code = Code.ERROR) -> None:
        super().__init__(message)
        self.code = code


_PROBLEM_CODES = {404: Code.NOT_FOUND, 409: Code.CONFLICT, 412: Code.CONFLICT, 429: Code.NO_SERVER, 503: Code.NO_SERVER}


def explained(error: ClientError | ManifestError | OSError) -> VerbFailed:
    """The same in one clear paragraph with its exit code."""
    match error:
        case Unreachable():
            tried = "\n".join(f"  {server}: {reason}" for server, reason in error.tried)
            return VerbFailed(
                f"no server is reachable:\n{tried}\nIs `kago serve` running there? Name the servers with --server or KAGO_SERVER.",
                Code.NO_SERVER,
            )
        case TimedOut():
            return VerbFailed(f"{error}. Look with `kago get` before trying again.", Code.NO_SERVER)
        case Problem(type="no-leader"):
            hint = "The cluster has no leader now: a majority of its servers must be up. See `kago cluster status`."
            return VerbFailed(f"{error}. {hint}", Code.NO_SERVER)
        case Problem(status=401):
            return VerbFailed(f"{error}. Remember who you are with `kago context add`, or set KAGO_TOKEN.")
        case Problem():
            return VerbFailed(str(error), _PROBLEM_CODES.get(error.status, Code.ERROR))
        case ManifestError():
            return VerbFailed("nothing was applied:\n" + "\n".join(f"  {line}" for line in error.errors))
        case OSError(filename=str() as name, strerror=str() as why):
            return VerbFailed(f"{name}: {why}")
        case _:
            return VerbFailed(str(error))
