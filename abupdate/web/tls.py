"""The certificate: the owner's, or one that the server makes for itself.

A self-made one proves nothing to a browser but by its fingerprint, which `abupdate web code` tells
whoever is at the device; from then on nobody on the way can read the password.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Sequence
from pathlib import Path

from abupdate.config import WebSection, WebTls
from abupdate.errors import ProgramError, UsageError
from abupdate.run import run

DAYS = 3650
_SOON = 30 * 86400  # seconds before its end at which a certificate is replaced


def certificate(settings: WebSection, state: Path) -> tuple[Path, Path] | None:
    """The files of certificate and key; None without TLS. Raises `UsageError`, `ProgramError`."""
    if settings.tls == "off":
        return None
    if isinstance(settings.tls, WebTls):
        files = Path(settings.tls.cert), Path(settings.tls.key)
        _check(*files)
        return files
    return self_made(state, settings.hosts)


def self_made(state: Path, names: Sequence[str]) -> tuple[Path, Path]:
    """Our own, made anew when there is none, it ends soon, or is for other names."""
    folder = state / "tls"
    folder.mkdir(mode=0o700, exist_ok=True)
    cert, key, told = folder / "cert.pem", folder / "key.pem", folder / "names"
    host = os.uname().nodename
    wanted = ",".join(f"DNS:{name}" for name in dict.fromkeys(
        (host, f"{host}.local", "localhost", *names)
    ))  # fmt: skip
    if told.is_file() and told.read_text() == wanted and _lasts(cert) and key.is_file():
        return cert, key
    new_cert, new_key = folder / "cert.new", folder / "key.new"
    new_key.unlink(missing_ok=True)
    os.close(os.open(new_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    run([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-noenc", "-keyout", new_key, "-out", new_cert, "-days", str(DAYS),
        "-subj", "/CN=abupdate", "-addext", f"subjectAltName={wanted}",
        "-addext", "keyUsage=digitalSignature", "-addext", "extendedKeyUsage=serverAuth",
    ])  # fmt: skip
    _check(new_cert, new_key)
    new_key.rename(key)
    new_cert.rename(cert)
    told.write_text(wanted)
    return cert, key


def fingerprint(cert: Path) -> str:
    """SHA-256 of a certificate, as browsers show it. Raises `OSError`, `ValueError`."""
    text = cert.read_text(encoding="ascii")
    end = "-----END CERTIFICATE-----"
    first = text[text.index("-----BEGIN") : text.index(end) + len(end)]
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest().upper()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


def _lasts(cert: Path) -> bool:
    try:
        run(["openssl", "x509", "-in", cert, "-noout", "-checkend", str(_SOON)])
    except ProgramError:
        return False
    return True


def _check(cert: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            cert,
            key,
            password="",  # asked for by nobody, least of all on a console
        )
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"A certificate and its key were expected in {cert} and {key}: {error}.",
            "Both are PEM, the key without a passphrase, and abupdate-web must read them.",
        ) from error
