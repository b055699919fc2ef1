"""The directory of keys: who may read it, what it believes, when it renews."""

import stat
from pathlib import Path

import pytest

from kago.security.authority import CERTIFICATE_S, Authority
from kago.security.keyring import CA_FILE, CA_KEY_FILE, OWN_FILE, Keyring, KeyringError
from kago.security.subject import Role, Subject

NOW = 1_800_000_000.0
CA = Authority.make("c1", now=NOW)


def server(tmp_path: Path) -> Keyring:
    keyring = Keyring(tmp_path)
    keyring.adopt(CA.pem, CA.key_pem)
    keyring.issue(Role.SERVER, "s1:7080", now=NOW, admitted=7)
    return keyring


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    keyring = server(tmp_path)
    assert stat.S_IMODE(keyring.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in keyring.directory.iterdir()} == {0o600}
    for name in (CA_KEY_FILE, OWN_FILE):
        path = keyring.directory / name
        path.chmod(0o640)
        with pytest.raises(KeyringError, match="chmod 600"):
            Keyring(tmp_path)
        path.chmod(0o600)
    assert Keyring(tmp_path).subject == keyring.subject


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    keyring = server(tmp_path)
    own = keyring.directory / OWN_FILE
    own.rename(tmp_path / "elsewhere")
    own.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyringError, match="cannot read"):
        Keyring(tmp_path)


@pytest.mark.parametrize("name", [CA_FILE, CA_KEY_FILE, OWN_FILE])
@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, cut: float) -> None:
    path = server(tmp_path).directory / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(KeyringError, match="damaged"):
        Keyring(tmp_path)


def test_without_a_ca_it_holds_nothing(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    assert not keyring.held and not keyring.usable(now=NOW) and not keyring.directory.exists()


def test_another_ca_makes_the_old_certificate_worthless(tmp_path: Path) -> None:
    keyring = server(tmp_path)
    other = Authority.make("c2", now=NOW)
    keyring.adopt(other.pem, other.key_pem)
    assert keyring.subject is None and keyring.cluster == "c2" and not Keyring(tmp_path).usable(now=NOW)


def test_when_it_is_renewed(tmp_path: Path) -> None:
    keyring = server(tmp_path)
    assert keyring.renew_in_s(now=NOW, jitter=0) == CERTIFICATE_S / 2
    assert keyring.renew_in_s(now=NOW, jitter=1) == CERTIFICATE_S * 0.4
    assert keyring.renew_in_s(now=NOW + CERTIFICATE_S, jitter=0) == 0
    moments = {-3601: False, -3599: True, 0: True, CERTIFICATE_S - 1: True, CERTIFICATE_S: False}
    assert {at: keyring.usable(now=NOW + at) for at in moments} == moments


def test_a_new_pair_reaches_the_contexts_given_out(tmp_path: Path) -> None:
    keyring = server(tmp_path)
    context = keyring.server_context(keyring.only(Role.SERVER))
    first = (keyring.directory / OWN_FILE).read_bytes()
    keyring.issue(Role.SERVER, "s1:7080", now=NOW + 5, admitted=9)
    assert (keyring.directory / OWN_FILE).read_bytes() != first
    assert keyring.subject is not None and (keyring.subject.admitted, keyring.subject.issued_at) == (9, NOW + 5)
    assert context.verify_mode.name == "CERT_REQUIRED" and context.minimum_version.name == "TLSv1_3"


def test_who_may_speak(tmp_path: Path) -> None:
    judge = server(tmp_path).only(Role.SERVER, Role.AGENT)
    assert judge(Subject(cluster="c1", role=Role.AGENT, name="n1")) == ""
    assert "user" in judge(Subject(cluster="c1", role=Role.USER, name="n1"))
    assert "cluster c2" in judge(Subject(cluster="c2", role=Role.AGENT, name="n1"))
