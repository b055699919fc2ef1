"""A clock that can be set is the wall clock alone: what waits by the monotonic one waits as long as it was told."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.stage import FAKETIME, NO_CLOCK, WALL_CLOCK_ONLY

WAIT_S = 0.05
PROGRAM = f"""
import ctypes, time

class Moment(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]

libc = ctypes.CDLL(None)
about, condition, mutex = (ctypes.create_string_buffer(64) for _ in range(3))
libc.pthread_condattr_init(about)
libc.pthread_condattr_setclock(about, time.CLOCK_MONOTONIC)
libc.pthread_cond_init(condition, about)
libc.pthread_mutex_init(mutex, None)
libc.pthread_mutex_lock(mutex)
until_ns = time.monotonic_ns() + {int(WAIT_S * 1e9)}
libc.pthread_cond_timedwait(condition, mutex, ctypes.byref(Moment(until_ns // 10**9, until_ns % 10**9)))
print(time.time(), time.monotonic_ns() - until_ns)
"""


@pytest.mark.skipif(bool(NO_CLOCK), reason=NO_CLOCK)
@pytest.mark.parametrize("seconds", [3600, 0, -3600])
def test_the_wall_clock_jumps_and_waits_do_not(tmp_path: Path, seconds: int) -> None:
    """As Python's own lock waits, by a condition of the monotonic clock."""
    clock = tmp_path / "clock"
    clock.write_text(f"{seconds:+d}\n")
    fake = {**WALL_CLOCK_ONLY, "FAKETIME_TIMESTAMP_FILE": str(clock), "LD_PRELOAD": str(FAKETIME)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, **fake}, capture_output=True, text=True, check=True)
    at, late_ns = done.stdout.split()
    assert abs(float(at) - time.time() - seconds) < 60
    assert int(late_ns) >= 0
