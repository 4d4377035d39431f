"""Time alternatives for the same work in turns, and print the result as a table and as JSON."""

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

from system import console
from system.workers import cpu_count

Ways = dict[str, Callable[[], Any]]


def parser(description: str | None) -> console.Parser:
    """Return a parser with the flag of all benchmarks."""
    common = console.Parser(description)
    common.add_argument_group("measurement").add_argument(
        "--repeats", type=console.integer(5), default=5, metavar="N", help="repetitions, at least 5 (default: 5)"
    )
    return common


def measure(ways: Ways, repeats: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, list[float]]:
    """Return the seconds of each alternative in each repetition; they take turns, and a first round is discarded."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    rounds = itertools.product(range(repeats + 1), ways.items())
    for _, (way, work) in console.progress(list(rounds), desc="benchmark"):
        start = clock()
        work()
        seconds[way].append(clock() - start)
    return {way: taken[1:] for way, taken in seconds.items()}


def compare(
    title: str,
    unit: str,
    amount: float,
    ways: Ways,
    args: argparse.Namespace,
    clock: Callable[[], float] = time.perf_counter,
    **metadata: object,
) -> None:
    """Measure and report the rates of the alternatives, amount per second; time.process_time measures one core."""
    seconds = measure(ways, args.repeats, clock)
    report(title, unit, {way: [amount / s for s in taken] for way, taken in seconds.items()}, **metadata)


def report(title: str, unit: str, rates: dict[str, list[float]], **metadata: object) -> None:
    """Print a table of the rates (units per second) of each alternative, and the same as one line of JSON.

    The table has median, minimum and maximum over the repetitions, and the ratio to the last one, the plain recipe.
    """
    *_, plain = rates
    repeats = len(rates[plain])
    print(f"{title}, {unit} per second, median of {repeats} ({platform.machine()}, {cpu_count()} cores):")
    for way, rate in rates.items():
        ratios = [a / b for a, b in zip(rate, rates[plain], strict=True)]
        print(
            f"  {way:44}{statistics.median(rate):10.1f}   ({min(rate):.1f} to {max(rate):.1f})"
            f"   {statistics.median(ratios):6.2f} x"
        )
    print(json.dumps({"benchmark": title, "unit": f"{unit}/s", "cores": cpu_count(), **metadata, "rates": rates}))
