"""A tcpcore host in virtual time, as a target: its clock, its wire, its descriptors' calls."""

from __future__ import annotations

import ipaddress
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from tcpcore import engine as engines
from tcpcore.mib import COUNTERS
from tcpcore.packetdrill.constants import SK_MEMINFO
from tcpcore.packetdrill.descriptors import EpollFile, SocketFile
from tcpcore.packetdrill.files import CLOSE, Files
from tcpcore.packetdrill.shell import Shell
from tcpcore.packetdrill.target import Answer, Emitted, Failure, Pending, Target
from tcpcore.sysctl import Sysctl
from tcpcore.transfer import mapped

if TYPE_CHECKING:
    from tcpcore.packetdrill.options import Config

START_NS = 1_000_000_250_000  # a little into a millisecond
KEY = b"tcpcore's script"  # scripts are repeated to the bit
WAIT_MAX_US = 86_400_000_000  # of a line without a time: a day
STEPS_MAX = 1_000_000


class HostTarget(Files, Target):
    """One host of an engine, without a wire: what it sends is for the script.

    An event is a nanosecond earlier for each time that the clock was moved before: so a timer
    that is due at the very time of an event fires after it, as a kernel's, which is rounded up.
    """

    name = "tcpcore"

    def __init__(self, config: Config, engine: str | None = None) -> None:
        Target.__init__(self, config)
        net_class = engines.load_net(engine)
        self.engine = "reference" if "reference" in net_class.__module__ else "compiled"
        self.net: Any = net_class(KEY)
        self.now_ns = START_NS
        self.time_us = 0
        self.moves = 0
        self.blocked: list[Pending] = []
        self.sysctl = Sysctl()
        self.mtu = config.mtu
        self.gso = True
        prefix = ipaddress.ip_interface(f"{config.local_ip}/{config.netmask_ip}")
        peers = ipaddress.ip_network(f"{config.remote_ip}/24", strict=False)
        self.nets = prefix.network, peers, *map(ipaddress.ip_network, ("127.0.0.0/8", "::1"))
        self.local = mapped(prefix.ip.packed)
        self.net.add_address(self.local, 96 + prefix.network.prefixlen)
        self.net.set_link(self.mtu, self.gso)
        for name, value in self.sysctl.items():
            self.net.set_sysctl(name, value)
        self.net.advance(self.now_ns)
        Files.__init__(self)
        self.commands = Shell(self)

    def reaches(self, where: str) -> bool:
        """Whether there is a way to an address: to this host's nets, to the peer's."""
        there = ipaddress.ip_address(where)
        there = getattr(there, "ipv4_mapped", None) or there
        return there.is_unspecified or any(there in net for net in self.nets)

    # Time.

    def begin(self) -> None:
        return  # time stands still until then

    def now_us(self) -> int:
        return self.time_us

    def stamp_ns(self, live_ns: int) -> int:
        return live_ns - START_NS

    def wait_until(self, time_us: int) -> None:
        if time_us <= self.time_us:
            return
        self.moves += 1
        end_ns = START_NS + 1000 * time_us - self.moves
        for _ in range(STEPS_MAX):
            due_ns = self.due_ns()
            if due_ns is None or due_ns > end_ns:
                break
            self.go(due_ns)
        self.go(end_ns)
        self.time_us = time_us

    def wait_packet(self, limit_us: int | None) -> bool:
        limit_us = self.time_us + WAIT_MAX_US if limit_us is None else limit_us
        limit_ns = START_NS + 1000 * limit_us
        for _ in range(STEPS_MAX):
            if self.sent:
                return True
            due_ns = self.due_ns()
            if due_ns is None or due_ns > limit_ns:
                return False
            self.go(due_ns)
        return bool(self.sent)

    def wait_call(self, pending: Pending, limit_us: int) -> bool:
        limit_ns = START_NS + 1000 * limit_us
        for _ in range(STEPS_MAX):
            if pending.answer or pending.error:
                return True
            due_ns = self.due_ns()
            if due_ns is None or due_ns > limit_ns:
                return False
            self.go(due_ns)
        return False

    def due_ns(self) -> int | None:
        """When something happens by itself, if ever."""
        times = [one.work[1] for one in self.blocked if one.work[1] is not None]
        due_ns = self.net.next_deadline()
        if due_ns >= 0:
            times.append(due_ns)
        return min(times, default=None)

    def go(self, time_ns: int) -> None:
        """Let it be later, and let happen what is due by then."""
        self.now_ns = max(self.now_ns, time_ns)
        self.time_us = max(self.time_us, -((START_NS - self.now_ns) // 1000))
        self.net.advance(self.now_ns)
        self.drain()

    def drain(self) -> None:
        """Take what leaves, and let calls that wait look again."""
        for _ in range(STEPS_MAX):
            left = self.net.transmit()[0]
            for packet in left:
                one = Emitted(self.time_us, bytes(packet))
                self.sent.append(one)
                if self.tap:
                    self.tap(self.time_us, one.packet)
            woken = self.net.wakes()
            for epoll in self.files.values():
                if isinstance(epoll, EpollFile):
                    epoll.wake(woken)
            again = [one for one in self.blocked if not self.step(one)]
            if len(again) == len(self.blocked) and not left:
                return  # a call that goes on waiting may have sent, too
            self.blocked = again

    # The wire.

    def inject(self, packet: bytes, gso_size: int) -> None:
        self.net.receive(packet, self.now_ns, 0, gso_size)
        self.drain()

    # Calls.

    def start(self, name: str, arguments: tuple[Any, ...], blocking: bool) -> Pending:
        pending = Pending(name)
        made = getattr(self, f"do_{name}")(*arguments)
        if not isinstance(made, GeneratorType):
            self.answer(pending, made)
            self.drain()
            return pending
        pending.work = (made, None)
        if not self.step(pending):
            self.blocked.append(pending)
        self.drain()
        due_ns = pending.work[1]
        if not blocking and pending.answer is None and due_ns is not None:
            self.wait_call(pending, -((START_NS - due_ns) // 1000))
        return pending

    def answer(self, pending: Pending, made: Any) -> None:
        pending.answer = made if isinstance(made, Answer) else Answer(int(made))
        pending.time_us = self.time_us

    def step(self, pending: Pending) -> bool:
        """Let a call that waits look again; True if it has returned."""
        work = pending.work[0]
        try:
            pending.work = work, next(work)
        except StopIteration as stop:
            self.answer(pending, stop.value)
        except Exception as error:
            pending.error = error
        return pending.answer is not None or pending.error is not None

    def info(self, fd: int) -> dict[str, int]:
        file = self.files.get(fd)
        if not isinstance(file, SocketFile):
            raise Failure("the socket under test is no socket")
        found = dict(self.net.info(file.handle))
        for name, value in zip(SK_MEMINFO, self.net.meminfo(file.handle), strict=True):
            found[f"SK_MEMINFO_{name}"] = value
        return found

    # The shell's side.

    def shell(self, text: str) -> None:
        status = self.commands.run(text)
        self.drain()
        if status:
            raise Failure(f"the command's exit status is {status}: {text.strip()[:200]}")

    def set_link(self, mtu: int, gso: bool) -> None:
        """What the interface takes."""
        self.mtu, self.gso = mtu, gso
        self.net.set_link(mtu, gso)

    def set_qdisc(self, *, drops: bool) -> None:
        """Whether the queue before the interface refuses every packet."""
        self.net.set_qdisc(drops)

    def set_route(self, **metrics: int) -> None:
        """What is said of the way to the peer."""
        self.net.set_route(**metrics)

    def set_sysctl(self, name: str, value: object) -> None:
        """A knob that the engine has.

        Raises
        ------
        TypeError, ValueError
            If the value is none.
        """
        self.sysctl = self.sysctl.replace(**{name: value})
        self.net.set_sysctl(name, self.sysctl[name])

    def counters(self) -> dict[str, int]:
        """All counters by Linux's names."""
        return dict(zip(COUNTERS, self.net.counters(), strict=True))

    def sockets(self) -> list[tuple[int, tuple[bytes, int], tuple[bytes, int]]]:
        """State and both ends of each IPv4 socket that is not closed."""
        found = []
        for file in self.files.values():
            if isinstance(file, SocketFile) and file.family == 2:
                state = self.net.state(file.handle)
                here, there = self.net.endpoints(file.handle)
                if state != CLOSE:
                    found.append((state, here[1:], there[1:]))
        return found

    def close(self) -> None:
        for fd in list(self.files):
            self.do_close_now(fd)
