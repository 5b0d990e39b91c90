"""Fuzz filters: expressions that were changed, and programs that nobody compiled.

``python tests/fuzz/fuzz_filter.py --seconds 60``. A text is an error that shows its place, or a
program that both engines take; either engine then wants the same frames.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from functools import cache
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path += [str(HERE.parent), str(HERE.parent.parent)]

import capgen  # noqa: E402
import inputs  # noqa: E402
import lockstep  # noqa: E402

from tcpcore.filter import FilterError, compile_filter  # noqa: E402

VOCABULARY = r"""
    tcp ip ip6 vlan host net port portrange src dst and or not len less greater mask ether link
    ( ) [ ] : ! && || & | ^ << >> + - * / % = == != < <= > >= 0 1 7 32 65535 65536 4294967295
    4294967296 0x 0xff 010 08 10.0.0.1 10.0.0.1/8 10/8 ::1 2001:db8::/32 ::ffff:10.0.0.1 tcp[13]
    ip[0:4] ip6[6] ether[len] tcpflags tcp-syn tcp-fin http https 80-443 443-80 udp arp \ ' é
"""
WORDS = VOCABULARY.split()
TOKEN = re.compile(r"\w+|\s+|.", re.DOTALL)


def text_of(rng: random.Random) -> str:
    """An expression, changed."""
    chosen = rng.sample(inputs.FILTERS, rng.choice((1, 1, 2, 3)))
    tokens = TOKEN.findall(rng.choice((" and ", " or ", " ")).join(chosen))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(tokens) + 1)
        kind = rng.random()
        if kind < 0.3:
            del tokens[at : at + rng.choice((1, 1, 2, 5))]
        elif kind < 0.5:
            tokens[at:at] = [" ", rng.choice(WORDS), " "]
        elif kind < 0.7:
            tokens[at : at + 1] = [rng.choice(WORDS)]
        elif kind < 0.8:
            tokens[at:at] = tokens[at : at + rng.randrange(1, 9)] * rng.choice((1, 1, 2, 40))
        elif kind < 0.9:
            tokens[at:at] = [rng.choice("([!-") * rng.choice((1, 5, 31, 5000))]
        else:
            tokens[at:at] = [chr(rng.choice((rng.randrange(128), rng.randrange(0x800))))]
    return "".join(tokens)


@cache
def capture(number: int) -> bytes:
    """Frames of every kind, some damaged."""
    data = lockstep.capture(number, talks=5)
    return lockstep.mutated(data, number) if number % 2 else data


def text(seed: int, reference: ModuleType, compiled: ModuleType) -> None:
    """Compile one text, and run what it makes."""
    rng = random.Random(seed)
    expression = text_of(rng)
    began = time.process_time()
    wrong = None
    try:
        program = compile_filter(expression)
    except FilterError as error:
        wrong = error
    assert time.process_time() - began < 5, "T-25: so long a text costs so long a time, not more"
    if wrong is not None:
        assert wrong.text == expression
        assert 0 <= wrong.position <= len(expression)
        assert str(wrong).endswith("^"), "it shows the place"
        return
    data = [capture(seed % 40)]
    one = lockstep.outcome(reference, data, filter=program)
    lockstep.assert_same(one, lockstep.outcome(compiled, data, filter=program))


def number_of(rng: random.Random, depth: int = 3) -> list[inputs.Instruction]:
    """Instructions that push one number."""
    kind = rng.random()
    if kind < 0.3 or not depth:
        value = rng.choice((0, 1, 4, 13, 20, 54, 2048, 1 << 31, 0xFFFFFFFF, rng.randrange(1 << 32)))
        return [(9, 0, 0, 0, value, 0)]
    if kind < 0.4:
        return [(10, 0, 0, 0, 0, 0)]
    if kind < 0.7:
        load = (11, rng.randrange(3), 0, 0, rng.choice((1, 2, 4)), 0)
        return [*number_of(rng, rng.choice((0, depth - 1))), load]
    operator = (rng.randrange(12, 22), 0, 0, 0, 0, 0)
    return [*number_of(rng, depth - 1), *number_of(rng, depth - 1), operator]


def program_of(rng: random.Random) -> list[inputs.Instruction]:
    """A sound program: tests, and comparisons of numbers, which jump forward to one another."""
    steps: list[list[inputs.Instruction]] = []
    for _ in range(rng.choice((1, 2, 3, 5, 9))):
        code = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8))
        low = rng.randrange(1 << 16)
        k, m, arg = low, rng.randrange(low, 1 << 16), rng.randrange(1, 5)
        if code == 0:
            k = rng.choice((0, 4, 6))
        elif code in (1, 2):
            bits = 32 if code == 1 else 128
            m = ((1 << bits) - 1) ^ ((1 << rng.randrange(bits + 1)) - 1)
            k = m & int.from_bytes(capgen.address(rng.choice(lockstep.HOSTS[code])), "big")
        elif code == 5:
            arg, k = rng.randrange(9), rng.choice((0xFFFFFFFF, 100, 101, 0))
        numbers = number_of(rng) + number_of(rng) if code >= 6 else []
        steps.append([*numbers, (code, arg, 0, 0, k, m)])
    starts = [0]
    for step in steps:
        starts.append(starts[-1] + len(step))
    for i, step in enumerate(steps):
        code, arg, _, _, k, m = step[-1]
        places = [*starts[i + 1 :], starts[-1] + 1]
        step[-1] = code, arg, rng.choice(places), rng.choice(places), k, m
    return [row for step in steps for row in step]


def program(seed: int, reference: ModuleType, compiled: ModuleType) -> None:
    """Run a program: both engines have to think alike of it, too where one number was changed."""
    rng = random.Random(seed)
    made = program_of(rng)
    if rng.random() < 0.2:
        at = rng.randrange(len(made))
        row = list(made[at])
        field = rng.randrange(row[5] >> 32 != 0, 4)  # an address of 128 bits stays one
        row[field] = rng.choice((row[field] + 1, abs(row[field] - 1), rng.randrange(25)))
        made[at] = (row[0], row[1], row[2], row[3], row[4], row[5])
    told = []
    for engine in (reference, compiled):
        try:
            told.append(lockstep.outcome(engine, [capture(seed % 40)], filter=made))
        except ValueError:  # this program is no filter
            told.append({})
    lockstep.assert_same(*told)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, default=0, help="the first (0)")
    chosen = parser.parse_args()
    from tcpcore.engine import load

    engines = load("reference"), load("compiled")
    end, seed, found = time.monotonic() + chosen.seconds, chosen.seed, 0
    while time.monotonic() < end:
        for what in (text, program):
            try:
                what(seed, *engines)
            except Exception as problem:
                found += 1
                first = (str(problem).splitlines() or [""])[0]
                print(f"{what.__name__} {seed}: {type(problem).__name__}: {first[:150]}")
        seed += 1
    print(f"{2 * (seed - chosen.seed)} inputs, {found} findings")
    return found > 0


if __name__ == "__main__":
    sys.exit(main())
