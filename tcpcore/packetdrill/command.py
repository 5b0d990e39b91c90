"""The verb `tcpcore packetdrill`: scripts run one after the other or side by side, and told of."""

from __future__ import annotations

import json
import sys

from tcpcore.report import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

    from tcpcore.packetdrill import Result

JOBS_MAX = 60  # processes; some platforms cannot wait for more
# What the end of each is worth, and in which order they count.
STATUS = {"parse": 2, "fail": 1, "unsupported": 3, "skipped": 4, "internal": 5}
EPILOG = (
    "Other options are packetdrill's own, as --mtu=1400 or --tolerance_usecs=10000: they win over "
    "those of the script. Python snippets of a script are run with your rights; --no-code refuses "
    "them. Exit status: 0 all passed; else the first that applies of 2 one cannot be parsed, "
    "1 one failed, 3 one is unsupported, 4 one was skipped; 5 internal error."
)


def add(verbs: Any, formatter: Any) -> None:
    """Add the verb to the command."""
    verb = verbs.add_parser(
        "packetdrill",
        formatter_class=formatter,
        help="run packetdrill scripts against a host in virtual time, or a kernel",
        description="Run packetdrill scripts: what the peer sends, what the caller does, and what "
        "the stack must send, each at its time. docs/packetdrill.md has the language.",
        epilog=EPILOG,
    )
    verb.set_defaults(parser=verb, run=_run)
    verb.add_argument("scripts", nargs="+", metavar="SCRIPT", help="a script, or a folder of them")
    verb.add_argument(
        "--target",
        choices=("tcpcore", "kernel"),
        default="tcpcore",
        help="whom to test: a tcpcore host in virtual time (default), or this machine's kernel "
        "over TUN, each script in a network namespace of its own (root)",
    )
    verb.add_argument("--engine", choices=("compiled", "reference"), help="of the tcpcore host")
    verb.add_argument("--dry-run", action="store_true", help="parse alone")
    verb.add_argument("--json", action="store_true", help="a JSON object a line and script")
    verb.add_argument("--no-code", action="store_true", help="refuse Python snippets")
    verb.add_argument("--pcap", metavar="OUT", help="write the packets as pcapng")
    verb.add_argument("-j", type=int, default=1, metavar="N", help="run N scripts side by side")
    verb.add_argument("-v", "--verbose", action="store_true", help="show each packet and call")
    verb.add_argument(
        "-D", action="append", default=[], dest="defines", metavar="NAME=VALUE",
        help="what a word of the scripts stands for",
    )  # fmt: skip


def _run(args: argparse.Namespace) -> int:
    options = [*args.extra, *(f"--define={one}" for one in args.defines)]
    _check(args, options)
    jobs = [(path, args, options) for path in _paths(args.scripts)]
    writer = _Capture(args.pcap) if args.pcap else None
    kinds: dict[str, int] = {}
    for result in _results(jobs, max(min(args.j, len(jobs), JOBS_MAX), 1)):
        kinds[result.kind] = kinds.get(result.kind, 0) + 1
        if writer is not None:
            writer.write(result)
        if args.json:
            print(json.dumps(result.as_dict()))
        else:
            _tell(result)
        sys.stdout.flush()
    if writer is not None:
        writer.close()
    if not args.json and len(jobs) > 1:
        print(", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    return next((status for kind, status in STATUS.items() if kind in kinds), 0)


def _check(args: argparse.Namespace, options: list[str]) -> None:
    """End the command at an option that is none."""
    from tcpcore.packetdrill.options import Config

    config = Config()
    for one in options:
        name, equals, value = one[2:].partition("=")
        try:
            if not one.startswith("--"):
                raise ValueError(f"unrecognized argument: {one}")
            config.set(name, value if equals else None)
        except ValueError as error:
            args.parser.error(str(error))


def _tell(result: Result) -> None:
    for line in [*result.log, *(f"warning: {one}" for one in result.warnings)]:
        print(f"{printable(result.script)}: {printable(line)}")
    for line in result.report().split("\n"):
        print(printable(line))


def _paths(given: list[str]) -> list[str]:
    """Scripts; of a folder all that are in it."""
    from pathlib import Path

    found = []
    for one in given:
        path = Path(one)
        scripts = [one] if not path.is_dir() else sorted(str(p) for p in path.rglob("*.pkt"))
        found += scripts or [one]
    return found


def _one(job: tuple[str, argparse.Namespace, list[str]]) -> Result:
    """Run one script; it never raises for what the script does."""
    from tcpcore.packetdrill import Result, run

    path, args, options = job
    try:
        return run(
            path,
            target=args.target,
            engine=args.engine,
            options=options,
            code=not args.no_code,
            dry_run=args.dry_run,
            verbose=args.verbose,
            packets=args.pcap is not None,
        )
    except IsADirectoryError:
        return Result(path, args.target, None, "parse", error="no *.pkt in it")
    except OSError as error:
        return Result(path, args.target, None, "parse", error=str(error.strerror or error))


def _results(jobs: list[Any], workers: int) -> Iterator[Result]:
    """Results in the order of the scripts."""
    if workers == 1:
        yield from map(_one, jobs)
        return
    if jobs and jobs[0][1].target == "kernel":  # each has a process of its own already
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(workers) as threads:
            yield from threads.map(_one, jobs)
        return
    from concurrent.futures import BrokenExecutor, ProcessPoolExecutor

    for _, args, _ in jobs:
        args.parser = args.run = None  # what a process cannot be handed
    with ProcessPoolExecutor(workers) as processes:
        waiting = [processes.submit(_one, job) for job in jobs]
        for job, future in zip(jobs, waiting, strict=True):
            try:
                yield future.result()
            except BrokenExecutor:
                yield _alone(job)


def _alone(job: tuple[str, argparse.Namespace, list[str]]) -> Result:
    """Run a script in a process of its own: it, or one beside it, has ended its process."""
    from concurrent.futures import BrokenExecutor, ProcessPoolExecutor

    from tcpcore.packetdrill import Result

    path, args, _ = job
    try:
        with ProcessPoolExecutor(1) as process:
            return process.submit(_one, job).result()
    except BrokenExecutor:
        words = "internal error: the script's process died"
        return Result(path, args.target, None, "internal", error=words)


class _Capture:
    """All packets of all scripts in one capture: an interface for each script."""

    def __init__(self, path: str) -> None:
        from pathlib import Path

        from tcpcore.pcap import PcapWriter

        self._writer = PcapWriter(Path(path))

    def write(self, result: Result) -> None:
        number = self._writer.interface(result.script)
        for time_us, packet in result.packets:
            self._writer.write(packet, time_us * 1000, number)

    def close(self) -> None:
        self._writer.close()
