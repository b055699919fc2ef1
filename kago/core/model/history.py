"""Who changed what and when, as the log knows it: one record for each thing a user did."""

from msgspec import Struct, field


class ChangeRecord(Struct, gc=False, frozen=True, kw_only=True):
    index: int
    """Of the log entry that did it."""
    at: float
    """Seconds since the epoch, by the clock of the server that was asked."""
    actor: str
    """The caller as it proved itself: token/ID, a certificate's name, or anybody where the cluster is not secured."""
    source: str
    """The address it called from."""
    verb: str
    """created, updated, scaled, deleted or revoked; of servers added, removed or made leader."""
    name: str
    """TYPE/NAME of what was changed."""
    summary: str = ""
    """What changed, old -> new; of what may hold secrets only that it did."""
    version: int = 0
    kind: str = field(default="Change")
