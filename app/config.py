"""Configuration: environment variables in, one frozen object out (contract config.md).

Runs in: the master, once, before any fork; control and the workers' start messages get it from there.
Owns: every variable's name, default and validation.

Rules
1. A field is called like its variable in lower case. An empty variable is an unset one.
2. What cannot be parsed falls back to the default and leaves a line in `warnings` that names the variable; what makes a start
   pointless or dangerous raises ConfigError with one line.
3. Variables of features that are not built yet have no field yet.

Not here: proxies and SSL_CERT_FILE, which the standard library and OpenSSL read themselves.
"""

import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from shm.reach import is_local_host

Networks = tuple[IPv4Network | IPv6Network, ...]
LogLevel = Literal["info", "debug", "warn", "error"]
Placement = Literal["dedicated", "shared", "auto"]
RtpIo = Literal["auto", "uring", "epoll"]
Word = TypeVar("Word", bound=str)

LOG_LEVELS: tuple[LogLevel, ...] = ("info", "debug", "warn", "error")  # the first is the default
PLACEMENTS: tuple[Placement, ...] = ("dedicated", "shared", "auto")
RTP_IOS: tuple[RtpIo, ...] = ("auto", "uring", "epoll")

SAMPLE_RATES_HZ = (8000, 16000, 48000)
KNOWN_CODECS = ("PCMU", "PCMA", "G722", "opus", "L16", "AMR-WB", "AMR-NB")
DEFAULT_CODECS = ("PCMU", "PCMA", "G722", "opus")
TRUSTED_NETWORKS = "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,169.254.0.0/16,::1/128,fc00::/7,fe80::/10"
RTP_PORTS_AT_LEAST = 100
RECORDING_DIR, TTS_CACHE_DIR = "/tmp/recordings", "/tmp/tts_cache"  # noqa: S108 - the contract's defaults

