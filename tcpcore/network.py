"""Hosts, links and routers of one process under one virtual clock.

Whatever happens follows from the seed: the same programs and the same seed give the same bytes.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from tcpcore.clock import VirtualClock, span_ns
from tcpcore.link import MemoryLink, Path
from tcpcore.pcap import PcapWriter
from tcpcore.router import Router
from tcpcore.stack import Stack
from tcpcore.transfer import mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, BinaryIO

    from tcpcore.sysctl import Sysctl

    Target = str | os.PathLike[str] | BinaryIO

__all__ = ["Cable", "Network", "Router"]


class Cable:
    """A link of a network, both directions.

    Attributes
    ----------
    a, b : str
        Names of what it connects.
    ends : tuple of MemoryLink
        At `a` and at `b`.
    """

    def __init__(self, a: str, b: str, ends: tuple[MemoryLink, MemoryLink]) -> None:
        self.a = a
        self.b = b
        self.ends = ends

    def change(self, sender: str | None = None, **path: Any) -> None:
        """Let it behave in another way from now on.

        Parameters
        ----------
        sender
            Only for what this one sends; None: both directions.
        **path
            Attributes of `Path`; those that are not given stay.

        Raises
        ------
        ValueError
            If the sender is not at this link, or a value is none that a `Path` takes.
        """
        if sender not in (None, self.a, self.b):
            raise ValueError(f"{sender!r} is not at this link")
        for name, end in zip((self.a, self.b), self.ends, strict=True):
            if sender in (None, name):
                end.path = replace(end.path, **path)

    def down(self) -> None:
        """Let nothing through."""
        self.change(up=False)

    def up(self) -> None:
        """Let everything through again."""
        self.change(up=True)

    def tap(self, target: Target | PcapWriter) -> PcapWriter:
        """Write what enters the link, from both sides, before it can be lost.

        Parameters
        ----------
        target
            A path or file object, or a writer that writes other links too.
        """
        writer = target if isinstance(target, PcapWriter) else PcapWriter(target)
        number = writer.interface(f"{self.a}-{self.b}", 1 if self.ends[0].ethernet else 101)
        for end in self.ends:
            end.tap(lambda frame, now_ns: writer.write(frame, now_ns, number))
        return writer

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """For each sender what became of its frames, as `MemoryLink.counts` tells."""
        return {self.a: self.ends[0].counts, self.b: self.ends[1].counts}

    def __repr__(self) -> str:
        return f"<Cable {self.a}-{self.b}>"


class Network:
    """Hosts, links and routers in virtual time.

    Parameters
    ----------
    seed
        Decides everything that is left to chance.
    sysctl
        Knobs of every host that is given none of its own.
    engine
        As for `Stack`.

    Attributes
    ----------
    clock : VirtualClock
    hosts : dict of Stack by name
    routers : dict of Router by name
    links : list of Cable

    Examples
    --------
    >>> network = Network(seed=1)
    >>> client, server = network.host("client"), network.host("server")
    >>> link = network.link(client, server, delay_s=0.01, loss=0.01)
    >>> listener = server.listen(("", 80))
    >>> sock = client.connect(("server", 80))
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        sysctl: Sysctl | Mapping[str, Any] | None = None,
        engine: str | None = None,
    ) -> None:
        self.seed = seed
        self.clock = VirtualClock()
        self.hosts: dict[str, Stack] = {}
        self.routers: dict[str, Router] = {}
        self.links: list[Cable] = []
        self._sysctl = sysctl
        self._engine = engine
        self._names: dict[str, str] = {}
        self._writers: list[PcapWriter] = []

    # What it is made of.

    def host(
        self,
        name: str,
        address: str | Iterable[str] | None = None,
        *,
        sysctl: Sysctl | Mapping[str, Any] | None = None,
    ) -> Stack:
        """A new host; others reach it by its name too.

        Parameters
        ----------
        name
            Unique here.
        address
            As for `Stack`; None: 10.0.x.y and fd00::x:y, the next that are free.
        sysctl
            Its own knobs.

        Raises
        ------
        ValueError
            If the name is taken, or an address or a knob is none.
        """
        self._free(name)
        if address is None:
            number = len(self.hosts) + 1
            address = (f"10.0.{number >> 8}.{number & 255}/16", f"fd00::{number:x}/64")
        made = Stack(
            address,
            clock=self.clock,
            seed=_seed(self.seed, name),
            sysctl=self._sysctl if sysctl is None else sysctl,
            name=name,
            hosts=self._names,
            engine=self._engine,
        )
        self.hosts[name] = made
        self._names[name] = made.addresses[0]
        self._route()
        return made

    def router(self, name: str) -> Router:
        """A new router, with as many links as `link` gives it; ValueError if the name is taken."""
        self._free(name)
        made = self.routers[name] = Router(name)
        self.clock.attach(made)
        return made

    def link(
        self,
        a: str | Stack | Router,
        b: str | Stack | Router,
        *,
        mtu: int = 1500,
        gso: bool = False,
        back: Path | None = None,
        **path: Any,
    ) -> Cable:
        """Connect two of them; a host has one link, a router any number.

        Parameters
        ----------
        a, b
            Hosts or routers, or their names.
        mtu, gso
            As for `MemoryLink.pair`.
        back
            What the direction from `b` to `a` does, if it is not the same.
        **path
            What both directions do: the attributes of `Path`.

        Raises
        ------
        ValueError
            If one of them is not here, or is a host that has a link.
        """
        names = [one if isinstance(one, str) else one.name for one in (a, b)]
        for name in names:
            if name not in self.hosts and name not in self.routers:
                raise ValueError(f"there is no {name!r} in this network")
            if name in self.hosts and self.hosts[name].link is not None:
                raise ValueError(f"{name} has a link: a host has one, and a router any number")
        if names[0] == names[1]:
            raise ValueError(f"a link from {names[0]} to itself leads nowhere")
        number = len(self.links)
        ends = MemoryLink.pair(
            mtu=mtu,
            gso=gso,
            seed=f"{self.seed}/{number}",
            names=(names[0], names[1]),
            back=back,
            **path,
        )
        for name, other, end in zip(names, reversed(names), ends, strict=True):
            if name in self.hosts:
                self.hosts[name].attach(end)
            else:
                self.routers[name].ports.append((other, end))
        made = Cable(names[0], names[1], ends)
        self.links.append(made)
        self._route()
        return made

    def _free(self, name: str) -> None:
        if not name or name in self.hosts or name in self.routers:
            raise ValueError(f"there is a {name!r} in this network")

    def _route(self) -> None:
        """The shortest way from each router to every address; of equals the one linked first."""
        near: dict[str, list[str]] = {name: [] for name in (*self.hosts, *self.routers)}
        for link in self.links:
            near[link.a].append(link.b)
            near[link.b].append(link.a)
        for router in self.routers.values():
            router.routes.clear()
            first: dict[str, str] = {router.name: ""}
            reached = [router.name]
            for here in reached:
                for other in near[here]:
                    if other in first:
                        continue
                    first[other] = first[here] or other
                    if other in self.routers:
                        reached.append(other)
                    else:
                        port = dict(router.ports)[first[other]]
                        for address in self.hosts[other].addresses:
                            packed = mapped(ipaddress.ip_address(address).packed)
                            router.routes[packed] = port

    # What happens.

    def at(self, seconds: float, call: Callable[[], object]) -> None:
        """Call a function at a time, counted from the beginning."""
        self.clock.at(span_ns(seconds), call)

    def partition(self, *names: str) -> None:
        """Cut these off from the others: links between the two go down, the rest up."""
        if unknown := set(names) - set(self.hosts) - set(self.routers):
            raise ValueError(f"there is no {min(unknown)!r} in this network")
        for link in self.links:
            link.change(up=(link.a in names) == (link.b in names))

    def heal(self) -> None:
        """Let every link be up."""
        for link in self.links:
            link.up()

    def tap(self, target: Target, *links: Cable) -> PcapWriter:
        """Write what enters links, all that there are unless some are named, as pcapng.

        Each link is an interface of the capture; `close` ends it.
        """
        writer = PcapWriter(target)
        for link in links or self.links:
            link.tap(writer)
        self._writers.append(writer)
        return writer

    def run(self, *programs: Callable[[], Any]) -> list[Any]:
        """Run programs at the same time: `VirtualClock.run`."""
        return self.clock.run(*programs)

    def advance(self, seconds: float) -> None:
        """Let all happen that happens within so many seconds."""
        self.clock.advance(seconds)

    def settle(self, seconds: float = 60.0) -> bool:
        """Let time pass until no frame is under way; False if some are after so long."""
        until_ns = self.clock.now_ns() + span_ns(seconds)
        while any(link.ends[0].in_flight for link in self.links):
            if not self.clock.step(until_ns):
                return False
        return True

    @property
    def now_s(self) -> float:
        """Virtual time, seconds."""
        return self.clock.now_ns() / 1e9

    def flush(self) -> None:
        """Let captures be whole so far."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """End every host and every capture."""
        for host in self.hosts.values():
            host.close()
        for writer in self._writers:
            writer.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Network seed={self.seed} hosts={list(self.hosts)} at {self.now_s:.6f} s>"


def _seed(seed: int, name: str) -> bytes:
    import hashlib

    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
