"""How a bug is planted: something of the production code is another thing for the length of a run."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import ModuleType

from msgspec import Struct

Planting = Callable[[], AbstractContextManager[None]]


class Plant(Struct, frozen=True, kw_only=True):
    what: str
    """The mistake, in words."""
    profile: str
    """Where to look for it."""
    plant: Planting
    seed: int = 0
    """One that was seen to find it."""
    rare: bool = False
    """Only the hunt looks for it: after a change of the code it may take a hundred seeds to find it anew."""


class Count:
    """Calls of what a plant put in another's place; from nothing at each run, so that a run is the same each time."""

    calls = 0

    def next(self) -> int:
        self.calls += 1
        return self.calls


count = Count()


def patch(holder: type | ModuleType, **attributes: object) -> Planting:
    @contextmanager
    def patched() -> Iterator[None]:
        kept = {name: vars(holder)[name] for name in attributes}
        for name, value in attributes.items():
            setattr(holder, name, value)
        try:
            yield
        finally:
            for name, value in kept.items():
                setattr(holder, name, value)

    return patched


def together(*plantings: Planting) -> Planting:
    @contextmanager
    def planted() -> Iterator[None]:
        with ExitStack() as stack:
            for planting in plantings:
                stack.enter_context(planting())
            yield

    return planted
