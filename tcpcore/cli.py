"""The command `tcpcore VERB`: one verb a capability, each a thin call of the public names.

Exit status: 0; 1 an input is damaged; 2 usage, missing file or no capture; the worst of several;
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import sys

from tcpcore import __version__, engine, handshake, passive, report, verbs
from tcpcore.arguments import INT64_MAX, INT64_MIN
from tcpcore.columns import schemas
from tcpcore.packetdrill import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any, NoReturn, TextIO

FORMATS = ("csv", "jsonl", "npz", "arrow", "parquet")
BATCH = 1 << 14  # frames between two writes of the tables; Ctrl-C may wait for two

_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?"
    r" ?(Z|[+-]\d\d(?::?\d\d)?)?"
)
_EPOCH = re.compile(r"([+-]?)(\d+)(?:\.(\d{1,9}))?")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    _open_streams()
    parser = _parser()
    args = _arguments(parser, argv)
    try:
        if args.version:
            print(f"tcpcore {__version__} ({engine.ENGINE}, {engine.load().isa()})")
            return 0
        if args.verb is None:
            parser.print_help(sys.stderr)
            return 2
        if args.verb != "replay":
            return int(args.run(args))
        return _replay(args, args.parser)
    except BrokenPipeError:
        # Nobody reads on. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{report.printable(str(error.filename))}: " if error.filename else ""
        print(f"tcpcore: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments, in `extra` those of packetdrill's own, which it alone knows."""
    args, extra = parser.parse_known_args(argv)
    if extra and args.verb != "packetdrill":
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    args.extra = extra
    return args


def _open_streams() -> None:
    """Let nothing be where a closed stream was: `print` takes standard output for None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # It names arguments as they came; of a filter's a second line shows the place.
        super().error("\n".join(report.printable(line) for line in message.split("\n")))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tcpcore",
        description="TCP in user space, cut the way Linux cuts it.",
        formatter_class=_formatter,
    )
    parser.add_argument(
        "-V", "--version", action="store_true", help="print version and engine, and exit"
    )
    group = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", prog="tcpcore")
    verb = group.add_parser(
        "replay",
        formatter_class=_formatter,
        help="follow both ends of every connection of a capture",
        description="Follow both ends of every TCP connection of a capture: every packet is "
        "parsed, checksummed, found in the connection table and run through the state of both "
        "ends. Several files are one input in the order of their first packets.",
        epilog="TIME: seconds since 1970 with up to nine decimals, or 2024-05-01T12:00:00.5Z "
        "(UTC unless an offset says otherwise). Exit status: 0; 1 an input is damaged; 2 usage, "
        "missing file or no capture; the worst of several; 130 interrupted.",
    )
    verb.set_defaults(parser=verb)
    verb.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="pcap or pcapng, plain or compressed by gzip (zstd, lz4: extras); - is standard input",
    )
    output = verb.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print the report as a JSON object")
    output.add_argument(
        "--connections", metavar="PATH", help="write a row for each connection (- standard output)"
    )
    output.add_argument(
        "--packets", metavar="PATH", help="write a row for each frame (- standard output)"
    )
    output.add_argument(
        "--format",
        choices=FORMATS,
        help="format of the table on standard output; a path's suffix tells its own",
    )
    output.add_argument(
        "--text-addresses", action="store_true", help="addresses as text in Arrow and Parquet too"
    )
    what = verb.add_argument_group("what is read")
    what.add_argument("--count", type=_whole, metavar="N", help="stop after N frames")
    what.add_argument(
        "--from", dest="from_ns", type=_moment, metavar="TIME", help="only frames at TIME or later"
    )
    what.add_argument(
        "--to", dest="to_ns", type=_moment, metavar="TIME", help="only frames before TIME"
    )
    what.add_argument(
        "--unpack-max",
        type=_whole,
        metavar="BYTES",
        help="stop a compressed input that unpacks to more (default: no bound)",
    )
    what.add_argument(
        "--filter", metavar="EXPR", help="only frames that an expression of pcap-filter(7) wants"
    )
    what.add_argument(
        "--where",
        metavar="EXPR",
        help="only connections whose columns fulfil it, in tables and report: "
        "'initial_rtt_ns > 50e6 and b_port == 443'",
    )
    how = verb.add_argument_group("how")
    how.add_argument(
        "--checksum",
        choices=("auto", "strict", "ignore"),
        default="auto",
        help="which segments with bad checksums state takes: those that checksum offload "
        "explains (default), none, all",
    )
    how.add_argument(
        "--analysis",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="classify segments as Wireshark does: columns more in the tables (default: on)",
    )
    how.add_argument(
        "--key",
        default="5tuple",
        metavar="KEY",
        help="what tells connections apart: 5tuple (default), or with it vlan, interface, tunnel, "
        "of these several separated by commas",
    )
    how.add_argument(
        "--max-connections",
        type=_whole,
        metavar="N",
        help="follow at most N at a time; the oldest half-open, then the idlest is given up",
    )
    how.add_argument(
        "--expire-idle",
        type=float,
        metavar="SECONDS",
        help="forget a connection idle for so long, in capture time",
    )
    how.add_argument(
        "--expire-closed",
        type=float,
        metavar="SECONDS",
        help="forget a closed connection after so long, in capture time",
    )
    how.add_argument(
        "--engine", choices=("compiled", "reference"), help=f"default: {engine.ENGINE}"
    )
    verbs.add(group, _formatter)
    handshake.add(group, _formatter)
    command.add(group, _formatter)
    return parser


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Help as wide as the terminal; without the width argparse imports half of shutil."""
    return argparse.HelpFormatter(prog, width=min(_terminal(sys.stdout)[2] or 80, 100) - 2)


