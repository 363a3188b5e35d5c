"""The contract's index of everything that can be asked (rooms.md, legs.md, events.md section 4): what is not built answers 501.

Runs in: control.
Owns: nothing that works. Whoever builds an operation lays it over its line here (`operations.overlay`); the line stays.
"""

from app.api.operations import Operation

_AGENTS = ("elevenlabs", "vapi", "pipecat", "deepgram")


def _shared(kind: str) -> list[Operation]:
    """What rooms and legs have alike."""
    base = f"/v1/{kind}s/{{{kind}_id}}"
    return [
        Operation(method="POST", path=f"{base}/play", command=f"{kind}_play_start"),
        Operation(method="PATCH", path=f"{base}/play/{{playback_id}}", command=f"{kind}_play_volume"),
        Operation(method="DELETE", path=f"{base}/play/{{playback_id}}", command=f"{kind}_play_stop"),
        Operation(method="POST", path=f"{base}/tts", command=f"{kind}_tts"),
        Operation(method="POST", path=f"{base}/record", command=f"{kind}_record_start"),
        Operation(method="DELETE", path=f"{base}/record", command=f"{kind}_record_stop"),
        Operation(method="POST", path=f"{base}/record/pause", command=f"{kind}_record_pause"),
        Operation(method="POST", path=f"{base}/record/resume", command=f"{kind}_record_resume"),
        Operation(method="POST", path=f"{base}/stt", command=f"{kind}_stt_start"),
        Operation(method="DELETE", path=f"{base}/stt", command=f"{kind}_stt_stop"),
        *(Operation(method="POST", path=f"{base}/agent/{agent}", command=f"{kind}_agent_{agent}") for agent in _AGENTS),
        Operation(method="POST", path=f"{base}/agent/message", command=f"{kind}_agent_message"),
        Operation(method="DELETE", path=f"{base}/agent", command=f"{kind}_agent_stop"),
        Operation(method="POST", path=f"{base}/siprec", command=f"{kind}_siprec_start", status=201),
    ]


_ROOM = "/v1/rooms/{room_id}"
_BRIDGE = _ROOM + "/bridges/{bridge_id}"
_LEG = "/v1/legs/{leg_id}"
_STREAM = _LEG + "/streams/{stream_id}"
_ATTEMPT = "/v1/sip/registrations/attempts/{attempt_id}"