_TRUE = frozenset(("true", "1", "yes", "on"))
_FALSE = frozenset(("false", "0", "no", "off"))
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_INSTANCE_ID = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]+")  # printable ASCII but " and \
_SIP_URI = re.compile(
    r"sips?:(?:[^@\s<>]+@)?(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?(?:;[^\s<>]*)?", re.IGNORECASE
)
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9.]+)(ms|s|m|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class ConfigError(Exception):
    """The start is refused; the text is one line for the operator."""


class Address(NamedTuple):
    host: str  # "" = all interfaces
    port: int


DEFAULT_HTTP_ADDRESS = Address("", 8080)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Durations in seconds. `0` or "" where a variable is unset and has no default."""

    instance_id: str
    http_addr: Address = DEFAULT_HTTP_ADDRESS
    log_level: LogLevel = "info"
    default_sample_rate: int = 16000
    allowed_ips: Networks = ()
    trust_proxy_headers: bool = False
    webhook_url: str = ""
    webhook_secret: str = field(default="", repr=False)
    vsi_event_buffer_size: int = 256
    speech_detection_enabled: bool = False
    comfort_noise_enabled: bool = True
    requests_ca_bundle: str = ""

    sip_bind_ip: str = "127.0.0.1"
    sip_listen_ip: str = "127.0.0.1"
    sip_bind_ipv6: str = ""
    sip_listen_ipv6: str = ""
    sip_external_ip: str = ""
    sip_domain: str = ""
    sip_port: int = 5060
    sip_tcp_enabled: bool = False
    sip_tls_port: int = 0
    sip_tls_cert: str = ""
    sip_tls_key: str = ""
    sip_tls_ca_file: str = ""
    sip_tls_insecure_skip_verify: bool = False
    sip_host: str = "voiceblender"
    sip_debug: bool = False
    sip_codecs: tuple[str, ...] = DEFAULT_CODECS
    rtp_port_min: int = 10000  # both 0: the OS chooses
    rtp_port_max: int = 20000
    sip_jitter_buffer_ms: int = 0
    sip_jitter_buffer_max_ms: int = 300
    sip_auto_ringing: bool = False
    sip_use_source_socket: bool = False
    sip_sdp_strict_mline_answer: bool = True
    sip_outbound_proxy: str = ""
    sip_trusted_ips: Networks = ()

    room_placement: Placement = "dedicated"
    room_dedicated_max: int = 0
    room_shared_workers: int = 1
    rtp_workers: int = 1
    rtp_io: RtpIo = "auto"
    stream_workers: int = 1
    max_legs: int = 4096
    state_dir: str = ""
    fetch_allow_private: bool = True

    recording_dir: str = RECORDING_DIR
    s3_bucket: str = ""
    s3_region: str = ""  # unset: us-east-1
    aws_region: str = ""  # of Polly where S3_REGION is unset
    s3_endpoint: str = ""
    s3_prefix: str = ""
    s3_allow_insecure_endpoint: bool = False
    tts_cache_enabled: bool = False
    tts_cache_dir: str = TTS_CACHE_DIR
    tts_cache_include_api_key: bool = False
    tts_cache_max_bytes: int = 0  # 0 = unbounded
    elevenlabs_api_key: str = field(default="", repr=False)
    deepgram_api_key: str = field(default="", repr=False)
    vapi_api_key: str = field(default="", repr=False)
    elevenlabs_api_base: str = "https://api.elevenlabs.io"
    deepgram_api_base: str = "https://api.deepgram.com"
    deepgram_agent_base: str = "wss://agent.deepgram.com"
    vapi_api_base: str = "https://api.vapi.ai"
    polly_endpoint: str = ""
    google_tts_base: str = "https://texttospeech.googleapis.com"
    ws_jitter_buffer_ms: int = 0

    warnings: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Config":
        """Read and check everything. Raises ConfigError."""
        read = _Reader(environ)
        cores = len(os.sched_getaffinity(0))
        bind_ip = read.address("SIP_BIND_IP", "127.0.0.1")
        bind_ipv6 = read.address("SIP_BIND_IPV6", "")
        rtp_port_min, rtp_port_max = read.rtp_ports()
        jitter_ms = max(0, read.integer("SIP_JITTER_BUFFER_MS", 0))
        return cls(
            instance_id=read.instance_id(),
            http_addr=read.http_address(),
            log_level=read.choice("LOG_LEVEL", LOG_LEVELS),
            default_sample_rate=read.sample_rate("DEFAULT_SAMPLE_RATE", 16000),
            allowed_ips=read.networks("ALLOWED_IPS", ""),
            trust_proxy_headers=read.flag("TRUST_PROXY_HEADERS", False),
            webhook_url=read.text("WEBHOOK_URL"),
            webhook_secret=read.text("WEBHOOK_SECRET"),
            vsi_event_buffer_size=min(max(read.integer("VSI_EVENT_BUFFER_SIZE", 256), 16), 1_000_000),
            speech_detection_enabled=read.flag("SPEECH_DETECTION_ENABLED", False),
            comfort_noise_enabled=read.flag("COMFORT_NOISE_ENABLED", True),
            requests_ca_bundle=read.text("REQUESTS_CA_BUNDLE"),
            sip_bind_ip=bind_ip,
            sip_listen_ip=read.address("SIP_LISTEN_IP", bind_ip),
            sip_bind_ipv6=bind_ipv6,
            sip_listen_ipv6=read.address("SIP_LISTEN_IPV6", bind_ipv6),
            sip_external_ip=read.text("SIP_EXTERNAL_IP"),
            sip_domain=read.text("SIP_DOMAIN"),
            sip_port=read.port("SIP_PORT", 5060),
            sip_tcp_enabled=read.flag("SIP_TCP_ENABLED", False),
            sip_tls_port=read.tls_port(),
            sip_tls_cert=read.text("SIP_TLS_CERT"),
            sip_tls_key=read.text("SIP_TLS_KEY"),
            sip_tls_ca_file=read.text("SIP_TLS_CA_FILE"),
            sip_tls_insecure_skip_verify=read.flag("SIP_TLS_INSECURE_SKIP_VERIFY", False),
            sip_host=read.text("SIP_HOST") or "voiceblender",
            sip_debug=read.flag("SIP_DEBUG", False),
            sip_codecs=read.codecs(),
            rtp_port_min=rtp_port_min,
            rtp_port_max=rtp_port_max,
            sip_jitter_buffer_ms=jitter_ms,
            sip_jitter_buffer_max_ms=max(read.integer("SIP_JITTER_BUFFER_MAX_MS", 300), jitter_ms),
            sip_auto_ringing=read.flag("SIP_AUTO_RINGING", False),
            sip_use_source_socket=read.flag("SIP_USE_SOURCE_SOCKET", False),
            sip_sdp_strict_mline_answer=read.flag("SIP_SDP_STRICT_MLINE_ANSWER", True),
            sip_outbound_proxy=read.sip_uri("SIP_OUTBOUND_PROXY"),
            sip_trusted_ips=read.networks("SIP_TRUSTED_IPS", TRUSTED_NETWORKS),
            room_placement=read.choice("ROOM_PLACEMENT", PLACEMENTS),
            room_dedicated_max=read.count("ROOM_DEDICATED_MAX", 50 * cores),
            room_shared_workers=read.count("ROOM_SHARED_WORKERS", cores),
            rtp_workers=read.count("RTP_WORKERS", cores),
            rtp_io=read.choice("RTP_IO", RTP_IOS),
            stream_workers=read.count("STREAM_WORKERS", 1),
            max_legs=read.count("MAX_LEGS", 4096),
            state_dir=read.text("STATE_DIR"),
            fetch_allow_private=read.flag("FETCH_ALLOW_PRIVATE", True),
            recording_dir=read.text("RECORDING_DIR") or RECORDING_DIR,
            s3_bucket=read.text("S3_BUCKET"),
            s3_region=read.text("S3_REGION"),
            aws_region=read.text("AWS_REGION"),
            s3_endpoint=read.s3_endpoint(),
            s3_prefix=read.text("S3_PREFIX"),
            s3_allow_insecure_endpoint=read.flag("S3_ALLOW_INSECURE_ENDPOINT", False),
            tts_cache_enabled=read.flag("TTS_CACHE_ENABLED", False),
            tts_cache_dir=read.cache_dir(),
            tts_cache_include_api_key=read.flag("TTS_CACHE_INCLUDE_API_KEY", False),
            tts_cache_max_bytes=max(0, read.integer("TTS_CACHE_MAX_BYTES", 0)),
            elevenlabs_api_key=read.text("ELEVENLABS_API_KEY"),
            deepgram_api_key=read.text("DEEPGRAM_API_KEY"),
            vapi_api_key=read.text("VAPI_API_KEY"),
            elevenlabs_api_base=read.text("ELEVENLABS_API_BASE") or "https://api.elevenlabs.io",
            deepgram_api_base=read.text("DEEPGRAM_API_BASE") or "https://api.deepgram.com",
            deepgram_agent_base=read.text("DEEPGRAM_AGENT_BASE") or "wss://agent.deepgram.com",
            vapi_api_base=read.text("VAPI_API_BASE") or "https://api.vapi.ai",
            polly_endpoint=read.text("POLLY_ENDPOINT"),
            google_tts_base=read.text("GOOGLE_TTS_BASE") or "https://texttospeech.googleapis.com",
            ws_jitter_buffer_ms=max(0, read.integer("WS_JITTER_BUFFER_MS", 0)),
            warnings=tuple(read.warnings),
        )


def parse_duration_s(text: str) -> float:
    """`1m30s`, `500ms`, `0` in seconds. Raises ValueError."""
    if text == "0":
        return 0.0
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration")
    return sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION_PART.findall(text))


def parse_networks(text: str) -> Networks:
    """Addresses and CIDRs, comma-separated; IPv4-mapped ones become IPv4. Raises ValueError."""
    networks: list[IPv4Network | IPv6Network] = []
    for item in _items(text):
        network = ip_network(item, strict=False)
        mapped = getattr(network.network_address, "ipv4_mapped", None)
        if mapped is not None and network.prefixlen >= _MAPPED_PREFIX:
            network = ip_network((mapped, network.prefixlen - _MAPPED_PREFIX))
        networks.append(network)
    return tuple(networks)


_MAPPED_PREFIX = 96  # ::ffff:0:0/96


def _items(text: str) -> list[str]:
    return [item for item in (part.strip() for part in text.split(",")) if item]


class _Reader:
    """One environment being read; collects warnings on the way."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.warnings: list[str] = []

    def text(self, name: str) -> str:
        return self._environ.get(name, "")

    def _ignore(self, name: str, text: str, wanted: str) -> None:
        self.warnings.append(f"{name}: {text!r} is not {wanted}, the default is used")

    def integer(self, name: str, default: int) -> int:
        text = self.text(name).strip()
        if not text:
            return default
        if not _INTEGER.fullmatch(text):
            self._ignore(name, text, "an integer")
            return default
        return int(text)

    def count(self, name: str, default: int) -> int:
        """An integer of at least 1."""
        value = self.integer(name, default)
        if value < 1:
            self._ignore(name, str(value), "1 or more")
            return default
        return value

    def flag(self, name: str, default: bool) -> bool:
        text = self.text(name).strip().lower()
        if not text or text in _TRUE or text in _FALSE:
            return default if not text else text in _TRUE
        self._ignore(name, text, "true or false")
        return default

    def choice(self, name: str, words: tuple[Word, ...]) -> Word:
        """One of `words`, in any case; the first is the default."""
        text = self.text(name).strip().lower()
        for word in words:
            if text == word:
                return word
        if text:
            self._ignore(name, text, "one of " + ", ".join(words))
        return words[0]

    def sample_rate(self, name: str, default: int) -> int:
        value = self.integer(name, default)
        if value not in SAMPLE_RATES_HZ:
            self._ignore(name, str(value), "8000, 16000 or 48000")
            return default
        return value

    def port(self, name: str, default: int) -> int:
        """A port number; refuses the start where it is none."""
        text = self.text(name).strip()
        if not text:
            return default
        if not _INTEGER.fullmatch(text) or not 0 < int(text) <= 65535:
            raise ConfigError(f"{name}: {text!r} is not a port number")
        return int(text)

    def tls_port(self) -> int:
        port = self.port("SIP_TLS_PORT", 0)
        if port and not (self.text("SIP_TLS_CERT") and self.text("SIP_TLS_KEY")):
            raise ConfigError("SIP_TLS_PORT: needs SIP_TLS_CERT and SIP_TLS_KEY")
        return port

    def s3_endpoint(self) -> str:
        endpoint = self.text("S3_ENDPOINT").strip()
        try:
            url = urlsplit(endpoint)
            host = url.hostname or ""
        except ValueError:
            url, host = urlsplit(""), ""
        if endpoint and (url.scheme not in ("http", "https") or not host):
            raise ConfigError(f"S3_ENDPOINT: {endpoint!r} is not an http or https URL")
        if url.scheme == "http" and not is_local_host(host) and not self.flag("S3_ALLOW_INSECURE_ENDPOINT", False):
            raise ConfigError(
                "S3_ENDPOINT: plain http to a host that is not local; S3_ALLOW_INSECURE_ENDPOINT permits it"
            )
        return endpoint

    def cache_dir(self) -> str:
        """TTS_CACHE_DIR; made here where the cache is enabled, and the start refused where that fails."""
        path = self.text("TTS_CACHE_DIR") or TTS_CACHE_DIR
        if self.flag("TTS_CACHE_ENABLED", False):
            try:
                Path(path).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"TTS_CACHE_DIR: {path} cannot be used: {error.strerror}") from None
            if not os.access(path, os.W_OK | os.X_OK):
                raise ConfigError(f"TTS_CACHE_DIR: {path} cannot be written")
        return path

    def rtp_ports(self) -> tuple[int, int]:
        texts = [self.text(name).strip() for name in ("RTP_PORT_MIN", "RTP_PORT_MAX")]
        if not any(texts):
            return 10000, 20000
        if not all(_INTEGER.fullmatch(text) for text in texts):
            raise ConfigError("RTP_PORT_MIN, RTP_PORT_MAX: set both to port numbers, or neither")
        low, high = map(int, texts)
        if (low, high) == (0, 0):
            return 0, 0
        if not 1024 <= low < high <= 65535 or high - low < RTP_PORTS_AT_LEAST:
            raise ConfigError(
                f"RTP_PORT_MIN, RTP_PORT_MAX: {low}-{high} is not a range within 1024-65535 of at least "
                f"{RTP_PORTS_AT_LEAST} ports"
            )
        return low, high

    def address(self, name: str, default: str) -> str:
        text = self.text(name).strip()
        if not text:
            return default
        try:
            ip_address(text)
        except ValueError:
            raise ConfigError(f"{name}: {text!r} is not an IP address") from None
        return text

    def http_address(self) -> Address:
        text = self.text("HTTP_ADDR").strip() or ":8080"
        host, colon, port = text.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not colon or not _INTEGER.fullmatch(port) or not 0 <= int(port) <= 65535:
            raise ConfigError(f"HTTP_ADDR: {text!r} is not host:port")
        return Address(host, int(port))

    def networks(self, name: str, default: str) -> Networks:
        try:
            return parse_networks(self.text(name) or default)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None

    def sip_uri(self, name: str) -> str:
        text = self.text(name).strip()
        if text and not _SIP_URI.fullmatch(text):
            raise ConfigError(f"{name}: {text!r} is not a sip: or sips: URI")
        return text

    def codecs(self) -> tuple[str, ...]:
        known = {name.lower(): name for name in KNOWN_CODECS}
        wanted = [known.get(item.lower(), "") for item in _items(self.text("SIP_CODECS"))]
        if not all(wanted):
            self.warnings.append(f"SIP_CODECS: {self.text('SIP_CODECS')!r} has unknown names, which are left out")
        return tuple(dict.fromkeys(filter(None, wanted))) or DEFAULT_CODECS

    def instance_id(self) -> str:
        text = self.text("INSTANCE_ID")
        if text and not _INSTANCE_ID.fullmatch(text):
            raise ConfigError("INSTANCE_ID: only printable ASCII without quote and backslash")
        return text or str(uuid.uuid4())
