"""The inside's part in reaching the internet: offer the proxy outside a socket to accept on.

The sandbox has a network namespace of its own with nothing in it but a loopback. A listening socket
made there stays there, wherever its descriptor goes; the proxy outside accepts on it and connects
out from the host's network. So the sandbox runs nothing for it but these few lines, once, before
the user's code.
"""

import os
import socket
import sys

_BACKLOG = 128
_NOT_PROXIED = "localhost,127.0.0.1,::1"


def offer_listener(fd: int) -> int:
    """Listen on 127.0.0.1, send the socket over `fd` (a unix socket) and return the port.

    Afterwards the caller holds neither the listener nor `fd`. Connections that come before the
    proxy is ready wait in the listener's queue. Raises OSError, and ConnectionError where the proxy
    is gone.
    """
    with (
        socket.socket(fileno=fd) as offer,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
    ):
        listener.bind(("127.0.0.1", 0))
        listener.listen(_BACKLOG)
        port: int = listener.getsockname()[1]
        socket.send_fds(offer, [b"\0"], [listener.fileno()])
        return port


def proxy_environment(port: int) -> dict[str, str]:
    """The variables by which programs find the proxy on 127.0.0.1.

    ALL_PROXY names the HTTP proxy too: clients built on httpx cannot even be made where it names a
    SOCKS proxy and the `socksio` package is not there. `socks5h://127.0.0.1:PORT` works for who
    asks for it. npm and git honour the general names; Node's own `fetch` does when it is told to.
    """
    proxy = f"http://127.0.0.1:{port}"
    general = {
        "HTTP_PROXY": proxy,
        "HTTPS_PROXY": proxy,
        "ALL_PROXY": proxy,
        "NO_PROXY": _NOT_PROXIED,
    }
    return {
        **general,
        **{name.lower(): value for name, value in general.items()},
        "NODE_USE_ENV_PROXY": "1",
    }


def main(argv: list[str]) -> None:
    """Offer a listener over the descriptor named first, then become the command that follows."""
    fd, *command = argv
    os.environ.update(proxy_environment(offer_listener(int(fd))))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
