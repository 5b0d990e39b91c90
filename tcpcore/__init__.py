"""TCP in user space, cut the way Linux cuts it: captures followed, and hosts of one's own."""

from tcpcore._version import __version__
from tcpcore.clock import DeadlockError, MonotonicClock, VirtualClock
from tcpcore.engine import ENGINE
from tcpcore.filter import FilterError
from tcpcore.link import CallableLink, MemoryLink, PacketLink, Path, TapLink, TunLink
from tcpcore.network import Network
from tcpcore.passive import Replay, replay, replay_batches
from tcpcore.pcap import PcapError, PcapWriter
from tcpcore.poll import poll, select
from tcpcore.socket import Socket
from tcpcore.stack import Stack
from tcpcore.sysctl import Sysctl

__all__ = [
    "CallableLink",
    "DeadlockError",
    "ENGINE",
    "FilterError",
    "MemoryLink",
    "MonotonicClock",
    "Network",
    "PacketLink",
    "Path",
    "PcapError",
    "PcapWriter",
    "Replay",
    "Socket",
    "Stack",
    "Sysctl",
    "TapLink",
    "TunLink",
    "VirtualClock",
    "__version__",
    "poll",
    "replay",
    "replay_batches",
    "select",
]
