"""`/metrics`: the contract's names and our own, moving as calls come and go."""

from __future__ import annotations

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server

pytestmark = pytest.mark.flow


def total(metrics: dict[str, float], name: str, *labels: str) -> float:
    return sum(v for k, v in metrics.items() if k.split("{")[0] == name and all(label in k for label in labels))


async def test_legs_and_rooms_are_counted(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    before = await server.metrics()
    legs = await phones.meeting(rest, "counted", (440, 660))
    during = await server.metrics()
    assert total(during, "voiceblender_active_legs") - total(before, "voiceblender_active_legs") == 2
    assert total(during, "voiceblender_active_rooms") - total(before, "voiceblender_active_rooms") == 1
    for state in ("ringing", "connected"):
        labels = 'type="sip_outbound"', f'state="{state}"'
        assert (
            total(during, "voiceblender_legs_total", *labels) - total(before, "voiceblender_legs_total", *labels) == 2
        )
    for leg_id, call in legs:
        await call.hang_up()
        await vsi.wait("leg.disconnected", leg_id=leg_id)
    after = await server.metrics()
    assert total(after, "voiceblender_active_legs") == total(before, "voiceblender_active_legs")
    reason = "voiceblender_disconnect_reasons_total", 'reason="remote_bye"'
    assert total(after, *reason) - total(before, *reason) == 2
    duration = "voiceblender_call_duration_seconds_count"
    assert total(after, duration) - total(before, duration) == 2


async def test_our_own_numbers_are_there(server: Server, rest: Rest, phones: Phones) -> None:
    await phones.meeting(rest, "numbers", (440, 660))
    names = {k.split("{")[0] for k in await server.metrics() if k.startswith("roomtone_")}
    for wanted in ("tick", "late", "lost", "concealed", "missing", "events"):
        assert any(wanted in name for name in names), f"nothing about {wanted} in {sorted(names)}"
