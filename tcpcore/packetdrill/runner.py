"""One script against one target: events in their order and time, packets put in and asked for."""

from __future__ import annotations

import ipaddress
from collections import deque
from typing import TYPE_CHECKING

from tcpcore.packetdrill.code import Snippets
from tcpcore.packetdrill.flow import Flow, line_words
from tcpcore.packetdrill.icmp import icmp_packet
from tcpcore.packetdrill.lexer import ScriptError
from tcpcore.packetdrill.match import continues, difference, merge
from tcpcore.packetdrill.packet import (
    ACK,
    ECN_BITS,
    RST,
    SYN,
    Segment,
    dissect,
    option_bytes,
    parse_options,
)
from tcpcore.packetdrill.script import (
    Code,
    Command,
    Event,
    IcmpPacket,
    OtherPacket,
    Packet,
    Script,
    SystemCall,
    TcpOption,
    TcpPacket,
)
from tcpcore.packetdrill.syscalls import Calls
from tcpcore.packetdrill.target import Failure, Pending, Target, Unsupported

if TYPE_CHECKING:
    from tcpcore.packetdrill.options import Config

SEC_US = 1_000_000
PATIENCE_US = 2 * SEC_US  # how long after its time a packet may come, to be told late
CALL_PATIENCE_US = SEC_US  # what a call that blocks is waited for at the next one
RECENT = 10
EPHEMERAL = 49152  # the peer's ports


