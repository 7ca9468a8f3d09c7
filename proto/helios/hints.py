"""What to do about a connection that cannot be made, from what gRPC says of it."""

from __future__ import annotations

from typing import Final

_HINTS: Final = (
    ("unable to get local issuer", "its authority is not known here: set ca_file"),
    ("self-signed", "its authority is not known here: set ca_file"),
    ("self signed", "its authority is not known here: set ca_file"),
    ("certificate has expired", "its certificate has expired"),
    ("not yet valid", "its certificate is not valid yet: are the clocks right?"),
    ("Hostname Verification", "its certificate is for another name than that of the endpoint"),
    ("ALPN", "is this its HTTP port? Helios is sent to the one of gRPC, usually 4317"),
    ("WRONG_VERSION_NUMBER", "it may not speak TLS: try http://"),
    ("security handshaker", "the own certificate and key cannot be used: do cert_file and key_file belong together?"),
)
_CLOSED: Final = {
    True: "it may want a certificate that is valid: set cert_file and key_file",
    False: "it may speak TLS: try https://",
}


def hint_of(details: str, *, tls: bool) -> str:
    """A few words, or nothing.

    Args:
        details: of the status of a call that reached nobody.
        tls: the connection was to be encrypted.
    """
    found = next((hint for sign, hint in _HINTS if sign in details), "")
    if not found and ("Socket closed" in details or "Connection reset" in details):
        return _CLOSED[tls]
    return found
