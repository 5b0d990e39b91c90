"""The handshake of two hosts in memory, packet by packet: functions passed, states on both sides.

The functions are those that really run: the reference engine is watched while it works. The
compiled one has the same, by the same names.
"""

from __future__ import annotations

import os
import struct
import sys
from functools import partial

from tcpcore.columns import FLAG_NAMES, STATE_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

    from tcpcore.socket import Socket
    from tcpcore.stack import Stack

# What is shown of all that runs: the path through the engine, without arithmetic and options.
SHOWN = frozenset(
    {
        "cookie_v4_check",
        "cookie_v4_init_sequence",
        "inet_bind",
        "inet_csk_accept",
        "inet_csk_get_port",
        "inet_csk_listen_start",
        "inet_csk_reqsk_queue_add",
        "inet_ehash_insert",
        "inet_hash_connect",
        "inet_lookup_listener",
        "inet_twsk_kill",
        "ip_queue_xmit",
        "ip_rcv",
        "ip_route_connect",
        "reqsk_drop",
        "secure_port",
        "secure_tcp_seq",
        "secure_tcp_ts_off",
        "tcb_rcv",
        "tcb_xmit",
        "tcp_ack",
        "tcp_build_frame",
        "tcp_check_req",
        "tcp_child_process",
        "tcp_clean_rtx_queue",
        "tcp_close",
        "tcp_conn_request",
        "tcp_connect",
        "tcp_data_queue",
        "tcp_fin",
        "tcp_finish_handshake",
        "tcp_init_transfer",
        "tcp_openreq_init",
        "tcp_openreq_init_rwin",
        "tcp_parse",
        "tcp_rcv_established",
        "tcp_rcv_state_process",
        "tcp_rcv_synsent_state_process",
        "tcp_recvmsg",
        "tcp_select_initial_window",
        "tcp_send_ack",
        "tcp_send_fin",
        "tcp_sendmsg",
        "tcp_shutdown",
        "tcp_time_wait",
        "tcp_timewait_state_process",
        "tcp_transmit_skb",
        "tcp_v4_connect",
        "tcp_v4_cookie_check",
        "tcp_v4_do_rcv",
        "tcp_v4_listen_rcv",
        "tcp_v4_rcv",
        "tcp_v4_send_reset",
        "tcp_v4_send_synack",
        "tcp_v4_syn_recv_sock",
        "tcp_write_xmit",
    }
)
OPTIONS = {2: "mss", 3: "wscale", 4: "sackOK", 5: "sack", 8: "TS"}


