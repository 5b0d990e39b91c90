"""Both engines side by side, operation by operation, then beside the peers: a page of Markdown.

python -m bench.compare [--captures DIR] [--large] [--json PATH] [--update docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import tcpcore
from bench.endpoint_yardsticks import EndpointYardsticks
from bench.yardsticks import ROOT, Yardsticks
from tcpcore import engine

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
ENDPOINT = "<!-- endpoint: begin -->", "<!-- endpoint: end -->"
CAPTURES = {
    "min64": "minimal, 100,000 connections",
    "real": "real, replicated",
    "flood": "flood of SYNs",
}


# ---- the operations -----------------------------------------------------------------------------


def operations(work: Path, quick: bool) -> list[dict[str, object]]:
    """Run the benchmarks of this folder and pair the engines' results."""
    found = work / "operations.json"
    # With "=": a folder by itself would be one more to find the settings for.
    command = [sys.executable, "-m", "pytest", "-q", ROOT / "bench", f"--work={work.resolve()}"]
    command += [f"--benchmark-json={found.resolve()}", *(["--quick"] if quick else [])]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for one in json.loads(found.read_text(encoding="utf-8"))["benchmarks"]:
        info = one["extra_info"]
        row = rows.setdefault(
            (info["operation"], info["case"]),
            {"operation": info["operation"], "case": info["case"]},
        )
        row[info["engine"]] = {k: v for k, v in info.items() if k not in row and k != "engine"}
    return list(rows.values())


def operation_rows(rows: Iterable[dict[str, object]]) -> Iterable[list[str]]:
    for row in rows:
        fast, slow = row.get("compiled"), row.get("reference")
        yield [
            row["operation"],
            row["case"],
            number(fast and fast["ns"]),
            number(fast and fast.get("net_ns")),
            number(slow and slow["ns"]),
            number(slow and slow.get("net_ns")),
            f"{slow['ns'] / fast['ns']:,.0f}" if fast and slow else "",
            remark(fast or slow),
        ]


def remark(info: dict[str, float]) -> str:
    if "bytes" in info:
        return f"{info['bytes'] / max(info['net_ns'], 0.1):.1f} GB/s"
    if "bytes_connection" in info:
        return f"{info['bytes_connection']:.0f} B counted, {info['rss_connection']:.0f} B of RSS"
    return f"{info['mpps']:.1f} Mpps"


# ---- Markdown -----------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that reads as a table in a terminal too; figures are on the right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [name.startswith((">", "ns", "Mpps", "packets", "ratio")) for name in head]
    out = []
    for line in lines:
        cells = [
            cell.rjust(width) if side else cell.ljust(width)
            for cell, width, side in zip(line, widths, right, strict=True)
        ]
        out.append("| " + " | ".join(cells) + " |")
        if len(out) == 1:
            rules = [
                "-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)
            ]
            out.append("| " + " | ".join(rules) + " |")
    return "\n".join(out)


def page(report: dict[str, object]) -> str:
    """Everything that was measured."""
    parts = [report["machine"]]
    if report["quick"]:
        parts.append("A quick run over small inputs: its figures mean nothing.")
    if report["operations"]:
        head = ["operation", "case", "ns compiled", "ns net", "ns reference", "ns net", "ratio", ""]
        parts += ["### Both engines", table(head, operation_rows(report["operations"]))]
    if report["rates"]:
        rows = [
            [
                CAPTURES.get(row["capture"], row["capture"]),
                row["who"],
                *(
                    (f"{row['packets']:,.0f}", number(row["ns"]), f"{row['mpps']:.3f}")
                    if "ns" in row
                    else ("", "", "")
                ),
                row["note"],
            ]
            for row in report["rates"]
        ]
        head = ["capture", "who", "packets", "ns a packet", "Mpps", ""]
        parts += ["### Beside the peers", table(head, rows)]
    if report["targets"]:
        head = ["what", "measured", "must be", "met", ""]
        parts += ["### What it must reach", table(head, map(target_row, report["targets"]))]
    return "\n\n".join(parts)


