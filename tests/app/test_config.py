import dataclasses
import re
from pathlib import Path

import pytest

from app.config import Address, Config, ConfigError, parse_duration_s

ENV_EXAMPLE = Path(__file__).parents[2] / "etc" / "roomtone.env.example"


def read(**environ):
    return Config.from_environment(environ)


def test_defaults_of_an_empty_environment():
    config = read()
    assert config.http_addr == Address("", 8080)
    assert (config.sip_bind_ip, config.sip_listen_ip, config.sip_port) == ("127.0.0.1", "127.0.0.1", 5060)
    assert (config.rtp_port_min, config.rtp_port_max) == (10000, 20000)
    assert config.sip_codecs == ("PCMU", "PCMA", "G722", "opus")
    assert config.sip_sdp_strict_mline_answer
    assert config.comfort_noise_enabled
    assert not config.speech_detection_enabled
    assert (config.max_legs, config.room_placement, config.rtp_io) == (4096, "dedicated", "auto")
    assert config.warnings == ()


def test_empty_is_unset():
    names = {field.name.upper(): "" for field in dataclasses.fields(Config)}
    unset = dataclasses.replace(read(), instance_id="")
    assert dataclasses.replace(read(**names), instance_id="") == unset


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("HTTP_ADDR", "127.0.0.1:9000", Address("127.0.0.1", 9000)),
        ("HTTP_ADDR", "[::1]:80", Address("::1", 80)),
        ("HTTP_ADDR", ":0", Address("", 0)),
        ("TRUST_PROXY_HEADERS", "YES", True),
        ("TRUST_PROXY_HEADERS", "on", True),
        ("COMFORT_NOISE_ENABLED", "Off", False),
        ("COMFORT_NOISE_ENABLED", "0", False),
        ("VSI_EVENT_BUFFER_SIZE", "1", 16),
        ("VSI_EVENT_BUFFER_SIZE", "99999999", 1_000_000),
        ("SIP_CODECS", " pcma, OPUS ,PCMA,,", ("PCMA", "opus")),
        ("DEFAULT_SAMPLE_RATE", "48000", 48000),
        ("LOG_LEVEL", "DEBUG", "debug"),
        ("ROOM_PLACEMENT", "auto", "auto"),
        ("RTP_IO", "epoll", "epoll"),
        ("SIP_JITTER_BUFFER_MS", "-5", 0),
        ("SIP_OUTBOUND_PROXY", "sip:proxy.example.org:5070;transport=tcp", "sip:proxy.example.org:5070;transport=tcp"),
        ("SIP_OUTBOUND_PROXY", "sips:[2001:db8::1]", "sips:[2001:db8::1]"),
    ],
)
def test_values(name, text, value):
    config = read(**{name: text})
    assert getattr(config, name.lower()) == value
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("MAX_LEGS", "many", 4096),
        ("MAX_LEGS", "0", 4096),
        ("MAX_LEGS", "1e3", 4096),
        ("MAX_LEGS", "1_000", 4096),
        ("MAX_LEGS", "٣", 4096),
        ("TRUST_PROXY_HEADERS", "maybe", False),
        ("DEFAULT_SAMPLE_RATE", "44100", 16000),
        ("LOG_LEVEL", "loud", "info"),
        ("ROOM_PLACEMENT", "elsewhere", "dedicated"),
        ("SIP_CODECS", "speex", ("PCMU", "PCMA", "G722", "opus")),
        ("SIP_CODECS", "speex,PCMA", ("PCMA",)),
    ],
)
def test_unusable_values_fall_back_and_are_named(name, text, value):
    config = read(**{name: text})
    assert getattr(config, name.lower()) == value
    [warning] = config.warnings
    assert warning.startswith(f"{name}: ")


