"""What makes a spec wrong beyond its types: limits, names and combinations, each error with the path of its field."""

from msgspec import Struct


class FieldError(Struct, frozen=True, kw_only=True):
    pointer: str
    """JSON pointer of the offending field, e.g. /resources/cpu_millis."""
    detail: str
