"""From raw readings to figures, and from figures to a table.

Runs in: scripts/bench. Pure: no clock, no process.
Not here: what the generator counts -> the head of loadgen.c.
"""

import math
from dataclasses import dataclass
from typing import Any

from benchlib.calls import SetUp
from benchlib.processes import Memory
from benchlib.server import Ending
from benchlib.services import Cost
from benchlib.window import Window

PACKETS_PER_S = 50


@dataclass(frozen=True)
class Readings:
    """All that one run of the bench collected."""

    legs: int
    rooms: int
    setup: SetUp
    window: Window
    memory_idle: dict[str, Memory]
    memory_loaded: dict[str, Memory]
    metrics: dict[str, float | str]
    ready_seconds: float
    costs: dict[str, Cost]  # of services, by name
    ending: Ending


def percentile(values: list[float], share: float) -> float | None:
    """Nearest rank; None without values."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)] if values else None


def room_kib(memory: dict[str, Memory]) -> int:
    return sum(kind.pss_kib for name, kind in memory.items() if name.startswith("room"))


def total_kib(memory: dict[str, Memory]) -> int:
    return sum(kind.pss_kib for kind in memory.values())


def memory_figures(readings: Readings, up: int) -> dict[str, Any]:
    """A room costs what the room workers map; a leg what all the others grew by."""
    idle, loaded = readings.memory_idle, readings.memory_loaded
    others = total_kib(loaded) - room_kib(loaded) - (total_kib(idle) - room_kib(idle))
    return {
        "total_mib": total_kib(loaded) / 1024,
        "idle_mib": total_kib(idle) / 1024,
        "per_room_kib": room_kib(loaded) / readings.rooms,
        "per_leg_kib": others / up if up else None,
        "by_kind": {name: vars(kind) for name, kind in sorted(loaded.items())},
    }


def us_by_kind(window: Window, up: int) -> dict[str, float]:
    """CPU per leg and second of each kind of process."""
    return {kind: ns / 1e3 / (up * window.seconds) for kind, ns in sorted(window.cpu_ns_by_kind.items()) if up}


def cost_figures(cost: Cost, up: int) -> dict[str, Any]:
    """What a service adds to the mean of the windows around it."""
    before, during, after = (us_by_kind(window, up) for window in (cost.before, cost.during, cost.after))
    bare = {kind: (us + after.get(kind, us)) / 2 for kind, us in before.items()}
    added = {kind: us - bare.get(kind, 0.0) for kind, us in during.items()}
    return {
        "cpu_us_per_leg_second": sum(during.values()),
        "bare_us_per_leg_second": sum(bare.values()),
        "bare_drift_share": sum(after.values()) / sum(before.values()) - 1,
        "added_us_per_leg_second": sum(added.values()),
        "added_share": sum(added.values()) / sum(bare.values()),
        "added_us_per_leg_second_by_kind": added,
        "packets_lost": sum(leg["lost"] for leg in cost.during.generator["legs"]),
        "rooms": cost.rooms,
        "rooms_whole": cost.rooms_whole,
    }


def figures(readings: Readings) -> dict[str, Any]:
    """The figures of the table and of the JSON; None where nothing was measured."""
    window = readings.window
    result = window.generator
    legs = result["legs"]
    up = sum(leg["is_up"] for leg in legs)
    total = {name: sum(leg[name] for leg in legs) for name in legs[0] if name not in ("room", "index")} if legs else {}
    listeners = [leg for leg in legs if leg["bursts_expected"]]
    received, lost = total.get("received", 0), total.get("lost", 0)
    blocks_expected = total.get("bursts_expected", 0) * result["blocks_per_burst"]
    leg_seconds = up * window.seconds
    server_us = sum(window.cpu_ns_by_kind.values()) / 1e3
    return {
        "legs_up": up,
        "cpu_us_per_leg_second": server_us / leg_seconds if up else None,
        "cpu_us_per_leg_second_by_kind": us_by_kind(window, up),
        "legs_per_core": 1e6 / (server_us / leg_seconds) if up and server_us else None,
        "generator_us_per_leg_second": window.generator_ns / 1e3 / leg_seconds if up else None,
        "packets_received": received,
        "packets_lost": lost,
        "loss_share": lost / (received + lost) if received else None,
        "packets_by_time_share": received / (up * PACKETS_PER_S * result["seconds"]) if up else None,
        **{
            name: total.get(name, 0)
            for name in ("reordered", "duplicates", "odd", "ssrc_changes", "stray", "rtcp_received")
        },
        "gap_ms": result["gap_ms"],
        "mouth_to_ear_ms": result["mouth_to_ear_ms"],
        "listeners": len(listeners),
        "listeners_hear_the_others": sum(leg["talkers_missed"] == 0 for leg in listeners),
        "legs_hear_themselves": sum(leg["self_heard"] > 0 for leg in legs),
        "legs_hear_other_rooms": sum(leg["foreign_heard"] > 0 for leg in legs),
        "bursts_expected": total.get("bursts_expected", 0),
        "bursts_heard": total.get("bursts_heard", 0),
        "audio_heard_share": total.get("blocks_heard", 0) / blocks_expected if blocks_expected else None,
        "calls_per_second": len(readings.setup.setup_ms) / readings.setup.seconds if readings.setup.seconds else None,
        "setup_ms": {
            "p50": percentile(readings.setup.setup_ms, 0.5),
            "p99": percentile(readings.setup.setup_ms, 0.99),
            "max": max(readings.setup.setup_ms, default=None),
        },
        "invite_to_ack_ms": {
            "p50": percentile([leg["setup_ms"] for leg in legs], 0.5),
            "p99": percentile([leg["setup_ms"] for leg in legs], 0.99),
        },
        "setup_failures": readings.setup.failures,
        "events_dropped": readings.setup.events_dropped,
        "services": {name: cost_figures(cost, up) for name, cost in readings.costs.items() if up},
        "memory": memory_figures(readings, up),
        "server_metrics": readings.metrics,
        "server_ready_seconds": readings.ready_seconds,
        "ending": vars(readings.ending),
        "generator_send_late_ms": result["send_late_ms"],
        "generator_scheduling": result["scheduling"],
    }


def number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def spread(values: dict[str, float] | None, *names: str) -> str:
    return " / ".join(number((values or {}).get(name)) for name in names)


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3%}"


def cost_rows(name: str, cost: dict[str, Any]) -> list[tuple[str, str, str]]:
    added = cost["added_us_per_leg_second"]
    unit = f"us on {number(cost['bare_us_per_leg_second'], 0)}, which drifted by {cost['bare_drift_share']:+.1%}"
    return [
        (f"{name} in every room adds", f"{added:+,.0f} ({cost['added_share']:+.1%})", unit),
        *(
            (f"  {kind}", f"{us:+,.0f}", "us")
            for kind, us in cost["added_us_per_leg_second_by_kind"].items()
            if round(us)
        ),
        ("  lasted in", f"{cost['rooms_whole']} of {cost['rooms']}", f"rooms, {cost['packets_lost']} packets lost"),
    ]


def table(found: dict[str, Any], legs: int) -> str:
    """The figures for a person, one a line: name, value, unit."""
    listeners, memory, ending = found["listeners"], found["memory"], found["ending"]
    scheduling = f"scheduled {found['generator_scheduling']}"
    by_kind = found["cpu_us_per_leg_second_by_kind"]
    rows = [
        ("legs up", f"{found['legs_up']} of {legs}", ""),
        ("server CPU per leg and second", number(found["cpu_us_per_leg_second"], 0), "us"),
        *((f"  {kind}", number(us, 0), "us") for kind, us in by_kind.items()),
        ("legs per core", number(found["legs_per_core"], 0), ""),
        *(row for name, cost in found["services"].items() for row in cost_rows(name, cost)),
        ("generator CPU per leg and second", number(found["generator_us_per_leg_second"], 0), "us"),
        (
            "generator late p50 / p99 / max",
            spread(found["generator_send_late_ms"], "p50", "p99", "max"),
            f"ms, {scheduling}",
        ),
        ("loss", f"{found['packets_lost']} ({share(found['loss_share'])})", "packets"),
        ("packets against the clock", share(found["packets_by_time_share"]), ""),
        ("gap p50 / p99 / max", spread(found["gap_ms"], "p50", "p99", "max"), "ms"),
        ("mouth to ear p50 / p99 / max", spread(found["mouth_to_ear_ms"], "p50", "p99", "max"), "ms"),
        ("listeners hear the others", f"{found['listeners_hear_the_others']} of {listeners}", ""),
        ("legs hear themselves", str(found["legs_hear_themselves"]), ""),
        ("legs hear other rooms", str(found["legs_hear_other_rooms"]), ""),
        ("bursts heard", f"{found['bursts_heard']} of {found['bursts_expected']}", ""),
        ("audio heard", share(found["audio_heard_share"]), ""),
        ("clicks and garbage", str(found["stray"]), "packets"),
        ("calls set up per second", number(found["calls_per_second"], 0), ""),
        ("set-up p50 / p99 / max", spread(found["setup_ms"], "p50", "p99", "max"), "ms"),
        ("INVITE to ACK p50 / p99", spread(found["invite_to_ack_ms"], "p50", "p99"), "ms"),
        ("memory per room", number(memory["per_room_kib"], 0), "KiB"),
        ("memory per leg", number(memory["per_leg_kib"], 0), "KiB"),
        ("memory idle / loaded", f"{number(memory['idle_mib'])} / {number(memory['total_mib'])}", "MiB"),
        ("server ready in / ended in", f"{found['server_ready_seconds']:.2f} / {ending['seconds']:.2f}", "s"),
        ("exit status", "killed" if ending["exit_code"] is None else str(ending["exit_code"]), ""),
        ("left behind", ", ".join(ending["processes_left"] + ending["segments_left"]) or "nothing", ""),
        *(
            (name, value if isinstance(value, str) else f"{value:g}", "")
            for name, value in found["server_metrics"].items()
            if value
        ),
    ]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"{name:<{width}}  {value} {unit}".rstrip() for name, value, unit in rows)
