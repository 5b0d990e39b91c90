"""The verbs `streams` and `cut`: bytes and packets of chosen connections, out of a capture.

docs/streams.md has both.
"""

from __future__ import annotations

import argparse
import os
import re
import sys

from tcpcore import engine, passive, report, stream
from tcpcore.arguments import INT64_MAX
from tcpcore.assembler import FilterError
from tcpcore.columns import address_text
from tcpcore.cut import cut
from tcpcore.pcap import Input, PcapError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from tcpcore.result import Replay

_ONE = re.compile(r"(\d{1,18}):(ab|ba)")
_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")


def add(verbs: Any, formatter: Any) -> None:
    """Add both verbs to the command."""
    verb = verbs.add_parser(
        "streams",
        formatter_class=formatter,
        help="write what each end of the connections of a capture sent",
        description="Write what each end of every TCP connection sent, one file a direction: "
        "CONN-SRC.PORT-DST.PORT.ab and .ba, in IPv6 addresses _ for each colon.",
        epilog="Exit status: 0; 1 an input is damaged, or a stream cannot be handed out; 2 usage, "
        "missing file or no capture.",
    )
    verb.set_defaults(parser=verb, run=_streams)
    verb.add_argument("files", nargs="+", metavar="FILE", help="captures, as of replay")
    what = verb.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", metavar="DIR", help="write all that are not empty here")
    what.add_argument(
        "--stream", type=_one, metavar="CONN:ab|ba", help="write one to standard output"
    )
    verb.add_argument(
        "--overlap",
        choices=stream.OVERLAPS,
        default="first",
        help="which copy of a byte counts (default: first)",
    )
    verb.add_argument(
        "--urgent",
        choices=stream.URGENTS,
        default="inline",
        help="urgent bytes in their places, or left out (default: inline)",
    )
    verb.add_argument("--fill", action="store_true", help="write zeros where bytes are missing")
    verb.add_argument(
        "--fill-max",
        type=_whole,
        metavar="BYTES",
        help="with --fill leave out streams that would have more (default: 1 GiB)",
    )
    verb.add_argument(
        "--conflicts",
        action="store_true",
        help="tell where copies of the same bytes differ, on standard error in hexadecimal",
    )
    verb.add_argument("--checksum", choices=("auto", "strict", "ignore"), default="auto")
    _common(verb, "only what frames carry that an expression of pcap-filter(7) wants")
    verb = verbs.add_parser(
        "cut",
        formatter_class=formatter,
        help="write some packets as a capture",
        description="Write the packets of some connections, or those that a filter wants, byte for "
        "byte, as a capture of the same format; of a pcapng all blocks that are no packets are "
        "kept. At least one of --conn, --where and --filter; of several all must hold.",
        epilog="Exit status: 0; 1 the capture is damaged (what is before it is written); 2 usage, "
        "missing file or no capture.",
    )
    verb.set_defaults(parser=verb, run=_cut)
    verb.add_argument("file", metavar="FILE", help="a capture, which is read more than once")
    verb.add_argument(
        "--conn",
        type=_range,
        nargs="+",
        action="extend",
        metavar="N",
        help="numbers of connections, with --filter those that it leaves; 3-7 is a range",
    )
    verb.add_argument(
        "-o", "--out", required=True, metavar="OUT", help="the new capture (- standard output)"
    )
    _common(verb, "only frames that an expression of pcap-filter(7) wants")


def _common(verb: argparse.ArgumentParser, filtered: str) -> None:
    """Add the options that both have of replay's."""
    verb.add_argument("--filter", metavar="EXPR", help=filtered)
    verb.add_argument(
        "--where",
        metavar="EXPR",
        help="only connections whose columns, those of the analysis too, fulfil it: "
        "'retransmission_ab > 0 and b_port == 443'",
    )
    verb.add_argument(
        "--engine", choices=("compiled", "reference"), help=f"default: {engine.ENGINE}"
    )