@pytest.mark.parametrize(
    "environ",
    [
        {"SIP_PORT": "sip"},
        {"SIP_PORT": "0"},
        {"SIP_PORT": "65536"},
        {"HTTP_ADDR": "8080"},
        {"HTTP_ADDR": ":http"},
        {"HTTP_ADDR": ":70000"},
        {"SIP_TLS_PORT": "5061"},
        {"SIP_TLS_PORT": "5061", "SIP_TLS_CERT": "cert.pem"},
        {"RTP_PORT_MIN": "10000"},
        {"RTP_PORT_MAX": "10000"},
        {"RTP_PORT_MIN": "20000", "RTP_PORT_MAX": "10000"},
        {"RTP_PORT_MIN": "10000", "RTP_PORT_MAX": "10000"},
        {"RTP_PORT_MIN": "10000", "RTP_PORT_MAX": "10099"},
        {"RTP_PORT_MIN": "1000", "RTP_PORT_MAX": "2000"},
        {"RTP_PORT_MIN": "60000", "RTP_PORT_MAX": "70000"},
        {"RTP_PORT_MIN": "0", "RTP_PORT_MAX": "20000"},
        {"ALLOWED_IPS": "10.0.0.0/8,everyone"},
        {"ALLOWED_IPS": "10.0.0.0/33"},
        {"SIP_TRUSTED_IPS": "friends"},
        {"SIP_OUTBOUND_PROXY": "proxy.example.org"},
        {"SIP_OUTBOUND_PROXY": "sip:"},
        {"SIP_OUTBOUND_PROXY": "sip:a b"},
        {"SIP_BIND_IP": "localhost"},
        {"INSTANCE_ID": 'say "hi"'},
        {"INSTANCE_ID": "back\\slash"},
        {"INSTANCE_ID": "ü"},
        {"INSTANCE_ID": "a\nb"},
    ],
)
def test_fatal_ones_name_their_variable_in_one_line(environ):
    with pytest.raises(ConfigError, match="^" + ".*".join(list(environ)[:1])) as caught:
        read(**environ) if list(environ) != ["RTP_PORT_MAX"] else read_max(environ)
    assert "\n" not in str(caught.value)


def read_max(environ):
    try:
        read(**environ)
    except ConfigError as error:
        raise ConfigError(str(error).replace("RTP_PORT_MIN, ", "")) from None


def test_ports_of_the_os():
    config = read(RTP_PORT_MIN="0", RTP_PORT_MAX="0")
    assert (config.rtp_port_min, config.rtp_port_max) == (0, 0)


def test_smallest_range():
    assert read(RTP_PORT_MIN="10000", RTP_PORT_MAX="10100").rtp_port_max == 10100


def test_jitter_ceiling_is_at_least_the_target():
    config = read(SIP_JITTER_BUFFER_MS="500")
    assert (config.sip_jitter_buffer_ms, config.sip_jitter_buffer_max_ms) == (500, 500)


def test_listen_addresses_follow_the_bind_addresses():
    config = read(SIP_BIND_IP="192.0.2.1", SIP_BIND_IPV6="2001:db8::1", SIP_LISTEN_IP="0.0.0.0")
    assert (config.sip_listen_ip, config.sip_listen_ipv6) == ("0.0.0.0", "2001:db8::1")


def test_instance_ids():
    assert read(INSTANCE_ID="site 7 / A~").instance_id == "site 7 / A~"
    assert read().instance_id != read().instance_id


def test_secrets_do_not_show():
    assert "hush" not in repr(read(WEBHOOK_SECRET="hush"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0s", 0), ("500ms", 0.5), ("1m30s", 90), ("6h", 21600), ("1.5s", 1.5), ("2h0.5m", 7230)],
)
def test_durations(text, seconds):
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 s", "1d", "1s2", ".5s", "1e3s"])
def test_no_durations(text):
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration_s(text)


def test_the_example_names_every_variable_and_no_other():
    named = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", ENV_EXAMPLE.read_text(), re.MULTILINE))
    fields = {field.name.upper() for field in dataclasses.fields(Config)} - {"WARNINGS"}
    assert named == fields


def test_the_defaults_in_the_example_are_the_defaults():
    lines = re.findall(r"^#([A-Z][A-Z0-9_]+)=(\S+)", ENV_EXAMPLE.read_text(), re.MULTILINE)
    assert dataclasses.replace(read(**dict(lines)), instance_id="") == dataclasses.replace(read(), instance_id="")


def test_an_s3_endpoint_is_a_url_and_plain_http_stays_at_home():
    for endpoint in ("http://127.0.0.1:9000", "http://minio:9000", "http://s3.internal", "https://s3.example.com"):
        assert read(S3_ENDPOINT=endpoint).s3_endpoint == endpoint
    assert read(S3_ENDPOINT="http://s3.example.com", S3_ALLOW_INSECURE_ENDPOINT="true").s3_endpoint
    for endpoint in ("s3.example.com", "ftp://minio", "http://", "http://[::1", "http://s3.example.com"):
        with pytest.raises(ConfigError, match="S3_ENDPOINT"):
            read(S3_ENDPOINT=endpoint)
