"""What each kind of worker is told of the configuration.

Runs in: control.
Owns: which setting goes to which process.
"""

from app.config import Config
from shm.messages import SipStart, StreamStart

DEFAULT_REGION = "us-east-1"
BUILT_CODECS = ("PCMU", "PCMA", "G722", "L16")


def sip_start(config: Config) -> SipStart:
    """The part of the configuration that signalling needs."""
    return SipStart(
        stats_row=0,
        bind_ip=config.sip_bind_ip,
        bind_ipv6=config.sip_bind_ipv6,
        port=config.sip_port,
        tls_port=config.sip_tls_port,
        external_ip=config.sip_external_ip,
        domain=config.sip_domain,
        product=config.sip_host,
        tls_cert=config.sip_tls_cert,
        tls_key=config.sip_tls_key,
        tls_ca_file=config.sip_tls_ca_file,
        tls_insecure=config.sip_tls_insecure_skip_verify,
        codecs=built_codecs(config),
        outbound_proxy=config.sip_outbound_proxy,
        auto_ringing=config.sip_auto_ringing,
        use_source_socket=config.sip_use_source_socket,
        strict_mline_answer=config.sip_sdp_strict_mline_answer,
        debug=config.sip_debug,
        ringing_limit=max(1, config.max_legs // 4),
        trusted_networks=tuple(str(network) for network in config.sip_trusted_ips),
    )


def built_codecs(config: Config) -> tuple[str, ...]:
    """SIP_CODECS as far as they are built; the built defaults where none is."""
    return tuple(name for name in config.sip_codecs if name in BUILT_CODECS) or BUILT_CODECS[:3]


def stream_start(config: Config, stats_row: int) -> StreamStart:
    """The part of the configuration that the stream process needs."""
    return StreamStart(
        stats_row=stats_row,
        fetch_allow_private=config.fetch_allow_private,
        ca_bundle=config.requests_ca_bundle,
        tts_cache_dir=config.tts_cache_dir if config.tts_cache_enabled else "",
        tts_cache_includes_key=config.tts_cache_include_api_key,
        tts_cache_max_bytes=config.tts_cache_max_bytes,
        elevenlabs_base=config.elevenlabs_api_base,
        deepgram_base=config.deepgram_api_base,
        deepgram_agent_base=config.deepgram_agent_base,
        vapi_base=config.vapi_api_base,
        polly_endpoint=config.polly_endpoint,
        polly_region=config.s3_region or config.aws_region or DEFAULT_REGION,
        google_tts_base=config.google_tts_base,
        recording_dir=config.recording_dir,
        websocket_lead_ms=config.ws_jitter_buffer_ms,
    )