CONTRACT: tuple[Operation, ...] = (
    Operation(method="GET", path="/v1/rooms", command="list_rooms"),
    Operation(method="POST", path="/v1/rooms", command="create_room", status=201),
    Operation(method="GET", path=_ROOM, command="get_room"),
    Operation(method="DELETE", path=_ROOM, command="delete_room"),
    Operation(
        method="POST",
        path=_ROOM + "/legs",
        command="add_leg_to_room",
        payload_id="room_id",
        vsi_echo=("room_id", "leg_id"),
    ),
    Operation(method="DELETE", path=_ROOM + "/legs/{leg_id}", command="remove_leg_from_room", payload_id="room_id"),
    *_shared("room"),
    Operation(method="GET", path=_ROOM + "/ws", status=101),
    Operation(method="GET", path=_ROOM + "/routing", command="room_routing_get"),
    Operation(method="PUT", path=_ROOM + "/routing", command="room_routing_set", payload_id="room_id"),
    Operation(method="PATCH", path=_ROOM + "/routing", command="room_routing_update", payload_id="room_id"),
    Operation(method="GET", path=_ROOM + "/bridges", command="bridge_list", payload_id="room_id"),
    Operation(method="POST", path=_ROOM + "/bridges", command="bridge_create", payload_id="room_id", status=201),
    Operation(method="GET", path=_BRIDGE, command="bridge_get", payload_id="room_id"),
    Operation(method="PATCH", path=_BRIDGE, command="bridge_update", payload_id="room_id"),
    Operation(method="DELETE", path=_BRIDGE, command="bridge_delete", payload_id="room_id"),
    Operation(method="GET", path="/v1/legs", command="list_legs"),
    Operation(method="POST", path="/v1/legs", command="create_leg", status=201),
    Operation(method="GET", path="/v1/legs/websocket", status=101),
    Operation(method="CONNECT", path="/v1/legs/moq"),
    Operation(method="GET", path=_LEG, command="get_leg"),
    Operation(method="DELETE", path=_LEG, command="delete_leg", status=202),
    Operation(method="POST", path=_LEG + "/answer", command="answer_leg", status=202),
    Operation(method="POST", path=_LEG + "/early-media", command="leg_early_media", status=202),
    Operation(method="POST", path=_LEG + "/ring", command="leg_ring", status=202),
    Operation(method="POST", path=_LEG + "/challenge", command="challenge_leg", status=202),
    Operation(method="POST", path=_LEG + "/mute", command="mute_leg"),
    Operation(method="DELETE", path=_LEG + "/mute", command="unmute_leg"),
    Operation(method="POST", path=_LEG + "/deaf", command="deaf_leg"),
    Operation(method="DELETE", path=_LEG + "/deaf", command="undeaf_leg"),
    Operation(method="POST", path=_LEG + "/hold", command="hold_leg", status=202),
    Operation(method="DELETE", path=_LEG + "/hold", command="unhold_leg", status=202),
    Operation(method="POST", path=_LEG + "/dtmf", command="send_leg_dtmf"),
    Operation(method="POST", path=_LEG + "/dtmf/accept", command="accept_leg_dtmf"),
    Operation(method="POST", path=_LEG + "/dtmf/reject", command="reject_leg_dtmf"),
    Operation(method="POST", path=_LEG + "/rtt", command="send_leg_rtt"),
    Operation(method="POST", path=_LEG + "/rtt/accept", command="accept_leg_rtt"),
    Operation(method="POST", path=_LEG + "/rtt/reject", command="reject_leg_rtt"),
    *_shared("leg"),
    Operation(method="POST", path=_LEG + "/tts/preflight", command="leg_tts_preflight"),
    Operation(method="POST", path=_LEG + "/tts/{tts_id}/commit", command="leg_tts_commit"),
    Operation(method="DELETE", path=_LEG + "/tts/{tts_id}", command="leg_tts_discard"),
    Operation(method="POST", path=_LEG + "/stt/finalize", command="leg_stt_finalize"),
    Operation(method="POST", path=_LEG + "/amd", command="leg_amd_start"),
    Operation(method="POST", path=_LEG + "/transfer", command="leg_transfer", status=202),
    Operation(method="POST", path=_LEG + "/transfer/accept", command="accept_transfer", status=202),
    Operation(method="POST", path=_LEG + "/transfer/progress", command="progress_transfer", status=202),
    Operation(method="POST", path=_LEG + "/transfer/complete", command="complete_transfer", status=202),
    Operation(method="POST", path=_LEG + "/transfer/decline", command="decline_transfer", status=202),
    Operation(method="GET", path=_LEG + "/ice-candidates", command="webrtc_get_candidates"),
    Operation(method="POST", path=_LEG + "/ice-candidates", command="webrtc_add_candidate"),
    Operation(method="PATCH", path=_LEG + "/role", command="set_leg_role", payload_id="leg_id"),
    Operation(method="GET", path=_LEG + "/siprec", command="siprec_get"),
    Operation(method="GET", path=_LEG + "/streams", command="leg_stream_list"),
    Operation(method="POST", path=_LEG + "/streams", command="leg_stream_add", payload_id="leg_id", status=201),
    Operation(method="GET", path=_STREAM, command="leg_stream_get", payload_id="leg_id"),
    Operation(method="PATCH", path=_STREAM, command="leg_stream_update", payload_id="leg_id"),
    Operation(method="DELETE", path=_STREAM, command="leg_stream_remove", payload_id="leg_id", status=204),
    Operation(method="POST", path=_STREAM + "/room", command="leg_stream_attach_room", payload_id="leg_id"),
    Operation(method="DELETE", path=_STREAM + "/room", command="leg_stream_detach_room", payload_id="leg_id"),
    Operation(method="POST", path="/v1/webrtc/offer", command="webrtc_offer"),
    Operation(method="GET", path="/v1/sip/registrations", command="list_sip_registrations"),
    Operation(
        method="DELETE",
        path="/v1/sip/registrations/{aor}",
        command="delete_sip_registration",
        payload_id="aor",
        status=204,
    ),
    Operation(method="POST", path=_ATTEMPT + "/challenge", command="challenge_registration", status=202),
    Operation(method="POST", path=_ATTEMPT + "/accept", command="accept_registration", status=202),
    Operation(method="POST", path=_ATTEMPT + "/reject", command="reject_registration", status=202),
    Operation(method="GET", path="/v1/sip/trunks", command="list_sip_trunks"),
    Operation(method="POST", path="/v1/sip/trunks", command="create_sip_trunk", status=202),
    Operation(method="GET", path="/v1/sip/trunks/{trunk_id}", command="get_sip_trunk"),
    Operation(method="DELETE", path="/v1/sip/trunks/{trunk_id}", command="delete_sip_trunk", status=202),
)
