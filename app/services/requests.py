"""What callers may ask of services (contract rooms.md, A8 to A18), and every check a body can be given by itself.

Runs in: control. Pure.
Owns: field names, defaults, and the texts of refusals.

Rules
1. A check raises CallerError and changes nothing. Types, null and "" have been dealt with in `app/api/body.py`.
2. Where the contract puts a check behind that of the room or leg (B6), it is a function of its own.
"""

import re
from typing import Any
from urllib.parse import urlsplit

import msgspec

from app.config import Config
from app.legs.requests import Carried
from shm.errors import CallerError, ResourceError

VOLUME_LIMIT = 8
TONE_COUNTRIES = ("us", "gb", "de", "fr", "au", "jp", "it", "in", "br", "pl", "ru")
TONE_TYPES = ("ringback", "busy", "dial", "congestion")
TONES = tuple(f"{country}_{type_}" for country in TONE_COUNTRIES for type_ in TONE_TYPES)

SPEECH_PROVIDERS = ("elevenlabs", "aws", "google", "deepgram", "local")
TRANSCRIPTION_PROVIDERS = ("elevenlabs", "deepgram", "local")
UNBUILT_PROVIDERS = ("azure", "deepgram_flux")
LOCAL_PROVIDERS = ("elevenlabs", "local")  # the default, and what stands in for it without a key
POLLY_ENGINES = ("", "standard", "neural", "long-form", "generative")
FILE_NAME_LIMIT_BYTES = 128

Variables = dict[str, str | int | float | bool]


class Play(msgspec.Struct, Carried, kw_only=True):
    url: str = ""
    tone: str = ""
    mime_type: str = ""
    repeat: int = 0
    volume: int = 0


class Volume(msgspec.Struct, kw_only=True):
    volume: int = 0


class Speak(msgspec.Struct, Carried, kw_only=True):
    text: str = ""
    voice: str = ""
    model_id: str = ""
    language: str = ""
    prompt: str = ""
    volume: int = 0
    provider: str = "elevenlabs"
    api_key: str = ""


class Record(msgspec.Struct, Carried, kw_only=True):
    storage: str = "file"
    multi_channel: bool = False
    s3_bucket: str = ""
    s3_region: str = ""
    s3_endpoint: str = ""
    s3_prefix: str = ""
    s3_access_key: str = ""
    s3_secret_key: str = ""
    filename: str | None = None


class Transcribe(msgspec.Struct, Carried, kw_only=True):
    language: str = "en"
    partial: bool = False
    provider: str = "elevenlabs"
    api_key: str = ""
    model: str = ""
    keyterms: list[str] = []
    endpointing: int | None = None
    utterance_end_ms: int | None = None


class ElevenLabsAgent(msgspec.Struct, Carried, kw_only=True):
    agent_id: str
    first_message: str = ""
    language: str = ""
    dynamic_variables: Variables = {}
    api_key: str = ""


class VapiAgent(msgspec.Struct, Carried, kw_only=True):
    assistant_id: str
    first_message: str = ""
    variable_values: Variables = {}
    api_key: str = ""


class PipecatAgent(msgspec.Struct, Carried, kw_only=True):
    websocket_url: str


class DeepgramAgent(msgspec.Struct, Carried, kw_only=True):
    settings: dict[str, Any] | None = None
    greeting: str = ""
    language: str = ""
    api_key: str = ""


class AgentMessage(msgspec.Struct, Carried, kw_only=True):
    message: str


# ------------------------------------------------------------------------------------------------ playback and speech


def check_play(request: Play) -> str:
    """The tone's full name, or "". Raises CallerError."""
    if request.url and request.tone:
        raise CallerError("url and tone exclude each other")
    if not request.url and not request.tone:
        raise CallerError("url or tone is required")
    if request.url and not request.url.lower().startswith(("http://", "https://")):
        raise CallerError("url: only http and https")
    check_volume(request.volume)
    return full_tone_name(request.tone) if request.tone else ""


def check_volume(volume: int) -> None:
    if abs(volume) > VOLUME_LIMIT:
        raise CallerError(f"volume: from -{VOLUME_LIMIT} to {VOLUME_LIMIT}")


