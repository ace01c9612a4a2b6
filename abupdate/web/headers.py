"""The headers of every answer: what keeps a browser from being used against its owner."""

from __future__ import annotations

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": browsers would then send "Origin: null" with a form, like a stranger's.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def refusal(status: str, text: str, more: str = "") -> bytes:
    """A whole answer for those whom no application hears, and the end of their connection."""
    told = {
        **HEADERS, "Cache-Control": "no-store", "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": str(len(text)), "Connection": "close",
    }  # fmt: skip
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 {status}\r\n{lines}{more}\r\n{text}".encode("ascii")