def _whole(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _moment(text: str) -> int:
    """Nanoseconds since 1970, exactly, of a TIME."""
    if found := _EPOCH.fullmatch(text):
        sign, seconds, fraction = found.groups()
        ns = int(seconds) * 10**9 + int((fraction or "").ljust(9, "0"))
        ns = -ns if sign == "-" else ns
    elif found := _TIME.fullmatch(text):
        import datetime

        date, minute, second, fraction, zone = found.groups()
        zone = "+00:00" if zone in (None, "Z") else zone
        try:
            when = datetime.datetime.fromisoformat(
                f"{date}T{minute or '00:00'}:{second or '00'}{zone}"
            )
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
        since = when - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
        ns = (since.days * 86400 + since.seconds) * 10**9 + int((fraction or "").ljust(9, "0"))
    else:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither seconds since 1970 nor an ISO 8601 time"
        )
    if not INT64_MIN <= ns <= INT64_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} does not fit 64 bits of nanoseconds")
    return ns


def _replay(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    paths = {"connections": args.connections, "packets": args.packets}
    to_stdout = list(paths.values()).count("-")
    if to_stdout > 1:
        parser.error("only one table can go to standard output")
    if to_stdout and args.format is None:
        parser.error(f"a table on standard output needs --format: {', '.join(FORMATS)}")
    if args.format is not None and not to_stdout:
        parser.error("--format is for a table on standard output; a path's suffix tells its format")
    if "-" in args.files and sys.stdin is not None and sys.stdin.isatty():
        parser.error("standard input is a terminal, not a capture")
    selects_packets = args.where is not None and args.packets is not None
    keeps_rows = args.connections or args.where is not None
    bounded = args.max_connections or args.expire_idle or args.expire_closed
    progress = _Progress(sys.stderr)
    try:
        run = passive.Run(
            args.files,
            packets=args.packets is not None,
            analysis=args.analysis,
            rows="keep" if not bounded else "drain" if keeps_rows else "drop",
            checksum=args.checksum,
            filter=args.filter,
            where=args.where,
            key=args.key,
            max_connections=args.max_connections,
            expire_idle_s=args.expire_idle,
            expire_closed_s=args.expire_closed,
            engine=args.engine,
            count=args.count,
            from_ns=args.from_ns,
            to_ns=args.to_ns,
            unpack_max=args.unpack_max,
            progress=progress if progress.wanted else None,
        )
        tables = _Tables(paths, args)
    except (ValueError, ImportError) as error:
        parser.error(str(error))

    _on_interrupt(run)
    try:
        done = 0
        for _ in run.chunks():
            if (tables or args.where) and not selects_packets and run.frames() - done >= BATCH:
                done = run.frames()
                tables.write(run.take())
    except KeyboardInterrupt:
        pass  # it came while bytes were waited for; `run.stop` is set
    finally:
        progress.clear()

    stream = sys.stderr if to_stdout else sys.stdout
    if run.stop:  # the report first: tables may take longer than the user wants to wait
        _print_report(run, args.json, stream)
    if tables:
        tables.write(run.take(final=True))
        tables.close()
    if not run.stop:
        _print_report(run, args.json, stream)
    return 130 if run.stop else run.status


def _on_interrupt(run: passive.Run) -> None:
    """Let Ctrl-C end the run between two chunks, or at once while it waits for bytes."""
    import signal

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the second one ends it there
        run.stop = True
        if run.blocked:
            raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGINT, interrupt)
    except ValueError:
        return  # not the main thread: signals are somebody else's


