"""One script from its text to its result: parsed, driven, and how it ended told."""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcpcore.engine import load_net
from tcpcore.packetdrill.lexer import SCRIPT_MAX, ScriptError
from tcpcore.packetdrill.options import Config
from tcpcore.packetdrill.parser import parse
from tcpcore.packetdrill.script import Code
from tcpcore.packetdrill.target import Failure, Result, Skipped, Target, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tcpcore.packetdrill.script import Script

REAL_MAX_S = 3600  # how long a script may take with the kernel
ERROR_MAX = 1000  # characters


def run(
    script: str | Path,
    *,
    target: str = "tcpcore",
    engine: str | None = None,
    options: Iterable[str] | dict[str, Any] = (),
    text: str | None = None,
    code: bool = True,
    dry_run: bool = False,
    verbose: bool = False,
    packets: bool = False,
) -> Result:
    """Run one packetdrill script.

    Python in its snippets runs in this process, with all that it may do: `code=False` refuses it.

    Parameters
    ----------
    script : path
        Of the script, which has 4 Mi characters at most; with `text` only its name.
    target : 'tcpcore' or 'kernel'
        A host in virtual time, or the machine's kernel over TUN in a network namespace of its
        own, in real time and a process of its own; that needs root.
    engine : 'compiled' or 'reference', optional
        Of the host.
    options : iterable of str, or dict
        As on packetdrill's command line: ``'--mtu=1400'``, or ``{'mtu': 1400}``.
    text : str, optional
        The script itself.
    code : bool
        Whether snippets are run.
    dry_run : bool
        Parse alone.
    verbose : bool
        Keep packets and calls in `log`.
    packets : bool
        Keep packets in `packets`.

    Returns
    -------
    Result

    Raises
    ------
    OSError
        If the script cannot be read.
    ValueError
        For an unknown target, engine or option.
    """
    if target not in ("tcpcore", "kernel"):
        raise ValueError(f"target must be 'tcpcore' or 'kernel', not {target!r}")
    given = _given(options)
    for name, value in given:
        Config().set(name, value)
    if engine is not None:
        load_net(engine)
    result = Result(str(script), target, None)
    if text is None:
        with open(script, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(SCRIPT_MAX + 1)
    began = time.perf_counter()
    try:
        parsed, config = parse(text, str(script), given)
        if not (dry_run or config.dry_run):
            _check(parsed, config, code)
            if target == "kernel":
                _check_duration(parsed)
                from tcpcore.packetdrill.kernel import run_kernel

                def drive_kernel(kernel: Target) -> None:
                    drive(parsed, config, kernel, result, verbose, packets)

                run_kernel(config, result, drive_kernel)
            else:
                from tcpcore.packetdrill.host import HostTarget

                host = HostTarget(config, engine)
                result.engine = host.engine
                drive(parsed, config, host, result, verbose, packets)
    except ScriptError as error:
        result.kind = "parse"
        result.error, result.line = str(error), error.line or result.line
        result.column = error.column or None
    except (Unsupported, Skipped) as error:
        result.kind = "skipped" if isinstance(error, Skipped) else "unsupported"
        result.error, result.line = str(error), error.line
    except Exception as error:
        result.kind = "internal"
        result.error = f"internal error: {type(error).__name__}: {error}"
    result.error = result.error and result.error[:ERROR_MAX]
    result.wall_seconds = time.perf_counter() - began
    return result


def _given(options: Iterable[str] | dict[str, Any]) -> list[tuple[str, str | None]]:
    if isinstance(options, dict):
        return [
            (name, None if value is True else str(value))
            for name, value in options.items()
            if value is not False and value is not None
        ]
    pairs = []
    for one in options:
        name, equals, value = one.removeprefix("--").partition("=")
        pairs.append((name, value if equals else None))
    return pairs


def _check(script: Script, config: Config, code: bool) -> None:
    """Whether the script can be run at all."""
    if config.psp:
        raise Skipped("PSP")
    if config.ip_version == "ipv6":
        raise Skipped("IPv6")
    try:
        ipaddress.IPv4Address(config.remote_ip)
        ipaddress.IPv4Interface(f"{config.local_ip}/{config.netmask_ip}")
    except ValueError as error:
        raise ScriptError(str(error)) from None
    snippets = [event for event in script.events if isinstance(event.action, Code)]
    if snippets and not code:
        raise Unsupported("Python snippets are refused", snippets[0].line)


def _check_duration(script: Script) -> None:
    """Whether real time is enough for it."""
    longest = 0
    for event in script.events:
        end = max(event.time.start_us, event.time.end_us or 0)
        longest = longest + end if event.time.kind == "relative" else max(longest, end)
        if longest > REAL_MAX_S * 1_000_000:
            raise Unsupported(f"more than {REAL_MAX_S} seconds of real time", event.line)


def drive(
    script: Script,
    config: Config,
    target: Target,
    result: Result,
    verbose: bool,
    packets: bool,
) -> None:
    """Run a script against a target, and write down how it ended."""
    from tcpcore.packetdrill.runner import Runner

    if packets:
        target.tap = lambda time_us, packet: result.packets.append((time_us, packet))
    runner = Runner(script, config, target, verbose or config.verbose)
    try:
        try:
            runner.run()
        except Exception as error:
            _ended(runner, target, result, error)
        finally:
            result.virtual_seconds = target.now_us() / 1_000_000
            if result.kind == "pass":
                runner.event = script.cleanup
            runner.finish()
    except Exception as error:
        if result.kind == "pass":
            _ended(runner, target, result, error)
    finally:
        result.log, result.warnings = runner.log, runner.warnings
        target.close()


def _ended(runner: Any, target: Target, result: Result, error: Exception) -> None:
    """What ended a script early."""
    result.line = runner.event.line if runner.event else None
    result.error = str(error)
    if isinstance(error, Failure):
        result.kind = "fail"
        result.details = list(error.details)
        recent = [*runner.recent, *(f"{one} (not asked for)" for one in runner.left_over())]
        if recent:
            result.details += ["last packets:", *(f"  {one}" for one in recent[-10:])]
        if target.notes:
            result.kind = "unsupported"
            result.error += f" (not supported, and asked for: {', '.join(target.notes)})"
    elif isinstance(error, Skipped):
        result.kind = "skipped"
    elif isinstance(error, Unsupported):
        result.kind = "unsupported"
        result.error = f"not supported: {error}"
    elif isinstance(error, ScriptError):
        result.kind = "parse"
        result.line = error.line or result.line
        result.column = error.column or (runner.event.column if runner.event else None)
    else:
        result.kind = "internal"
        result.error = f"internal error: {type(error).__name__}: {error}"