class Runner:
    """What the script knows: sockets, numbers, time."""

    def __init__(self, script: Script, config: Config, target: Target, verbose: bool) -> None:
        self.script = script
        self.config = config
        self.target = target
        self.family = 10 if config.ip_version == "ipv4-mapped-ipv6" else 2
        prefix = "::ffff:" if self.family == 10 else ""
        self.local = prefix + config.local_ip, config.bind_port
        self.remote = prefix + config.remote_ip, config.connect_port
        self.local_packed = ipaddress.ip_address(config.local_ip).packed
        self.remote_packed = ipaddress.ip_address(config.remote_ip).packed
        self.calls = Calls(self)
        self.snippets = Snippets(script.name)
        self.md5_key = b""  # of the last TCP_MD5SIG that had one
        self.flows: list[Flow] = []
        self.flow: Flow | None = None  # the socket under test
        self.blocked: tuple[Pending, Event, int, int] | None = None
        self.children = 0
        self.now_us = 0  # where a relative time begins
        self.before_us = 0  # the event before, in script time
        self.tolerance_us = 0
        self.recent: deque[str] = deque(maxlen=RECENT)
        self.verbose = verbose
        self.log: list[str] = []
        self.warnings: list[str] = []
        self.event: Event | None = None

    # Sockets.

    def new_flow(self, fd: int) -> None:
        """A new socket is the one under test."""
        self.flow = Flow(fd=fd)
        self.flows.append(self.flow)

    def flow_of(self, fd: int) -> Flow | None:
        """The newest one with a descriptor."""
        return next((one for one in reversed(self.flows) if one.fd == fd), None)

    def accepted(self, fd: int, peer: tuple[str, int]) -> None:
        """The newest child without a descriptor gets one."""
        for flow in reversed(self.flows):
            if flow.state == "passive" and flow.fd is None:
                break
        else:
            raise Failure(f"accept: nobody has connected, but {peer} was accepted")
        expected = self.remote[0], flow.remote_port
        if peer != expected:
            raise Failure(f"accept: the peer is {peer}, not {expected}")
        flow.fd = fd

    def closed(self, fd: int) -> None:
        """A descriptor is free for another."""
        for flow in self.flows:
            if flow.fd == fd:
                flow.fd = None
                if flow.state == "passive":
                    flow.state = "closed"
        self.flows = [flow for flow in self.flows if flow.fd is not None or flow.state == "passive"]

    def child(self) -> Flow:
        """Somebody connects."""
        self.flow = Flow("passive", local_port=self.config.bind_port)
        self.flow.remote_port = EPHEMERAL + self.children % (65536 - EPHEMERAL)
        self.children += 1
        self.flows.append(self.flow)
        return self.flow

    # Time.

    def resolve(self, event: Event) -> tuple[int, int]:
        """Start and end of an event's time, us since the script's start."""
        time = event.time
        base = self.now_us if time.kind == "relative" else 0
        start = base + time.start_us
        end = start if time.end_us is None else base + time.end_us
        if time.kind == "absolute" and start < self.before_us:
            raise ScriptError("time goes backwards")
        share = self.config.tolerance_percent * (start - self.before_us) / 100
        self.tolerance_us = max(self.config.tolerance_usecs, round(share))
        return start, end

    def check_time(self, what: str, start: int, end: int, seen: int, tolerance: int) -> None:
        """Whether something was in time."""
        if start - tolerance <= seen <= end + tolerance:
            return
        words = f"{start / SEC_US:.6f}"
        if end != start:
            words += f"~{end / SEC_US:.6f}"
        raise Failure(
            f"time of the {what}: expected {words}, was {seen / SEC_US:.6f}, "
            f"tolerance {tolerance / SEC_US:.6f}"
        )

    # The script.

    def run(self) -> None:
        """All of it; raises what ends it early."""
        for path in filter(None, self.config.init_scripts.split(",")):
            self.target.shell(path)
        if self.script.init:
            self.target.shell(self.script.init)
        actions = (event.action for event in self.script.events)
        self.snippets.prepare(one for one in actions if isinstance(one, Code))
        self.target.begin()
        inbound_before = False
        for event in self.script.events:
            self.event = event
            inbound = isinstance(event.action, (TcpPacket, IcmpPacket)) and event.action.inbound
            if isinstance(event.action, Packet) and not inbound:
                self.outbound(event)
                inbound_before = False
                continue
            start, end = self.resolve(event)
            self.target.wait_until(start)
            self.settle()
            self.check_time("event", start, start, self.target.now_us(), self.tolerance_us)
            self.now_us = start if inbound and inbound_before else self.target.now_us()
            inbound_before = inbound
            self.before_us = start
            self.perform(event, start, end)
            if self.config.event_cost_usecs:
                self.target.wait_until(self.target.now_us() + self.config.event_cost_usecs)
        if self.blocked:
            self.finish_blocked()

    def perform(self, event: Event, start: int, end: int) -> None:
        """An event that is not an outbound packet."""
        action = event.action
        if isinstance(action, TcpPacket):
            self.inbound(action)
        elif isinstance(action, IcmpPacket):
            self.inject(icmp_packet(action, self.flow or Flow(), self.config), 0)
            self.show("<", self.target.now_us(), "icmp")
        elif isinstance(action, SystemCall):
            self.call(event, action, start, end)
        elif isinstance(action, Command):
            self.say(f"{start / SEC_US:.6f} `{action.text}`")
            self.target.shell(action.text)
            self.now_us = self.target.now_us()  # a shell takes its time
        elif isinstance(action, Code):
            self.code(action)

    def finish(self) -> None:
        """The cleanup command, however the script ended."""
        cleanup = self.script.cleanup
        if cleanup and isinstance(cleanup.action, Command):
            self.target.shell(cleanup.action.text)

    def code(self, snippet: Code) -> None:
        """Run a snippet with what is known of the socket under test."""
        fd = None if self.flow is None or self.flow.fd is None else self.flow.fd
        live = None if fd is None else self.calls.fds.get(fd)
        if live is None:
            raise Failure("a snippet needs a socket under test that is open")
        self.snippets.run(snippet, self.target.info(live))

    # Calls.

    def call(self, event: Event, call: SystemCall, start: int, end: int) -> None:
        """Make a call; one that blocks is left alone until it has returned."""
        if self.blocked:
            self.finish_blocked()
        blocking = event.time.blocking
        if call.name in ("connect", "sendto", "sendmsg") and call.arguments:
            self.opens(call)
        pending = self.calls.begin(call, blocking)
        if blocking and pending.answer is None and pending.error is None:
            self.blocked = pending, event, start, end
            return
        self.returned(pending, event, start, end)

    def opens(self, call: SystemCall) -> None:
        """A socket that was new may send a SYN now."""
        fd = call.arguments[0]
        flow = self.flow_of(fd) if isinstance(fd, int) else None
        if flow is not None and flow.state == "new":
            fresh = Flow("active", fd=flow.fd, remote_port=self.config.connect_port)
            for name in vars(fresh):
                setattr(flow, name, getattr(fresh, name))

    def returned(self, pending: Pending, event: Event, start: int, end: int) -> None:
        """A call is back."""
        self.event = event
        if pending.error is not None:
            raise pending.error
        if pending.answer is None:
            raise Failure("the call blocks; it has no time at which it returns")
        assert isinstance(event.action, SystemCall)
        self.say(f"{pending.time_us / SEC_US:.6f} {event.action.name} = {pending.answer.value}")
        try:
            self.calls.check(event.action, pending.answer)
        except Failure as failure:
            if self.config.is_fatal("syscall"):
                raise
            self.warnings.append(f"{event.line}: {failure}")
        if event.time.blocking:
            share = self.config.tolerance_percent * (end - start) / 100
            tolerance = max(self.config.tolerance_usecs, round(share))
            self.check_time("return", end, end, pending.time_us, tolerance)

    def settle(self) -> None:
        """Look whether a call that blocked has returned meanwhile."""
        if self.blocked and (self.blocked[0].answer or self.blocked[0].error):
            blocked, event, self.blocked = self.blocked, self.event, None
            self.returned(*blocked)
            self.event = event

    def finish_blocked(self) -> None:
        """Wait for a call that blocks, as long as is right."""
        assert self.blocked
        blocked, event, self.blocked = self.blocked, self.event, None
        pending, its_event, start, end = blocked
        limit = max(self.target.now_us(), end) + CALL_PATIENCE_US
        if not self.target.wait_call(pending, limit):
            self.event = its_event
            raise Failure("the call does not return")
        self.returned(pending, its_event, start, end)
        self.event = event
        self.now_us = max(self.now_us, self.target.now_us())

    # Packets.

    def inbound(self, line: TcpPacket) -> None:
        """Make a packet and let it arrive."""
        flow = self.flow
        if flow is None or flow.state in ("listening", "new"):
            flow = self.child()
            flow.remote_isn = line.seq
        elif flow.state == "active" and line.flags & SYN and not flow.synced:
            flow.remote_isn = line.seq
        if flow.local_port is None and line.ports is None:
            self.look_for_syn(flow)
        made = Segment()
        made.source, made.destination = self.remote_packed, self.local_packed
        made.sport, made.dport = line.ports or (flow.remote_port or 0, flow.local_port or 0)
        syn = bool(line.flags & SYN)
        made.flags = line.flags
        made.seq = flow.remote(line.seq, syn)
        made.ack = flow.local(line.ack, syn) if line.flags & ACK else line.ack
        made.window, made.urg = line.window or 0, line.urg
        try:
            options = flow.inbound_options(line, self.config.tcp_ts_ecr_scaled)
        except ValueError as error:
            raise Failure(str(error)) from None
        made.raw_options = b"".join(option_bytes(one) for one in options)
        made.payload = bytes(line.length)
        if any(one.name == "md5" and one.values for one in options):
            signed = TcpOption("md5", blob=made.md5(self.md5_key))
            options = [signed if one.name == "md5" and one.values else one for one in options]
            made.raw_options = b"".join(option_bytes(one) for one in options)
        if 40 + len(made.raw_options) + line.length > 0xFFFF:
            raise Failure("the packet is longer than IPv4 can say")
        made.tos = line.tos if line.tos is not None else 0
        if line.ecn is not None:
            made.tos = made.tos & ~3 | ECN_BITS[line.ecn]
        made.ttl = 255 if line.ttl is None else line.ttl
        self.show("<", self.target.now_us(), line_words(line))
        aggregated = self.config.mss and line.length > self.config.mss
        self.inject(made.build(), self.config.mss if aggregated else 0)

    def look_for_syn(self, flow: Flow) -> None:
        """The stack's port, of a SYN that no line has asked for."""
        for one in self.target.sent:
            seen = dissect(one.packet, one.time_us, one.offloaded)
            if seen is not None and self.opens_flow(flow, seen):
                flow.local_port = seen.sport
        if flow.local_port is None:
            raise Failure("the packet has nowhere to go: the socket has sent no SYN")

    def inject(self, packet: bytes, gso_size: int) -> None:
        if self.target.tap:
            self.target.tap(self.target.now_us(), packet)
        self.target.inject(packet, gso_size)

    def outbound(self, event: Event) -> None:
        """Ask for a packet: the next that the socket under test sends must be this one."""
        line = event.action
        if not isinstance(line, TcpPacket):
            what = line.what if isinstance(line, OtherPacket) else "outbound ICMP"
            raise Unsupported(f"packets of {what}")
        start, end = self.resolve(event)
        any_time = event.time.kind == "any"
        limit = None if any_time else end + self.tolerance_us + PATIENCE_US
        parts = self.collect(line, limit)
        if not parts:
            late = "" if any_time else f" by {(end + self.tolerance_us) / SEC_US:.6f}"
            raise Failure("no packet came" + late, [f"script packet: {line_words(line)}"])
        seen = merge(parts)
        assert self.flow is not None
        self.flow.learn(line, seen)
        self.show(">", seen.time_us, self.flow.words(seen))
        self.settle()
        self.compare(event, line, seen, start)
        if line.options:
            self.remember_timestamps(line, seen)
        if not any_time:
            try:
                self.check_time("packet", start, end, seen.time_us, self.tolerance_us)
            except Failure as failure:
                self.differs(line, seen, str(failure))
        if not seen.flags & (SYN | RST) and seen.flags & ACK:
            self.flow.synced = True
        self.now_us = max(self.now_us, seen.time_us)
        self.before_us = self.now_us if any_time else start

    def compare(self, event: Event, line: TcpPacket, seen: Segment, start: int) -> None:
        """Hold a packet against its line."""
        assert self.flow is not None
        ticks = None
        if self.config.tcp_ts_tick_usecs:
            share = round(self.config.tolerance_percent * start / 100)
            tolerance = max(self.config.tolerance_usecs, share)
            ticks = tolerance // self.config.tcp_ts_tick_usecs
        found = difference(self.flow, line, seen, ticks, self.md5_key)
        if found:
            self.differs(line, seen, f"packet differs in {found}")

    def differs(self, line: TcpPacket, seen: Segment, words: str) -> None:
        """A packet is not as it should be."""
        assert self.flow is not None
        if not self.config.is_fatal("packet"):
            self.warnings.append(f"{self.event.line if self.event else 0}: {words}")
            return
        at = f"{seen.time_us / SEC_US:.6f}"
        details = [
            f"script packet: {at} {line_words(line)}",
            f"actual packet: {at} {self.flow.words(seen)}",
        ]
        raise Failure(words, details)

    def remember_timestamps(self, line: TcpPacket, seen: Segment) -> None:
        def value(options: list[TcpOption] | None) -> int | None:
            return next((one.values[0] for one in options or [] if one.name == "TS"), None)

        script, live = value(line.options), value(parse_options(seen.raw_options))
        if script is not None and live is not None and self.flow is not None:
            self.flow.learn_timestamp(script, live)

    def collect(self, line: TcpPacket, limit: int | None) -> list[Segment]:
        """The packet or packets of one line; those of other sockets are thrown away."""
        first = self.next_packet(line, limit)
        if first is None:
            return []
        parts = [first]
        size = len(first.payload)
        while 0 < size < line.length and not self.config.strict_segments:
            following = self.next_packet(line, limit, peek=True)
            if following is None or not continues(first, parts[-1], following):
                break
            self.target.sent.popleft()
            parts.append(following)
            size += len(following.payload)
        return parts

    def next_packet(self, line: TcpPacket, limit: int | None, peek: bool = False) -> Segment | None:
        """The next one of the socket under test."""
        while True:
            while self.target.sent:
                one = self.target.sent[0]
                seen = dissect(one.packet, one.time_us, one.offloaded)
                if seen is None or not self.belongs(line, seen):
                    self.target.sent.popleft()
                    continue
                if not peek:
                    self.target.sent.popleft()
                return seen
            if not self.target.wait_packet(limit):
                return None

    def belongs(self, line: TcpPacket, seen: Segment) -> bool:
        """Whether a packet is of the socket under test."""
        if seen.source != self.local_packed or seen.destination != self.remote_packed:
            return False
        ports = seen.sport, seen.dport
        if line.ports is not None and ports != line.ports:
            return False
        flow = self.flow
        if flow is None:
            return False
        if self.opens_flow(flow, seen):
            if flow.local_port != seen.sport:
                flow.local_port, flow.local_isn = seen.sport, None
            return True
        return line.ports is not None or ports == (flow.local_port, flow.remote_port)

    def opens_flow(self, flow: Flow, seen: Segment) -> bool:
        """Whether a packet is the SYN of a socket that connects."""
        return (
            flow.state == "active"
            and not flow.synced
            and seen.flags & (SYN | ACK) == SYN
            and seen.dport == self.config.connect_port
        )

    # What is told.

    def show(self, direction: str, time_us: int, words: str) -> None:
        """Keep a packet for the report."""
        text = f"{time_us / SEC_US:.6f} {direction} {words}"
        self.recent.append(text)
        self.say(text)

    def say(self, text: str) -> None:
        if self.verbose:
            self.log.append(text)

    def left_over(self) -> list[str]:
        """Packets of the socket under test that nobody has asked for."""
        found = []
        for one in list(self.target.sent)[:RECENT]:
            seen = dissect(one.packet, one.time_us, one.offloaded)
            if seen is None or self.flow is None:
                continue
            if (seen.sport, seen.dport) == (self.flow.local_port, self.flow.remote_port):
                found.append(f"{one.time_us / SEC_US:.6f} > {self.flow.words(seen)}")
        return found
