"""What can go wrong with a proposal, and which of it is certain.

LogError
├── NotDone            the entry is certainly not in the log and never will be: trying again is a new write
│   ├── NoLeader       no leader was known until the deadline, nothing was sent to anyone
│   ├── QueueFull      too many proposals wait on this server
│   ├── TooLarge       the entry is over the limit
│   ├── Discarded      a leader refused it before it reached a log
│   └── ChangeRefused  a change of the members that must not be made; `reason` is a word for programs
├── OutcomeUnknown     it may or may not happen; the same request id may be proposed again safely
├── LogHalted          this replica stopped (failed disk, broken invariant, closed) and serves nothing more
└── StartRefused       the data directory and the configuration do not fit together; the text says what to do
    ├── Expelled       the cluster removed this member; starting again is of no use
    └── Corrupt        a file of the data directory is damaged where a crash cannot have damaged it
"""


class LogError(Exception):
    """Base of all errors of the replicated log."""


class NotDone(LogError):
    """The entry is certainly not in the log and never will be."""


class NoLeader(NotDone):
    """No leader was known until the deadline; nothing was sent."""


class QueueFull(NotDone):
    """Too many proposals are waiting on this server."""


class TooLarge(NotDone):
    """The entry is larger than `RaftConfig.max_entry_bytes`."""


class Discarded(NotDone):
    """A leader refused the proposal before it reached a log."""


class ChangeRefused(NotDone):
    """The members stay as they are; the text says why and what to do."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        """not-found, conflict or no-majority."""


class OutcomeUnknown(LogError):
    """Nobody can know whether the entry was or will be committed. Retrying with the same request id is safe."""


class LogHalted(LogError):
    """This replica has stopped for good; the process must end."""


class StartRefused(LogError):
    """The replica will not start with this data directory and configuration; the text says what to do."""


class Expelled(StartRefused):
    """The cluster removed this member, for good."""


class Corrupt(StartRefused):
    """A file is damaged in a way that a crash cannot explain; names file and offset."""
