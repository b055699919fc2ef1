"""TLS contexts that ask who is there: version 1.3, the cluster's CA alone, and our own look at the certificate inside the handshake.

A chain that is right says only that somebody belongs to the cluster. Who it is, and whether that one may speak on this port, is
decided in the handshake itself, so that no byte is taken from, or sent to, anybody else, whichever library holds the socket.
"""

import ssl
from collections.abc import Callable
from typing import Any

from kago.security.subject import NotOurs, Subject, subject_of

Judge = Callable[[Subject], str]
"""Why this one may not speak here; empty where it may."""


class CheckedContext(ssl.SSLContext):
    """Made by `server_context` and `client_context`; asks its judge about each peer that shows a certificate."""

    judge: Judge

    def look_at(self, der: bytes | None) -> None:
        """ssl.SSLError unless the peer may speak here. One without a certificate was let in by `verify_mode`."""
        if der is None:
            return
        try:
            why_not = self.judge(subject_of(der))
        except NotOurs as error:
            why_not = str(error)
        if why_not:
            raise ssl.SSLCertVerificationError(1, why_not)


class _CheckedObject(ssl.SSLObject):
    def do_handshake(self) -> None:
        super().do_handshake()
        context = self.context
        assert isinstance(context, CheckedContext)
        context.look_at(self.getpeercert(True))


class _CheckedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        context = self.context
        assert isinstance(context, CheckedContext)
        context.look_at(self.getpeercert(True))


CheckedContext.sslobject_class = _CheckedObject
CheckedContext.sslsocket_class = _CheckedSocket


def server_context(ca_pem: bytes, judge: Judge, *, certificate_optional: bool = False) -> CheckedContext:
    """For a port. A certificate that is shown must be right, also where none need be."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, ca_pem, judge)
    context.verify_mode = ssl.CERT_OPTIONAL if certificate_optional else ssl.CERT_REQUIRED
    context.num_tickets = 0  # a resumed session would not look at the certificate's dates again
    return context


def client_context(ca_pem: bytes, judge: Judge) -> CheckedContext:
    """For dialling. Names of hosts do not count: the certificate names the server itself."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, ca_pem, judge)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def blind_context() -> ssl.SSLContext:
    """For fetching the CA's certificate alone, which is then compared with what a token pins: nothing said or heard here counts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def peer_of(ssl_object: Any) -> Subject | None:
    """Who is at the other end of a connection (its `ssl_object`); None where it is not encrypted or showed no certificate. NotOurs."""
    der = ssl_object.getpeercert(True) if ssl_object is not None else None
    return subject_of(der) if der else None


def _context(protocol: int, ca_pem: bytes, judge: Judge) -> CheckedContext:
    context = CheckedContext(protocol)
    context.judge = judge
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    return context