def endpoint_page(report: dict[str, object]) -> str:
    """What was measured of the endpoint."""
    head = ["what", "measured", "must be", "met", ""]
    return f"{report['machine']}\n\n{table(head, map(target_row, report['endpoint']))}"


def target_row(row: dict[str, object]) -> list[str]:
    sign, bound = ("≥", row["least"]) if row["most"] is None else ("≤", row["most"])
    return [
        row["what"],
        "not measured" if row["met"] is None else number(row["measured"]) + row["unit"],
        f"{sign} {bound:,g}{row['unit']}",
        {True: "yes", False: "**no**", None: ""}[row["met"]],
        row["note"],
    ]


def machine(rounds: int) -> str:
    """One line on what it ran on."""
    model = platform.processor()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
            model = names[0] if names else model
    except OSError:
        pass
    release = ".".join(platform.release().split(".")[:2])
    return (
        f"tcpcore {tcpcore.__version__} ({tcpcore.ENGINE}, {engine.load().isa()}), "
        f"Python {platform.python_version()}, {platform.system()} {release}, {model}; "
        f"one core, medians of {rounds} rounds of CPU time."
    )


def update(page_path: Path, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Put a run's figures between the two marks of a page."""
    begin, end = marks
    old = page_path.read_text(encoding="utf-8")
    before, _, rest = old.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        sys.exit(f"{page_path} has no {begin} and {end}")
    page_path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument(
        "--captures",
        type=Path,
        default=os.environ.get("TCPCORE_CAPTURES"),
        help="folder of real captures to replicate (default: TCPCORE_CAPTURES)",
    )
    for name, what in (
        ("min64", "5 million minimal frames of 100,000 connections"),
        ("real", "replicated real traffic"),
        ("flood", "2 million SYNs"),
        ("million", "8 million minimal frames of 1 million connections"),
        ("large", "80 million of 10 million, which --large makes"),
    ):
        flag = "--large-file" if name == "large" else f"--{name}"
        parser.add_argument(
            flag, type=Path, dest=f"file_{name}", metavar="FILE", help=f"a ready capture: {what}"
        )
    parser.add_argument("--large", action="store_true", help="10 million connections, 6 GB of disk")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each race (5)")
    parts = ["operations", "peers", "endpoint"]
    parser.add_argument("--only", choices=parts, help="one of the three parts")
    parser.add_argument(
        "--quick", action="store_true", help="see that it runs; figures mean nothing"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench", help="for captures")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all figures there too")
    parser.add_argument("--update", type=Path, metavar="PAGE", help="put the figures into a page")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # children inherit it

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    report: dict[str, object] = {"machine": machine(1 if args.quick else args.rounds)}
    report |= {"quick": args.quick, "operations": [], "rates": [], "targets": [], "endpoint": []}
    if args.only in (None, "operations"):
        say("measuring: operations of both engines")
        report["operations"] = operations(args.work, args.quick)
    if args.only in (None, "peers"):
        files = {
            name[5:]: path for name, path in vars(args).items() if name[:5] == "file_" and path
        }
        races = Yardsticks(
            args.work,
            rounds=args.rounds,
            quick=args.quick,
            large=args.large or "large" in files,
            folder=args.captures and Path(args.captures),
            files=files,
            say=say,
        )
        races.run()
        report |= {"rates": races.rates, "targets": races.targets}
    if args.only in (None, "endpoint") and tcpcore.ENGINE == "compiled":
        endpoint = EndpointYardsticks(args.work, rounds=args.rounds, quick=args.quick, say=say)
        endpoint.run()
        report["endpoint"] = endpoint.targets
    parts = []
    if args.only != "endpoint":
        parts.append((page(report), (BEGIN, END)))
    if report["endpoint"]:
        parts.append((endpoint_page(report), ENDPOINT))
    for text, marks in parts:
        print(text)
        if args.update:
            update(args.update, text, marks)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
