"""How people write amounts of CPU and memory, in manifests and flags, and how tables show them; and numbers that come as text.

CPU: `100m`, `0.5` (of a core) or a whole number, which is millicores, quoted or not. Memory: `128Mi`, `1Gi`, `128M`, `1G` or a number
of MB. As in the first Kago M is read as MiB and G as GiB, and a plain number of MB as MiB.
"""

import re

_WHOLE = re.compile(r"[0-9]{1,19}")
_CPU = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,15})|(m))?")
_MEMORY = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,15}))?([MGT])?i?")
_MEBIBYTES = {None: 1, "M": 1, "G": 1024, "T": 1024 * 1024}


def parse_whole(text: str) -> int | None:
    """A whole number from 0 up, of as many digits as 64 bits may need. None for any other text: Python's `int` takes more kinds of digits
    than there should be, and refuses too many with an error of its own."""
    return int(text) if _WHOLE.fullmatch(text) else None


def parse_cpu(value: int | float | str) -> int:
    """Millicores. Only what is written with a point counts cores: "0.5" and 0.5 are 500, but 2 and "2" are 2 millicores.

    Raises ValueError with words for people.
    """
    match = _CPU.fullmatch(_text(value))
    if match is None:
        raise ValueError(f"{value!r} is not an amount of CPU: write 100m, 0.5 or a number of millicores")
    whole, fraction, _ = match.groups()
    if fraction is None:
        return int(whole)
    return _scaled(value, whole, fraction, 1000, "a thousandth of a core")


def parse_memory(value: int | float | str) -> int:
    """MiB. Raises ValueError with words for people."""
    match = _MEMORY.fullmatch(_text(value))
    if match is None or (match[3] is None and str(value).strip().endswith("i")):
        raise ValueError(f"{value!r} is not an amount of memory: write 128Mi, 1Gi, 128M, 1G or a number of MB")
    whole, fraction, unit = match.groups()
    return _scaled(value, whole, fraction or "0", _MEBIBYTES[unit], "one MB")


def format_cpu(millis: int) -> str:
    """As `parse_cpu` reads it."""
    return f"{millis}m"


def format_memory(memory_mb: int) -> str:
    """As `parse_memory` reads it, in the greatest unit that leaves no rest."""
    return f"{memory_mb // 1024}Gi" if memory_mb and memory_mb % 1024 == 0 else f"{memory_mb}Mi"


def _text(value: int | float | str) -> str:
    # A YAML `true` is an int to Python; it is no amount to anybody.
    return "" if isinstance(value, bool) else str(value).strip()


def _scaled(value: int | float | str, whole: str, fraction: str, scale: int, smallest: str) -> int:
    """(whole.fraction) * scale in whole numbers; refuses what is finer than the smallest unit rather than round it away."""
    places = int("1" + "0" * len(fraction))
    amount, rest = divmod((int(whole) * places + int(fraction)) * scale, places)
    if rest:
        raise ValueError(f"{value!r} is finer than {smallest}")
    return amount
