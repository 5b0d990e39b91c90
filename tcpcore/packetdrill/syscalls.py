"""System calls: a script's arguments to real ones, and what came back held against the script."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from tcpcore.packetdrill.constants import CONSTANTS
from tcpcore.packetdrill.lexer import ScriptError
from tcpcore.packetdrill.script import REST, Listing, Name, Struct, SystemCall, Text
from tcpcore.packetdrill.target import Answer, Failure, Pending, Unsupported
from tcpcore.packetdrill.values import (
    address,
    boxed,
    errno_name,
    integer,
    iovec,
    length,
    listing,
    number,
    octets,
    option_value,
    structure,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tcpcore.packetdrill.runner import Runner

DUPLICATES = CONSTANTS["F_DUPFD"], CONSTANTS["F_DUPFD_CLOEXEC"]
MAKES_DESCRIPTOR = ("socket", "accept", "accept4", "open", "epoll_create", "epoll_create1")
UNSUPPORTED = ("psp_rx_assoc", "psp_tx_assoc", "cap_set", "mmap", "sched_setaffinity")
CALLS = {
    "accept", "accept4", "bind", "close", "connect", "epoll_create", "epoll_ctl", "epoll_wait",
    "fcntl", "getsockopt", "ioctl", "listen", "open", "pipe", "poll", "read", "readv", "recv",
    "recvfrom", "recvmsg", "send", "sendfile", "sendmsg", "sendto", "setsockopt", "shutdown",
    "socket", "splice", "write", "writev",
}  # fmt: skip
OPTION_MAX = 65536  # bytes that getsockopt has room for
SK_EE = struct.Struct("=IBBBBII")
STATS_TIMES = ("TCP_NLA_BUSY", "TCP_NLA_RWND_LIMITED", "TCP_NLA_SNDBUF_LIMITED")
Made = tuple[str, tuple[Any, ...]]


class Calls:
    """The calls of one script: which descriptor is which, and how each is made and checked."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.fds: dict[int, int] = {}  # the script's name: the live one

    def begin(self, call: SystemCall, blocking: bool) -> Pending:
        """Make a call."""
        if call.name in UNSUPPORTED:
            raise Unsupported(f"the call {call.name}")
        if call.name not in CALLS:
            raise ScriptError(f"unknown system call {call.name}")
        prepare: Callable[..., Made] = getattr(self, f"_{call.name}")
        try:
            name, arguments = prepare(*call.arguments, **self._wants_fault(call))
        except TypeError as error:
            if "positional argument" not in str(error):
                raise
            raise ScriptError(f"{call.name} does not take these arguments") from None
        return self.runner.target.start(name, arguments, blocking)

    def _wants_fault(self, call: SystemCall) -> dict[str, Any]:
        """A null pointer is one where the script waits for EFAULT; else it is any buffer."""
        if call.errno == "EFAULT" and call.name in ("write", "send", "sendto", "read", "recv"):
            return {"fault": True}
        return {}

    def _live(self, fd: Any) -> int:
        """A live descriptor; one that the script has not is passed on as it is."""
        value = integer(fd, "a descriptor")
        return self.fds.get(value, -1 if value < 0 else min(value + 100000, 0x7FFFFFFF))

    # What the calls make of their arguments.

    def _socket(self, domain: Any, kind: Any, protocol: Any) -> Made:
        family = self.runner.family if domain is REST else integer(domain)
        return "socket", (family, integer(kind), integer(protocol))

    def _bind(self, fd: Any, where: Any, size: Any) -> Made:
        local = self.runner.local
        return "bind", (self._live(fd), local if where is REST else address(where))

    def _listen(self, fd: Any, backlog: Any) -> Made:
        return "listen", (self._live(fd), integer(backlog))

    def _accept(self, fd: Any, where: Any, size: Any) -> Made:
        return "accept", (self._live(fd), 0)

    def _accept4(self, fd: Any, where: Any, size: Any, flags: Any) -> Made:
        return "accept", (self._live(fd), integer(flags))

    def _connect(self, fd: Any, where: Any, size: Any) -> Made:
        return "connect", (self._live(fd), self._peer(where))

    def _peer(self, where: Any) -> Any:
        return self.runner.remote if where is REST else address(where)

    def _read(self, fd: Any, buffer: Any, size: Any, fault: bool = False) -> Made:
        return "read", (self._live(fd), length(size), fault)

    def _write(self, fd: Any, buffer: Any, size: Any, fault: bool = False) -> Made:
        return "write", (self._live(fd), length(size), fault)

    def _readv(self, fd: Any, pieces: Any, count: Any) -> Made:
        return "readv", (self._live(fd), iovec(pieces, count))

    def _writev(self, fd: Any, pieces: Any, count: Any) -> Made:
        return "writev", (self._live(fd), iovec(pieces, count))

    def _recv(self, fd: Any, buffer: Any, size: Any, flags: Any, fault: bool = False) -> Made:
        return "recv", (self._live(fd), length(size), integer(flags), fault)

    def _recvfrom(self, fd: Any, buffer: Any, size: Any, flags: Any, where: Any, room: Any) -> Made:
        return "recv", (self._live(fd), length(size), integer(flags), False)

    def _send(self, fd: Any, buffer: Any, size: Any, flags: Any, fault: bool = False) -> Made:
        return "send", (self._live(fd), length(size), integer(flags), fault)

    def _sendto(
        self,
        fd: Any,
        buffer: Any,
        size: Any,
        flags: Any,
        where: Any,
        room: Any,
        fault: bool = False,
    ) -> Made:
        made = self._live(fd), length(size), integer(flags), self._sendto_peer(where), fault
        return "sendto", made

    def _sendto_peer(self, where: Any) -> Any:
        """None where there is no address, '' for AF_UNSPEC."""
        if isinstance(where, Name) and where.name == "NULL":
            return None
        return self._peer(where) or ""

    def _recvmsg(self, fd: Any, header: Any, flags: Any) -> Made:
        head = structure(header, "a message's header", "msg_iov")
        sizes = iovec(head.fields["msg_iov"], head.counts.get("msg_iov"))
        return "recvmsg", (self._live(fd), sizes, integer(flags))

    def _sendmsg(self, fd: Any, header: Any, flags: Any) -> Made:
        head = structure(header, "a message's header", "msg_iov")
        sizes = iovec(head.fields["msg_iov"], head.counts.get("msg_iov"))
        if integer(head.fields.get("msg_flags", 0)):
            raise ScriptError("msg_flags of sendmsg must be 0")
        control = []
        for one in listing(head.fields.get("msg_control", REST), "msg_control"):
            fields = structure(one, "a control message", "cmsg_level", "cmsg_type").fields
            value = integer(fields.get("cmsg_data", 0), "cmsg_data") & 0xFFFFFFFF
            level, kind = integer(fields["cmsg_level"]), integer(fields["cmsg_type"])
            control.append((level, kind, value.to_bytes(4, "little")))
        to = self.runner.remote if head.fields.get("msg_name") is REST else None
        return "sendmsg", (self._live(fd), sizes, integer(flags), to, control)

    def _close(self, fd: Any) -> Made:
        return "close", (self._live(fd),)

    def _shutdown(self, fd: Any, how: Any) -> Made:
        return "shutdown", (self._live(fd), integer(how))

    def _setsockopt(self, fd: Any, level: Any, name: Any, value: Any, size: Any) -> Made:
        data = option_value(value)
        if isinstance(value, Struct) and isinstance(value.fields.get("tcpm_key"), Text):
            self.runner.md5_key = octets(value.fields["tcpm_key"].text)
        room = integer(size) if size is not REST else len(data or b"")
        if data is not None and room >= 0:
            data = data[:room].ljust(min(room, 4096), b"\0")
        return "setsockopt", (self._live(fd), integer(level), integer(name), data, room)

    def _getsockopt(self, fd: Any, level: Any, name: Any, value: Any, size: Any) -> Made:
        room = min(integer(boxed(size, "the option's length")), OPTION_MAX)
        if not isinstance(value, Text):
            room = max(room, 4) if not isinstance(value, Struct) else 8
        return "getsockopt", (self._live(fd), integer(level), integer(name), room)

    def _fcntl(self, fd: Any, command: Any, argument: Any = 0) -> Made:
        return "fcntl", (self._live(fd), integer(command), integer(argument))

    def _ioctl(self, fd: Any, request: Any, value: Any = 0) -> Made:
        return "ioctl", (self._live(fd), integer(request))

    def _poll(self, pollfds: Any, count: Any, timeout: Any) -> Made:
        wanted = []
        for one in listing(pollfds, "a list of pollfd"):
            fields = structure(one, "a pollfd", "fd", "events").fields
            wanted.append((self._live(fields["fd"]), integer(fields["events"]) & 0xFFFF))
        if integer(count) != len(wanted):
            raise ScriptError(f"{len(wanted)} pollfd, but a count of {integer(count)}")
        return "poll", (wanted, integer(timeout))

    def _epoll_create(self, size: Any) -> Made:
        return "epoll_create", (integer(size),)

    def _epoll_ctl(self, ep: Any, op: Any, fd: Any, event: Any = 0) -> Made:
        events, data = 0, 0
        if isinstance(event, Struct):
            fields = structure(event, "an epoll_event", "events").fields
            events = integer(fields["events"]) & 0xFFFFFFFF
            data = self._epoll_data(fields)
            if "fd" in fields and integer(fields["fd"]) != integer(fd):
                raise ScriptError("epoll_ctl: two different descriptors")
        return "epoll_ctl", (self._live(ep), integer(op), self._live(fd), events, data)

    def _epoll_data(self, fields: dict[str, Any]) -> int:
        keys = [key for key in ("fd", "ptr", "u32", "u64") if key in fields]
        return number(fields[keys[0]]) & ((1 << 64) - 1) if keys else 0

    def _epoll_wait(self, ep: Any, event: Any, most: Any, timeout: Any) -> Made:
        return "epoll_wait", (self._live(ep), integer(most), integer(timeout))

    def _open(self, path: Any, flags: Any, mode: Any = 0) -> Made:
        if not isinstance(path, Text):
            raise ScriptError("open: a path is a string")
        return "open", (path.text, integer(flags))

    def _sendfile(self, out: Any, source: Any, offset: Any, size: Any) -> Made:
        at = None
        if isinstance(offset, Listing) and offset.items:
            at = boxed(offset, "the offset")
        return "sendfile", (self._live(out), self._live(source), at, length(size))

    def _pipe(self, ends: Any) -> Made:
        return "pipe", ()

    def _splice(self, source: Any, at: Any, out: Any, out_at: Any, size: Any, flags: Any) -> Made:
        return "splice", (self._live(source), self._live(out), length(size), integer(flags))

    # What came back.

    def check(self, call: SystemCall, answer: Answer) -> None:
        """Hold an answer against the script, and take in what it tells.

        Raises
        ------
        Failure
            If it is another one.
        """
        self._check_result(call, answer)
        check: Callable[..., None] | None = getattr(self, f"_after_{call.name}", None)
        if check is not None:
            check(call, answer)

    def _check_result(self, call: SystemCall, answer: Answer) -> None:
        wanted = None if call.result is REST else number(call.result, "the result")
        seen = answer.value
        told = str(seen) if seen >= 0 else f"-1 {errno_name(seen)}"
        if wanted is None:
            return
        if wanted < 0:
            expected = f"{wanted} {call.errno or ''}".strip()
            if seen >= 0:
                raise Failure(f"{call.name}: expected {expected}, returned {told}")
            if call.errno is not None and CONSTANTS.get(call.errno) != -seen:
                raise Failure(f"{call.name}: expected {expected}, returned {told}")
            return
        creates = call.name in MAKES_DESCRIPTOR or (
            call.name == "fcntl" and integer(call.arguments[1]) in DUPLICATES
        )
        if seen < 0 or (not creates and seen != wanted):
            raise Failure(f"{call.name}: expected {wanted}, returned {told}")
        if creates:
            if wanted in self.fds:
                raise ScriptError(f"descriptor {wanted} is open already")
            self.fds[wanted] = seen

    def _after_socket(self, call: SystemCall, answer: Answer) -> None:
        if answer.value >= 0:
            self.runner.new_flow(number(call.result))

    def _after_listen(self, call: SystemCall, answer: Answer) -> None:
        flow = self.runner.flow_of(number(call.arguments[0]))
        if answer.value >= 0 and flow is not None:
            flow.state = "listening"

    def _after_accept(self, call: SystemCall, answer: Answer) -> None:
        if answer.value >= 0:
            self.runner.accepted(number(call.result), answer.extra)

    _after_accept4 = _after_accept

    def _after_close(self, call: SystemCall, answer: Answer) -> None:
        fd = number(call.arguments[0])
        if answer.value >= 0:
            self.fds.pop(fd, None)
            self.runner.closed(fd)

    def _after_getsockopt(self, call: SystemCall, answer: Answer) -> None:
        if answer.value < 0:
            return
        value = call.arguments[3]
        data: bytes = answer.extra
        size = boxed(call.arguments[4], "the option's length")
        if len(data) != size:
            raise Failure(f"getsockopt: expected {size} bytes, got {len(data)}")
        if isinstance(value, Text):
            wanted = octets(value.text)
            seen = data[: len(wanted)] if value.open else data
            if seen.rstrip(b"\0") != wanted.rstrip(b"\0"):
                raise Failure(f"getsockopt: expected {wanted!r}, got {data!r}")
        elif isinstance(value, Struct) or (isinstance(value, Listing) and len(value.items) > 1):
            wanted_data = option_value(value)
            if data != wanted_data:
                raise Failure(f"getsockopt: expected {wanted_data!r}, got {data!r}")
        elif value is not REST:
            seen_number = int.from_bytes(data[:4], "little", signed=True)
            number_wanted = boxed(value)
            if (seen_number - number_wanted) & 0xFFFFFFFF:
                raise Failure(f"getsockopt: expected [{number_wanted}], got [{seen_number}]")

    def _after_ioctl(self, call: SystemCall, answer: Answer) -> None:
        if answer.value < 0 or len(call.arguments) < 3 or call.arguments[2] is REST:
            return
        wanted = boxed(call.arguments[2])
        if answer.extra != wanted:
            raise Failure(f"ioctl: expected [{wanted}], got [{answer.extra}]")

    def _after_poll(self, call: SystemCall, answer: Answer) -> None:
        if answer.value < 0:
            return
        for one, seen in zip(listing(call.arguments[0], "pollfds"), answer.extra, strict=True):
            wanted = number(structure(one, "a pollfd").fields.get("revents", 0))
            if wanted != seen:
                fd = number(one.fields["fd"])
                raise Failure(
                    f"poll: revents of {fd}: expected {poll_words(wanted)}, got {poll_words(seen)}"
                )

    def _after_epoll_wait(self, call: SystemCall, answer: Answer) -> None:
        if answer.value < 0 or not isinstance(call.arguments[1], Struct):
            return
        fields = structure(call.arguments[1], "an epoll_event", "events").fields
        events, data = answer.extra[0] if answer.extra else (0, 0)
        wanted = number(fields["events"])
        if events != wanted:
            raise Failure(f"epoll_wait: expected {poll_words(wanted)}, got {poll_words(events)}")
        if data != self._epoll_data(fields):
            raise Failure(f"epoll_wait: expected data {self._epoll_data(fields)}, got {data}")

    def _after_pipe(self, call: SystemCall, answer: Answer) -> None:
        if answer.value >= 0:
            names = listing(call.arguments[0], "the ends of a pipe")
            if len(names) != 2:
                raise ScriptError("a pipe has two ends")
            for name, live in zip(names, answer.extra, strict=True):
                self.fds[number(name)] = live

    def _after_connect(self, call: SystemCall, answer: Answer) -> None:
        flow = self.runner.flow_of(number(call.arguments[0]))
        if flow is not None and self._peer(call.arguments[1]) is None:
            flow.state = "new"

    def _after_recvmsg(self, call: SystemCall, answer: Answer) -> None:
        if answer.value < 0:
            return
        fields = structure(call.arguments[1], "a message's header").fields
        flags, messages = answer.extra
        if "msg_flags" in fields:
            wanted = number(fields["msg_flags"])
            if wanted != flags:
                raise Failure(f"recvmsg: msg_flags: expected {wanted:#x}, got {flags:#x}")
        if fields.get("msg_control", REST) is REST:
            return
        lines = listing(fields["msg_control"], "msg_control")
        if len(lines) != len(messages):
            raise Failure(f"recvmsg: expected {len(lines)} messages, got {len(messages)}")
        for line, message in zip(lines, messages, strict=True):
            self._check_message(line, message)

    def _check_message(self, line: Any, message: tuple[int, int, bytes]) -> None:
        fields = structure(line, "a control message", "cmsg_level", "cmsg_type").fields
        level, kind, data = message
        wanted = number(fields["cmsg_level"]), number(fields["cmsg_type"])
        if wanted != (level, kind):
            raise Failure(f"recvmsg: expected message {wanted}, got {(level, kind)}")
        value = fields.get("cmsg_data", REST)
        if value is REST:
            return
        if not isinstance(value, Struct):
            seen = int.from_bytes(data[:4], "little", signed=True)
            if seen != number(value):
                raise Failure(f"recvmsg: cmsg_data: expected {number(value)}, got {seen}")
        elif "ee_errno" in value.fields:
            names = ("ee_errno", "ee_origin", "ee_type", "ee_code", "", "ee_info", "ee_data")
            for name, seen in zip(names, SK_EE.unpack_from(data), strict=True):
                if name and name in value.fields and value.fields[name] is not REST:
                    expected = number(value.fields[name])
                    if expected != seen:
                        raise Failure(f"recvmsg: {name}: expected {expected}, got {seen}")
        elif "scm_sec" in value.fields:
            self._check_stamp(value, data)
        else:
            self._check_stats(value, data)

    def _check_stamp(self, value: Struct, data: bytes) -> None:
        wanted = number(value.fields["scm_sec"]) * 1_000_000_000
        wanted += number(value.fields.get("scm_nsec", 0))
        seconds, nanoseconds = struct.unpack_from("=qq", data)
        seen = self.runner.target.stamp_ns(seconds * 1_000_000_000 + nanoseconds)
        tolerance = self.runner.config.tolerance_usecs * 1000
        if wanted and abs(seen - wanted) > tolerance:
            raise Failure(f"recvmsg: timestamp: expected {wanted} ns, got {seen} ns")

    def _check_stats(self, value: Struct, data: bytes) -> None:
        seen = {}
        while len(data) >= 4:
            size, kind = struct.unpack_from("=HH", data)
            if size < 4:
                break
            seen[kind & 0x3FFF] = int.from_bytes(data[4:size], "little")
            data = data[(size + 3) & ~3 :]
        for name, wanted in value.fields.items():
            if wanted is REST:
                continue
            got = seen.get(CONSTANTS.get(name, -1))
            tolerance = self.runner.config.tolerance_usecs if name in STATS_TIMES else 0
            expected = number(wanted)
            if got is None or abs(got - expected) > tolerance * bool(expected):
                raise Failure(f"recvmsg: {name}: expected {expected}, got {got}")


def poll_words(events: int) -> str:
    """Bits of poll(2) by their names."""
    names = ("IN", "PRI", "OUT", "ERR", "HUP", "NVAL", "RDHUP")
    words = [f"POLL{name}" for name in names if events & CONSTANTS[f"POLL{name}"]]
    known = sum(CONSTANTS[word] for word in words)
    if events & ~known:
        words.append(hex(events & ~known))
    return "|".join(words) or "0"
