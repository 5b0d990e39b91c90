"""The standard library's web server and client, on a host of one's own behind a TUN device.

Linux, root: `python examples/web.py serve [FOLDER]` until Ctrl-C, and beside it
`curl http://10.77.0.2/`; or `python examples/web.py get [PATH]` from a server of the machine's.
The machine has 10.77.0.1 and fd77::1, the host 10.77.0.2 and fd77::2.
"""

from __future__ import annotations

import functools
import http.client
import http.server
import socketserver
import subprocess
import sys

import tcpcore


class Server(http.server.ThreadingHTTPServer):
    """A web server of a stack: its socket is one of the stack's, and so is the loop."""

    def __init__(self, stack: tcpcore.Stack, port: int, folder: str) -> None:
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
        socketserver.BaseServer.__init__(self, ("::", port), handler)
        self.socket = stack.listen(("::", port))  # of every address, IPv4 too

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Take connections, each to a thread; the thread that waits here drives the host."""
        while True:
            self.process_request(*self.get_request())


class Client(http.client.HTTPConnection):
    """A web client of a stack."""

    def __init__(self, stack: tcpcore.Stack, host: str, port: int = 80) -> None:
        super().__init__(host, port)
        self.stack = stack

    def connect(self) -> None:
        """Open the connection from the stack."""
        self.sock = self.stack.connect((self.host, self.port), timeout=10)


def host() -> tcpcore.Stack:
    """A host behind a TUN device of the machine, which gets its addresses, too."""
    link = tcpcore.TunLink("tcpcore0", gso=True)
    for words in (
        f"addr add 10.77.0.1/24 dev {link.name}",
        f"-6 addr add fd77::1/64 dev {link.name} nodad",
        f"link set {link.name} up",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    return tcpcore.Stack(["10.77.0.2/24", "fd77::2/64"], link=link)


def main(verb: str, name: str) -> None:
    with host() as stack:
        if verb == "get":
            client = Client(stack, "10.77.0.1")
            client.request("GET", name)
            answer = client.getresponse()
            print(answer.status, answer.reason, len(answer.read()), "bytes")
            client.close()
            stack.drive(0.1)  # until the end is told
            return
        print("http://10.77.0.2/ and http://[fd77::2]/", flush=True)
        try:
            Server(stack, 80, name).serve_forever()
        except KeyboardInterrupt:
            print({name: n for name, n in stack.counters.items() if n and name.startswith("Tcp")})


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in ("serve", "get"):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "/" if sys.argv[1] == "get" else ".")
