"""Timing ways to do the same work, in turns, and telling the result as a table and as JSON."""

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
    """Return a parser with the flag that all benchmarks have."""
    common = console.Parser(description)
    common.add_argument("--repeats", type=console.integer(5), default=5, help="of each measurement (5)")
    return common


def measure(ways: Ways, repeats: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, list[float]]:
    """Return the seconds that each way takes; the ways take turns, and the first, warming round is left out."""
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
    **facts: object,
) -> None:
    """Measure the ways and tell their rates, amount per second; time.process_time as the clock: of one core."""
    seconds = measure(ways, args.repeats, clock)
    tell(title, unit, {way: [amount / s for s in taken] for way, taken in seconds.items()}, **facts)


def tell(title: str, unit: str, rates: dict[str, list[float]], **facts: object) -> None:
    """Print the rates of each way, units per second in each repeat, beside the last one's: the plain recipe.

    The table gives the median of the repeats, the least and the most; the line after it is the same as JSON.
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
    print(json.dumps({"benchmark": title, "unit": f"{unit}/s", "cores": cpu_count(), **facts, "rates": rates}))