def _whole(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text[:20]) <= INT64_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _one(text: str) -> tuple[int, str]:
    found = _ONE.fullmatch(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not CONN:ab or CONN:ba")
    return int(found[1]), found[2]


def _range(text: str) -> range:
    found = _RANGE.fullmatch(text)
    if not found or int(found[1]) > int(found[2] or found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a connection nor a range")
    return range(int(found[1]), int(found[2] or found[1]) + 1)


def _complain(words: str) -> None:
    print(f"tcpcore: {report.printable(words)}", file=sys.stderr)


def _streams(args: argparse.Namespace) -> int:
    if args.stream and args.where is not None:
        args.parser.error("--stream names one stream, so there is nothing for --where to choose")
    try:
        made = passive.replay(
            args.files,
            streams=True,
            analysis=args.where is not None,
            checksum=args.checksum,
            filter=args.filter,
            where=args.where,
            engine=args.engine,
        )
    except FilterError as error:
        args.parser.error(str(error))
    status = _errors(made)
    options: dict[str, Any] = {
        "overlap": args.overlap,
        "fill": args.fill,
        "fill_max": args.fill_max,
        "urgent": args.urgent,
    }
    try:
        if args.stream:
            one = made.stream(*args.stream, **options)
            _write(one, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            if args.conflicts:
                _conflicts(one)
        else:
            status = max(status, _write_all(made, args, options))
    except (PcapError, IndexError, LookupError, ValueError) as error:
        _complain(str(error))
        return max(status, 2 if isinstance(error, IndexError) else 1)
    return status


def _errors(made: Replay) -> int:
    """Tell what is wrong with the inputs; the exit status."""
    status = 0
    for entry in made.summary["files"]:
        if entry["error"]:
            _complain(f"{entry['path']}: {entry['error']}")
            status = max(status, 1 if entry["format"] else 2)
    if made.summary["streams_given_up"]:
        _complain(f"warning: streams of {made.summary['streams_given_up']} connections given up")
        status = max(status, 1)
    return status


def _write_all(made: Replay, args: argparse.Namespace, options: dict[str, Any]) -> int:
    os.makedirs(args.out, exist_ok=True)
    names = ("ip", "a_addr", "a_port", "b_addr", "b_port")
    table = {name: made.connections[name] for name in names}
    rows = {conn: i for i, conn in enumerate(made.connections["conn"].tolist())}
    streams = size = gaps = missing = status = 0
    for one in made.streams(**options):
        row = {name: table[name][rows[one.conn]] for name in names}
        path = os.path.join(args.out, file_name(one.conn, row, one.direction))
        try:
            with open(path, "wb") as file:
                _write(one, file)
        except ValueError as error:
            if isinstance(error, PcapError):
                raise
            os.unlink(path)
            _complain(str(error))
            status = 1
            continue
        if args.conflicts:
            _conflicts(one)
        streams += 1
        size += one.length
        gaps += len(one.gaps)
        missing += sum(length for _, length in one.gaps)
    print(f"{streams} streams, {size} bytes, {gaps} gaps of {missing} bytes")
    return status


def file_name(conn: int, row: dict[str, Any], direction: str) -> str:
    """Name a stream's file by digits, letters, dots, dashes and underscores alone."""
    a = address_text(bytes(row["a_addr"]), int(row["ip"])).replace(":", "_")
    b = address_text(bytes(row["b_addr"]), int(row["ip"])).replace(":", "_")
    return f"{conn:08d}-{a}.{row['a_port']}-{b}.{row['b_port']}.{direction}"


def _write(one: stream.Stream, file: BinaryIO) -> None:
    if one.length <= stream.GROUP:
        file.write(one.data)
        return
    for piece in one.pieces():
        file.write(piece)


def _conflicts(one: stream.Stream) -> None:
    for offset, kept, other in one.conflicts:
        print(
            f"{one.conn}:{one.direction} {offset} kept {kept.hex()} other {other.hex()}",
            file=sys.stderr,
        )


def _cut(args: argparse.Namespace) -> int:
    if args.conn is None and args.where is None and args.filter is None:
        args.parser.error("which packets? --conn, --where or --filter says it")
    try:
        numbers, status = _numbers(args)
    except FilterError as error:
        args.parser.error(str(error))
    if status == 2:
        return status
    one = Input(args.file)
    try:
        if args.out == "-":
            cut(one, numbers, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            if os.path.exists(args.out) and os.path.samefile(args.file, args.out):
                args.parser.error("the new capture cannot take the place of the old one")
            with open(args.out, "wb") as out:
                cut(one, numbers, out)
    except PcapError as error:
        if not status:
            _complain(str(error))
        return 1
    return status


def _numbers(args: argparse.Namespace) -> tuple[set[int], int]:
    """Numbers of the packets that are wanted, and the exit status so far."""
    import numpy as np

    if args.file == "-" or not os.path.isfile(args.file):
        if args.file != "-" and not os.path.exists(args.file):
            _complain(f"{args.file}: No such file or directory")
        else:
            _complain(f"{args.file}: cut reads its input again, so it has to be a file")
        return set(), 2
    options = {"filter": args.filter, "engine": args.engine}
    chosen = None
    if args.where is not None:  # what a condition says is known when all has been read
        made = passive.replay(args.file, analysis=True, where=args.where, **options)
        chosen = made.connections["conn"]
    found: set[int] = set()
    status = connections = 0
    for batch in passive.replay_batches(args.file, packets=True, analysis=False, **options):
        conns, packets = batch.packets["conn"], batch.packets["packet"]
        wanted = np.ones(len(packets), bool) if chosen is None else np.isin(conns, chosen)
        if args.conn:
            wanted &= np.any([(conns >= n.start) & (conns < n.stop) for n in args.conn], axis=0)
        found.update(packets[wanted].tolist())
        connections = batch.summary["connections"]
        errors = batch.summary["files"][0]["error"]
        if errors:
            status = 1 if batch.summary["files"][0]["format"] else 2
    if errors:
        _complain(f"{args.file}: {errors}")
    beyond = [one for one in args.conn or () if one.stop > connections]
    if beyond and status != 2:
        _complain(f"no connection {beyond[0].stop - 1}: there are {connections}")
        return found, 2
    return found, status
