"""TCP in user space, cut the way Linux cuts it: captures followed, and hosts of one's own."""

from tcpcore._version import __version__
from tcpcore.assembler import FilterError
from tcpcore.engine import ENGINE
from tcpcore.follow import StreamReplay, replay_streams
from tcpcore.passive import replay, replay_batches
from tcpcore.pcap import PcapError, PcapWriter
from tcpcore.result import Replay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcpcore import packetdrill
    from tcpcore.clock import DeadlockError, MonotonicClock, VirtualClock
    from tcpcore.device import PacketLink, TapLink, TunLink
    from tcpcore.link import CallableLink, Frame, MemoryLink, Path
    from tcpcore.network import Network
    from tcpcore.readiness import Selector, poll, select
    from tcpcore.socket import Socket
    from tcpcore.stack import Stack
    from tcpcore.sysctl import Sysctl

__all__ = [
    "CallableLink",
    "DeadlockError",
    "ENGINE",
    "FilterError",
    "Frame",
    "MemoryLink",
    "MonotonicClock",
    "Network",
    "PacketLink",
    "Path",
    "PcapError",
    "PcapWriter",
    "Replay",
    "Selector",
    "Socket",
    "Stack",
    "StreamReplay",
    "Sysctl",
    "TapLink",
    "TunLink",
    "VirtualClock",
    "__version__",
    "packetdrill",
    "poll",
    "replay",
    "replay_batches",
    "replay_streams",
    "select",
]

# Names of active mode and their files: who follows captures does not wait for their import.
_ACTIVE = {
    "CallableLink": "link",
    "DeadlockError": "clock",
    "Frame": "link",
    "MemoryLink": "link",
    "MonotonicClock": "clock",
    "Network": "network",
    "PacketLink": "device",
    "Path": "link",
    "Selector": "readiness",
    "Socket": "socket",
    "Stack": "stack",
    "Sysctl": "sysctl",
    "TapLink": "device",
    "TunLink": "device",
    "VirtualClock": "clock",
    "poll": "readiness",
    "select": "readiness",
}


def __getattr__(name: str) -> object:
    """Import a name of active mode when it is first asked for."""
    from importlib import import_module

    if name in ("columns", "link", "packetdrill", "sysctl"):
        return import_module(f"tcpcore.{name}")
    if name in _ACTIVE:
        found: object = getattr(import_module(f"tcpcore.{_ACTIVE[name]}"), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'tcpcore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
