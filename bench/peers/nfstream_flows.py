"""nfstream's flows, one meter, without dissection of what they carry.

Prints how many packets they had.
"""

from __future__ import annotations

import sys


def main(path: str) -> int:
    from nfstream import NFStreamer

    flows = NFStreamer(source=path, n_meters=1, n_dissections=0)
    return sum(flow.bidirectional_packets for flow in flows)


if __name__ == "__main__":
    print(main(sys.argv[1]))
