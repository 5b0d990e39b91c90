"""The socket under test: its ends, and the script's numbers mapped to live ones and back."""

from __future__ import annotations

from dataclasses import dataclass, field

from tcpcore.packetdrill.packet import ACK, MASK32, SYN, Segment, packet_words, parse_options
from tcpcore.packetdrill.script import TcpOption, TcpPacket


@dataclass
class Flow:
    """One socket, or the child of one that listens.

    Attributes
    ----------
    state : 'new', 'listening', 'active' or 'passive'
    fd : int or None
        The script's name of it.
    local_port, remote_port : int or None
        Live ones.
    local_isn : int or None
        The live one; `script_isn` is the script's.
    remote_isn : int
        The script's, which is the live one, too.
    synced : bool
        An active open is past its handshake: a SYN does not begin it any more.
    """

    state: str = "new"
    fd: int | None = None
    local_port: int | None = None
    remote_port: int | None = None
    local_isn: int | None = None
    script_isn: int = 0
    remote_isn: int = 0
    synced: bool = False
    ts_base: tuple[int, int] | None = None  # script's, live
    ts_live: dict[int, int] = field(default_factory=dict)

    # From the script.

    def local(self, number: int, syn: bool) -> int:
        """A number of our stream, as it is live."""
        live = self.local_isn or 0
        return (number + live - (self.script_isn if syn else 0)) & MASK32

    def remote(self, number: int, syn: bool) -> int:
        """A number of the peer's stream, as it is live."""
        return number if syn else (number + self.remote_isn) & MASK32

    def inbound_options(self, packet: TcpPacket, scaled: bool) -> list[TcpOption]:
        """Options with live numbers.

        Raises
        ------
        ValueError
            For an echo of a timestamp that was never seen.
        """
        syn = bool(packet.flags & SYN)
        made = []
        for one in packet.options or []:
            if one.name == "sack":
                one = TcpOption(one.name, tuple(self.local(edge, syn) for edge in one.values))
            elif one.name == "TS" and packet.flags & ACK:
                one = TcpOption(one.name, (one.values[0], self._echo(one.values[1], scaled)))
            made.append(one)
        return made

    def _echo(self, value: int, scaled: bool) -> int:
        if value in self.ts_live:
            return self.ts_live[value]
        if scaled and self.ts_base is not None:
            return (value - self.ts_base[0] + self.ts_base[1]) & MASK32
        raise ValueError(f"TS ecr {value}: no outbound packet had that TS val")

    # From the wire.

    def learn(self, line: TcpPacket, segment: Segment) -> None:
        """The first SYN or SYN-ACK that a line takes tells our initial number."""
        if segment.flags & SYN and self.local_isn is None:
            self.local_isn = segment.seq
            self.script_isn = line.seq

    def learn_timestamp(self, line_value: int, live_value: int) -> None:
        """A line's TS val and the packet's."""
        if self.ts_base is None:
            self.ts_base = line_value, live_value
        self.ts_live[line_value] = live_value

    def words(self, segment: Segment) -> str:
        """An outbound packet as the script would write it."""
        syn = bool(segment.flags & SYN)
        seq = segment.seq - (self.local_isn or 0) + (self.script_isn if syn else 0)
        ack = segment.ack
        if segment.flags & ACK and not syn:
            ack -= self.remote_isn
        options = parse_options(segment.raw_options)
        shown = []
        for one in options or []:
            if one.name == "sack" and not syn:
                edges = tuple((edge - self.remote_isn) & MASK32 for edge in one.values)
                one = TcpOption(one.name, edges)
            elif one.name == "TS" and self.ts_base is not None:
                value = (one.values[0] - self.ts_base[1] + self.ts_base[0]) & MASK32
                one = TcpOption(one.name, (value, one.values[1]))
            shown.append(one)
        return packet_words(
            segment.flags,
            seq & MASK32,
            len(segment.payload),
            ack & MASK32,
            segment.window,
            segment.urg,
            None if options is None else shown,
        )


def line_words(line: TcpPacket) -> str:
    """A packet line as it is written."""
    return packet_words(
        line.flags, line.seq, line.length, line.ack, line.window, line.urg, line.options
    )