def full_tone_name(name: str) -> str:
    """`us_busy` for "Busy". Raises CallerError."""
    plain = name.strip().lower()
    country, _, type_ = plain.rpartition("_")
    full = f"{'gb' if country == 'uk' else country or 'us'}_{type_}"
    if full not in TONES or plain.startswith("_"):
        raise CallerError(f"unknown tone {name!r}: one of {', '.join(TONES)}, or a type alone for us")
    return full


def check_provider(provider: str, built: tuple[str, ...]) -> None:
    if provider in built:
        return
    if provider in UNBUILT_PROVIDERS:
        raise CallerError(f"provider {provider} is not implemented", 501)
    raise CallerError(f"unknown provider {provider!r}: one of {', '.join(built)}")


def key_of(config: Config, provider: str, own: str) -> str:
    """The key to be used; "" where the provider needs none or has a credential chain. Raises ResourceError."""
    keys = {
        "elevenlabs": config.elevenlabs_api_key,
        "deepgram": config.deepgram_api_key,
        "vapi": config.vapi_api_key,
    }
    key = own or keys.get(provider, "")
    if not key and provider in keys:
        raise ResourceError(f"no {provider} API key provided")
    return key


def speech_key(config: Config, provider: str, own: str) -> str:
    """As `key_of`; who has no key for the default is told what works without. Raises ResourceError."""
    try:
        return key_of(config, provider, own)
    except ResourceError as error:
        if provider != LOCAL_PROVIDERS[0]:
            raise
        raise ResourceError(f'{error}; provider "{LOCAL_PROVIDERS[1]}" needs none') from None


def check_speech(request: Speak, key: str) -> None:
    """What comes after the provider and its key."""
    if not request.text.strip():
        raise CallerError("text is required")
    if not request.voice.strip():
        raise CallerError("voice is required")
    if request.provider == "aws":
        if request.model_id not in POLLY_ENGINES:
            raise CallerError(f"model_id: one of {', '.join(POLLY_ENGINES[1:])}")
        if key and not all(key.partition(":")[::2]):
            raise CallerError("api_key: ACCESS:SECRET")
    check_volume(request.volume)


# ------------------------------------------------------------------------------------------------ recording


def file_name_of(text: str) -> str:
    """The name of a recording as a caller wants it (media.md 6.2). Raises CallerError."""
    name = text.strip()
    stem = name[:-4] if name.lower().endswith(".wav") else name
    good = re.fullmatch(r"[\w.-]+", stem) and not stem.startswith(".") and not stem.endswith(".") and ".." not in stem
    if not good or len(f"{stem}.wav".encode()) > FILE_NAME_LIMIT_BYTES:
        raise CallerError("filename: letters, digits, - _ . only, at most 128 bytes, no dot at either end")
    return f"{stem}.wav"


# ------------------------------------------------------------------------------------------------ transcription


def check_transcription(request: Transcribe) -> None:
    """The ranges of rooms.md B2."""
    for name in ("endpointing", "utterance_end_ms"):
        value = getattr(request, name)
        if value is not None and value < 0:
            raise CallerError(f"{name}: 0 or more")


def transcription_options(request: Transcribe) -> dict[str, str | int | float | list[str]]:
    """What is set, for the provider to pick from."""
    options: dict[str, str | int | float | list[str]] = {}
    if request.model:
        options["model"] = request.model
    if request.keyterms:
        options["keyterms"] = request.keyterms
    if request.endpointing is not None:
        options["endpointing"] = request.endpointing
    if request.utterance_end_ms is not None:
        options["utterance_end_ms"] = request.utterance_end_ms
    return options


# ------------------------------------------------------------------------------------------------ agents


def check_bot(request: PipecatAgent) -> None:
    """Whether its address could be a WebSocket's at all; whether it may be reached is judged where it is dialled."""
    try:
        url = urlsplit(request.websocket_url)
        is_good = url.scheme in ("ws", "wss") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise CallerError("websocket_url: a ws or wss URL")