def _print_report(run: passive.Run, as_json: bool, stream: TextIO) -> None:
    """Print the report, then warnings and errors on standard error."""
    summary, details = run.summary()
    files = summary["files"]
    if as_json:
        import json

        stream.write(json.dumps(summary, indent=2) + "\n")
    elif any(one["format"] for one in files) or run.stop:
        color, unicode, width = _terminal(stream)
        words = report.text(summary, details, width=width, color=color, unicode=unicode)
        encoding = stream.encoding or "ascii"
        stream.write(words.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
    for line in report.warnings(summary, details):
        print(f"tcpcore: warning: {line}", file=sys.stderr)
    for one in files:
        if one["error"]:
            path = report.printable(one["path"])
            print(f"tcpcore: {path}: {report.printable(one['error'])}", file=sys.stderr)


def _terminal(stream: TextIO) -> tuple[bool, bool, int]:
    """Whether it shows colours and Unicode, and how wide it is (0: no terminal)."""
    unicode = (stream.encoding or "").lower().startswith("utf")
    try:
        if not stream.isatty():
            return False, unicode, 0
        width = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        width = 80
    color = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return color, unicode, width or 80


class _Tables:
    """The table files that were asked for; false when there are none."""

    def __init__(self, paths: dict[str, str | None], args: argparse.Namespace) -> None:
        self._writers: dict[str, Any] = {}
        for name, schema in zip(("connections", "packets"), schemas(args.analysis), strict=True):
            path = paths[name]
            if path is None:
                continue
            from tcpcore import export

            target, form = (sys.stdout.buffer, args.format) if path == "-" else (path, None)
            self._writers[name] = export.writer(target, form, schema, args.text_addresses)

    def __bool__(self) -> bool:
        return bool(self._writers)

    def write(self, tables: dict[str, Any]) -> None:
        for name, writer in self._writers.items():
            if name in tables:
                writer.write(tables[name])

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class _Progress:
    """A bar on the last line of a terminal, once the job has lasted a second."""

    def __init__(self, stream: TextIO | None) -> None:
        import time

        self._stream = stream
        self._clock = time.monotonic
        self._start = self._clock()
        self._shown = False
        self.wanted = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"

    def __call__(self, done: int, total: int | None, packets: int) -> None:
        seconds = self._clock() - self._start
        if seconds < 1 or self._stream is None:
            return
        color, unicode, width = _terminal(self._stream)
        words = f"{report.size(done)}, {report.speed(packets / seconds, 'packets/s')}"
        if total:
            share = min(done / total, 1.0)
            room = min(width - len(words) - 12, 40)
            filled = round(share * max(room, 0))
            full, empty = ("█", "░") if unicode else ("#", "-")
            bar = full * filled + empty * (room - filled) if room > 3 else ""
            words = f"{100 * share:3.0f}% {bar}  {words}"
        words = words[: width - 1]
        self._stream.write(f"\r\x1b[36m{words}\x1b[0m\x1b[K" if color else f"\r{words}\x1b[K")
        self._stream.flush()
        self._shown = True

    def clear(self) -> None:
        """Leave the line as it was."""
        if self._shown and self._stream is not None:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False