class Watch:
    """Sees which functions of the engine are called, and how deep in each other."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.depth = 0
        self.seen: list[tuple[int, str]] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if code.co_name in SHOWN and code.co_filename.startswith(self.folder):
            if event == "call":
                self.seen.append((self.depth, code.co_name))
                self.depth += 1
            elif event == "return":
                self.depth -= 1

    def take(self) -> Iterator[tuple[int, str, int]]:
        """What was seen since the last time: depth, name, how often in a row."""
        i = 0
        while i < len(self.seen):
            same = i
            while same < len(self.seen) and self.seen[same] == self.seen[i]:
                same += 1
            yield (*self.seen[i], same - i)
            i = same
        self.seen = []


class Walk:
    """Two hosts and what is told of them."""

    def __init__(
        self, say: Callable[[str], object], ipv6: bool, cookies: bool, functions: bool
    ) -> None:
        from tcpcore.network import Network

        self.say = say
        self.functions = functions
        self.six = ipv6
        knobs = {"tcp_syncookies": 2} if cookies else {}
        self.network = Network(seed=1, sysctl=knobs, engine="reference")
        self.client = self.network.host("client")
        self.server = self.network.host("server")
        self.cable = self.network.link(self.client, self.server, delay_s=0.01)
        self.wire: list[tuple[str, bytes]] = []
        for end, arrow in zip(self.cable.ends, ("-->", "<--"), strict=True):
            end.tap(partial(self.sent, arrow))
        module = sys.modules[type(self.client._net).__module__]
        self.watch = Watch(os.path.dirname(str(module.__file__)))
        family = 10 if ipv6 else 2  # AF_INET6, AF_INET
        self.sock = self.client.socket(family)
        self.sock.setblocking(False)
        self.listener = self.server.socket(family)
        self.child: Socket | None = None
        self.child_handle = -1
        self.rest = False  # of the client's connection something is in TIME-WAIT

    def run(self) -> None:
        """The whole life of a connection, its handshake first."""
        sock, listener = self.sock, self.listener
        target = (self.server.addresses[self.six], 80)
        self.do(self.server, "bind()", lambda: listener.bind(("", 80)))
        self.do(self.server, "listen()", lambda: listener.listen(8))
        self.do(self.client, "connect()", lambda: sock.connect_ex(target))
        self.arrivals()
        self.do(self.server, "accept()", self.accept)
        self.do(self.client, "shutdown()", lambda: sock.shutdown(1))
        self.arrivals()
        if self.child is not None:
            self.do(self.server, "close()", self.child.close)
        self.arrivals()
        sock.close()
        listener.close()
        self.network.close()

    def sent(self, arrow: str, frame: bytes, now_ns: int) -> None:
        self.wire.append((arrow, frame))

    def accept(self) -> None:
        self.child, _ = self.listener.accept()
        self.child_handle = self.child._handle

    def arrivals(self) -> None:
        """Let everything arrive that is under way, one after the other."""
        clock = self.network.clock
        while self.cable.ends[0].in_flight:
            when = min(
                (one.next_arrival, index)
                for index, one in enumerate(self.cable.ends)
                if one.next_arrival is not None
            )
            host = (self.client, self.server)[when[1]]
            clock._now_ns = when[0]
            self.do(host, "a segment arrives", host.run)

    def do(self, host: Stack, what: str, call: Callable[[], object]) -> None:
        """Let something happen, and tell what it led to."""
        before = sys.getprofile()
        sys.setprofile(self.watch)
        try:
            call()
        finally:
            sys.setprofile(before)
        self.say(f"{self.network.clock.now_ns() / 1e6:8.3f} ms  {host.name}: {what}")
        seen = list(self.watch.take())
        if host is self.client:
            self.rest |= any(name == "tcp_time_wait" for _, name, _ in seen)
        if self.functions:
            for depth, name, times in seen:
                self.say(f"{'':13}{'  ' * depth}{name}{f' x{times}' if times > 1 else ''}")
        for arrow, frame in self.wire:
            self.say(f"{'':6}{arrow} {describe(frame)}")
        self.wire.clear()
        self.say(f"{'':6}client {self.client_state()}, server {self.server_state()}")
        self.say("")

    def client_state(self) -> str:
        return "TIME-WAIT (without a socket)" if self.rest else self.sock.state

    def server_state(self) -> str:
        if self.child_handle >= 0:
            try:
                return STATE_NAMES[self.server._net.state(self.child_handle)]
            except OSError:  # what nobody has is gone with its connection
                return "CLOSED"
        words = self.listener.state
        if words == "LISTEN":
            requests, ready = self.server._net.queued(self.listener._handle)
            words += f" (requests {requests}, to accept {ready})"
        return words


def describe(packet: bytes) -> str:
    """A segment in a line: flags, numbers, window, options, payload."""
    at = 4 * (packet[0] & 15) if packet[0] >> 4 == 4 else 40
    fields: tuple[int, ...] = struct.unpack_from(">HHIIHH", packet, at)
    sport, dport, seq, ack, word, window = fields
    flags = [name for bit, name in enumerate(FLAG_NAMES) if word >> bit & 1]
    doff = word >> 12 << 2
    words = f"{sport} > {dport} [{' '.join(flags)}] seq={seq}"
    if "ACK" in flags:
        words += f" ack={ack}"
    words += f" win={window} len={len(packet) - at - doff}"
    options = ", ".join(_options(packet[at + 20 : at + doff]))
    return f"{words} <{options}>" if options else words


def _options(data: bytes) -> Iterator[str]:
    at = 0
    while at < len(data) and data[at]:
        if data[at] == 1:
            at += 1
            continue
        kind, size = data[at], data[at + 1]
        name = OPTIONS.get(kind, f"option {kind}")
        value = data[at + 2 : at + size]
        if kind == 8:
            yield f"{name} {int.from_bytes(value[:4], 'big')} {int.from_bytes(value[4:], 'big')}"
        else:
            yield f"{name} {int.from_bytes(value, 'big')}" if value else name
        at += size


def walk(
    say: Callable[[str], object] = print,
    *,
    ipv6: bool = False,
    cookies: bool = False,
    functions: bool = True,
    capture: str | None = None,
) -> None:
    """Tell the life of a connection between two hosts in memory, line by line.

    Parameters
    ----------
    say
        Takes a line.
    ipv6
        Over IPv6.
    cookies
        The server answers every SYN with a cookie, and keeps no request.
    functions
        Tell the functions passed too.
    capture
        Path of a pcapng to write what was sent to.
    """
    made = Walk(say, ipv6, cookies, functions)
    if capture is not None:
        made.network.tap(capture)
    made.run()


def add(verbs: Any, formatter: Any) -> None:
    """Add the verb to the command."""
    verb = verbs.add_parser(
        "handshake",
        formatter_class=formatter,
        help="show the handshake of two hosts in memory, packet by packet",
        description="Let two hosts in memory connect and close, and print each packet with the "
        "functions that the engine passes and the states on both sides. docs/handshake.md "
        "explains what is seen.",
    )
    verb.set_defaults(parser=verb, run=_run)
    verb.add_argument("--ipv6", action="store_true", help="over IPv6")
    verb.add_argument(
        "--cookies", action="store_true", help="the server answers with SYN cookies, and keeps none"
    )
    verb.add_argument("--brief", action="store_true", help="packets and states, no functions")
    verb.add_argument("-o", "--out", metavar="OUT", help="write the packets as pcapng too")


def _run(args: argparse.Namespace) -> int:
    walk(ipv6=args.ipv6, cookies=args.cookies, functions=not args.brief, capture=args.out)
    return 0
