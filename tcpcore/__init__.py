"""TCP in user space, cut the way Linux cuts it: both ends of every connection of a capture."""

from tcpcore._version import __version__
from tcpcore.assembler import FilterError
from tcpcore.engine import ENGINE
from tcpcore.follow import StreamReplay, replay_streams
from tcpcore.passive import replay, replay_batches
from tcpcore.pcap import PcapError
from tcpcore.result import Replay

__all__ = [
    "ENGINE",
    "FilterError",
    "PcapError",
    "Replay",
    "StreamReplay",
    "__version__",
    "replay",
    "replay_batches",
    "replay_streams",
]
