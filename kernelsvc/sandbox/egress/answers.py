"""Short answers of the proxy's own to an HTTP client: the sentence is in the body and the reason.

Most clients show the reason phrase of a failed CONNECT and never its body.
"""

from kernelsvc.sandbox.egress.dial import TimedOut, Unreachable
from kernelsvc.sandbox.egress.policy import Refused
from kernelsvc.sandbox.egress.relay import Stream

_LONGEST_SENTENCE = 400


def status_for(error: Refused | Unreachable) -> int:
    """The HTTP status that says what became of a connection."""
    if isinstance(error, Refused):
        return 403
    return 504 if isinstance(error, TimedOut) else 502


async def answer(client: Stream, status: int, sentence: str, *, body: bool = True) -> None:
    """Send a complete answer, without its body for a HEAD request, and end the connection."""
    shown = f"kernelsvc: {sentence}".encode("ascii", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else "?" for c in shown[:_LONGEST_SENTENCE])
    text = f"{shown}\n"
    head = (
        f"HTTP/1.1 {status} {shown}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(text)}\r\n"
        "Connection: close\r\n"
        "\r\n"
    )
    await client.write((head + text if body else head).encode())
    await client.linger()
