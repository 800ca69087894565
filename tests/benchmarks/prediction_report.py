"""What the fifth suite found, as tables and for the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tests.benchmarks.measurement import Spread, spread
from tests.benchmarks.prediction import CONNECTIONS, HEALTH, SECONDS, SIZES, Loaded, Predictions
from tests.benchmarks.report import Sheet, span
from tests.benchmarks.tables import ROWS

OURS = "chainrule"
LEAST_OF_HEALTH = dict(zip(("-".join(map(str, sizes)) for sizes in SIZES), (0.7, 0.4), strict=True))
LEAST_OF_PEERS = 3.0
LEAST_OF_FORWARD = 0.5
LEAST_CSV = 30.0
REMARKS = (
    f"The load generator is wrk, one thread; each connection has one request at a time, {SECONDS} s of them. p50 and p99: "
    "ms from the first byte sent to the last received. It shares the machine's cores with the server; nobody is bound to a "
    "core. CPU: ms that all processes of the server took for a request, which tells more where others use the machine too.",
    "A prediction: one instance as JSON, an array of numbers that are never 0, and the probabilities of all classes. "
    "The same float32 weights, and standardized inputs, for everybody; each server's answers were compared to 1e-5 first.",
    "Chainrule: one API process over Redis, as it is run, with all that it checks and counts. The others predict with NumPy "
    "and keep no access log. MLServer: one process, no workers beside it, no metrics, no compression, no batching. Ray Serve: "
    "one replica behind its proxy; direct: its own setting for throughput, the replica asked without a proxy. One BLAS "
    "thread each.",
)


@dataclass(frozen=True)
class Ratio:
    """Ours over something else, both on one network with as many connections."""

    title: str
    below: str
    subject: str
    """What the other one was asked for; empty: the same network."""
    aims: dict[str, float]
    """By network."""
    compares_latency: bool


def _ratios(networks: list[str]) -> list[Ratio]:
    peers = dict.fromkeys(networks, LEAST_OF_PEERS)
    return [
        Ratio("÷ its own /healthz", OURS, HEALTH, LEAST_OF_HEALTH, compares_latency=False),
        Ratio("÷ MLServer", "mlserver", "", peers, compares_latency=True),
        Ratio("÷ Ray Serve", "ray-serve", "", peers, compares_latency=True),
        Ratio("÷ Ray Serve, direct", "ray-serve-direct", "", peers, compares_latency=True),
    ]


def sheets(found: Predictions) -> list[Sheet]:
    """The figures, the ratios, and whole tables."""
    made = [_figures(found), _compared(found)]
    return [*made, _whole(found)] if found.tables else made


def _loads(found: Predictions, server: str, subject: str, connections: int) -> dict[int, Loaded]:
    """By round."""
    wanted = (server, subject, connections)
    return {one.round: one for one in found.loads if (one.server, one.subject, one.connections) == wanted}


def _figures(found: Predictions) -> Sheet:
    lines: list[tuple[str, ...]] = []
    for subject in (HEALTH, *found.networks):
        for name, title in found.titles.items():
            for connections in CONNECTIONS:
                rounds = _loads(found, name, subject, connections).values()
                rates = spread(one.load.requests_per_second for one in rounds)
                middle, tail = spread(one.load.p50 for one in rounds), spread(one.load.p99 for one in rounds)
                cpu = spread(one.cpu for one in rounds)
                if middle is None or tail is None or cpu is None:
                    continue
                lines.append(
                    (
                        title,
                        subject,
                        str(connections),
                        *span(rates, "{:,.0f}"),
                        *(f"{times.median * 1e3:.2f}" for times in (middle, tail)),
                        f"{tail.median / middle.median:.1f}",
                        f"{cpu.median * 1e3:.2f}",
                        f"{sum(one.load.errors for one in rounds):,}",
                    )
                )
    said = tuple(f"{found.titles[name]}: {'; '.join(problems)}." for name, problems in found.problems.items())
    columns = (
        "contender",
        "shape",
        "connections",
        "requests/s",
        "min - max",
        "p50",
        "p99",
        "p99 ÷ p50",
        "CPU",
        "errors",
    )
    return Sheet("Predictions of one instance under load", columns, lines, (*said, *REMARKS))


def _compare(
    found: Predictions, ratio: Ratio, network: str, connections: int, figure: Callable[[Loaded], float]
) -> Spread | None:
    above = _loads(found, OURS, network, connections)
    below = _loads(found, ratio.below, ratio.subject or network, connections)
    return spread(figure(above[number]) / figure(below[number]) for number in above if number in below)


def _rate(found: Predictions, ratio: Ratio, network: str, connections: int) -> Spread | None:
    return _compare(found, ratio, network, connections, lambda one: one.load.requests_per_second)


def _tail(found: Predictions, ratio: Ratio, network: str, connections: int) -> Spread | None:
    return _compare(found, ratio, network, connections, lambda one: one.load.p99) if ratio.compares_latency else None


def _compared(found: Predictions) -> Sheet:
    lines: list[tuple[str, ...]] = []
    for ratio in _ratios(found.networks):
        for network in found.networks:
            for connections in CONNECTIONS:
                rate, tail = _rate(found, ratio, network, connections), _tail(found, ratio, network, connections)
                aim = f"≥ {ratio.aims[network]:g}{', p99 < 1' if ratio.compares_latency else ''}"
                verdict = _verdict(rate, tail, ratio.aims[network])
                lines.append(
                    (
                        ratio.title,
                        network,
                        str(connections),
                        *span(rate, "{:.2f}"),
                        "" if tail is None else f"{tail.median:.2f}",
                        aim,
                        verdict,
                    )
                )
    columns = ("ratio", "shape", "connections", "requests/s", "min - max", "p99", "aim", "verdict")
    return Sheet("Chainrule's predictions ÷ those of others, within a round", columns, lines)


def _verdict(rate: Spread | None, tail: Spread | None, aim: float) -> str:
    if rate is None:
        return "not measured"
    return "met" if rate.median >= aim and (tail is None or tail.median < 1) else "missed"


def _whole(found: Predictions) -> Sheet:
    binary = spread(one.binary for one in found.tables if one.binary is not None)
    bare = spread(one.bare for one in found.tables if one.bare is not None)
    share = spread(one.bare / one.binary for one in found.tables if one.binary is not None and one.bare is not None)
    csv = spread(one.csv / 1e6 for one in found.tables if one.csv is not None)
    lines: list[tuple[str, ...]] = [
        (f"{ROWS:,} rows as a binary tensor, ms", *_in_ms(binary), "", ""),
        ("the bare forward pass, ms", *_in_ms(bare), "", ""),
        ("bare ÷ binary", *span(share, "{:.2f}"), f"≥ {LEAST_OF_FORWARD:g}", _verdict(share, None, LEAST_OF_FORWARD)),
        ("CSV in, CSV out, MB/s of input", *span(csv, "{:.1f}"), f"≥ {LEAST_CSV:g}", _verdict(csv, None, LEAST_CSV)),
    ]
    problems = tuple(dict.fromkeys(problem for one in found.tables for problem in one.problems))
    remarks = (
        f"The tensor: {found.networks[1]}, float32, one request after the other, to the last byte of the answer; the "
        "forward pass alone has a process of its own and one BLAS thread, as the API process has.",
        f"CSV: {found.networks[0]}.",
        *problems,
    )
    return Sheet(
        "Whole tables, predicted by Chainrule", ("what", "median", "min - max", "aim", "verdict"), lines, remarks
    )


def _in_ms(seconds: Spread | None) -> tuple[str, str]:
    if seconds is None:
        return "", ""
    return f"{seconds.median * 1e3:.0f}", f"{seconds.least * 1e3:.0f} - {seconds.most * 1e3:.0f}"


def summary(found: Predictions) -> dict[str, Any]:
    """The figures, for the file."""
    ratios = [
        {
            "title": ratio.title,
            "network": network,
            "connections": connections,
            "requests_per_second": rate and asdict(rate),
            "p99": tail and asdict(tail),
            "aim": ratio.aims[network],
        }
        for ratio in _ratios(found.networks)
        for network in found.networks
        for connections in CONNECTIONS
        for rate in (_rate(found, ratio, network, connections),)
        for tail in (_tail(found, ratio, network, connections),)
    ]
    return {**asdict(found), "ratios": ratios}
