"""tests/e2e.sh, as it is run by hand, here with the process runtime: it needs nothing but this machine and curl."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "e2e.sh"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("curl") is None, reason="not installed: curl"),
]


@pytest.mark.parametrize("flags", [[], ["--multi-node", "--scheduler", "balanced"]], ids=["one node", "two nodes"])
def test_the_script_passes(flags: list[str]) -> None:
    result = subprocess.run([SCRIPT, "--runtime", "process", *flags], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert result.stdout.rstrip().endswith(" passed, 0 failed")
