"""Amounts of CPU and memory as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kago.core.model.quantity import format_cpu, format_memory, parse_cpu, parse_memory, parse_whole


@pytest.mark.parametrize(("written", "millis"), [
    ("100m", 100), ("0.5", 500), (0.5, 500), (500, 500), ("500", 500), (2, 2), ("2", 2), (2.0, 2000), ("2.0", 2000), ("0.001", 1),
    ("1.2500", 1250), (" 250m ", 250), (0, 0),
])
def test_cpu(written: int | float | str, millis: int) -> None:
    assert parse_cpu(written) == millis


@pytest.mark.parametrize(("written", "mebibytes"), [
    ("128Mi", 128), ("128M", 128), ("1Gi", 1024), ("1G", 1024), (256, 256), ("256", 256), ("0.5Gi", 512), ("1.5G", 1536), (128.0, 128),
    ("1T", 1024 * 1024), (0, 0),
])
def test_memory(written: int | float | str, mebibytes: int) -> None:
    assert parse_memory(written) == mebibytes


RUBBISH = [
    "", " ", "m", "-1", -1, -0.5, "-100m", "1e3", "1e3Gi", float("nan"), float("inf"), "nan", True, False, "1,5", "0x10", "1_000", "100 m",
    "1.", ".5", "٣", "9" * 5000, "100mm", "1.5m", 1e-7, "none",
]


@pytest.mark.parametrize("written", [*RUBBISH, "100M", "1Gi", "0.0001", 0.30000000000000004])
def test_cpu_refuses(written: int | float | str) -> None:
    with pytest.raises(ValueError, match=r"is not an amount of CPU|is finer than"):
        parse_cpu(written)


@pytest.mark.parametrize("written", [*RUBBISH, "128i", "128K", "128Ki", "128MB", "128m", "128mi", "0.5", 0.5, "1.0001Gi"])
def test_memory_refuses(written: int | float | str) -> None:
    with pytest.raises(ValueError, match=r"is not an amount of memory|is finer than"):
        parse_memory(written)


@given(st.integers(0, 10**9))
def test_what_tables_show_can_be_written(amount: int) -> None:
    assert parse_cpu(format_cpu(amount)) == amount
    assert parse_memory(format_memory(amount)) == amount


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("9" * 19, 10**19 - 1)])
def test_whole_numbers_are_digits(text: str, number: int) -> None:
    assert parse_whole(text) == number


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1\n", "1_0", "²", "٣", "1.0", "9" * 20, "9" * 5000])
def test_everything_else_is_no_number(text: str) -> None:
    assert parse_whole(text) is None
