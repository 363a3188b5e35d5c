"""What holds for every agent vendor: a conversation from begin to end, every failure one end, and nobody sees the key."""

import asyncio

import numpy as np
import pytest

from shm.errors import CallerError
from tests.vendors.convai import ConvAi
from tests.vendors.deepgram_agent import DeepgramConverse
from tests.vendors.pipecat import Pipecat
from tests.vendors.vapi import Vapi
from tests.workers.stream.conversing import FAILURES, KEY, LIMITS, PATIENT, fed, in_time
from workers.stream.agents.deepgram import DeepgramAgent
from workers.stream.agents.elevenlabs import ElevenLabsAgent
from workers.stream.agents.pipecat import PipecatAgent
from workers.stream.agents.protocol import (
    AgentAudio,
    AgentProblem,
    AgentResponse,
    Connected,
    DeepgramRequest,
    ElevenLabsRequest,
    Interrupted,
    PipecatRequest,
    UserTranscript,
    VapiRequest,
)
from workers.stream.agents.vapi import VapiAgent
from workers.stream.feed import AudioFeed
from workers.stream.vendor_socket import CLOSED, STOPPED, SocketLimits, VendorError


def elevenlabs(http, fake, limits=PATIENT, key=KEY):
    return ElevenLabsAgent(http, ElevenLabsRequest("agent 1", key), fake.url, limits)


def vapi(http, fake, limits=PATIENT, key=KEY):
    return VapiAgent(http, VapiRequest("assistant-1", key), fake.url, limits)


def pipecat(http, fake, limits=PATIENT, key=""):
    return PipecatAgent(http, PipecatRequest(fake.url.replace("http", "ws") + "/bot"), limits)


def deepgram(http, fake, limits=PATIENT, key=KEY):
    return DeepgramAgent(http, DeepgramRequest(key), fake.url, limits)


VENDORS = {
    "elevenlabs": (elevenlabs, ConvAi, "conv_1"),
    "vapi": (vapi, Vapi, "call-1"),
    "pipecat": (pipecat, Pipecat, None),
    "deepgram": (deepgram, DeepgramConverse, "dg_1"),
}
# Text messages mean nothing to a Pipecat bot, so that garbage in them does not either.
CASES = [
    (name, failure)
    for name in VENDORS
    for failure in FAILURES
    if (name, failure) not in {("pipecat", "garbage"), ("pipecat", "deep")}
]


@pytest.fixture(params=VENDORS)
def vendor(request):
    return VENDORS[request.param]


def audio_of(reports):
    return b"".join(report.pcm for report in reports if isinstance(report, AgentAudio))


def words_of(reports):
    return [report for report in reports if not isinstance(report, AgentAudio)]


async def test_a_conversation(http, vendor):
    make, fake_type, conversation_id = vendor
    async with fake_type(KEY) as fake, fed() as feed:
        reports = []
        running = asyncio.create_task(make(http, fake).run(feed, reports.append))
        await fake.until(lambda: Interrupted() in reports)
        feed.close()
        assert await in_time(running, 2.0) == STOPPED
        await fake.until(lambda: fake.closes)
    assert fake.closes == [1000]
    assert words_of(reports) == [
        Connected(conversation_id or fake.url.replace("http", "ws") + "/bot"),
        UserTranscript("what time is it"),
        AgentResponse("it is noon"),
        Interrupted(),
    ]
    assert reports.index(Interrupted()) == len(reports) - 1  # behind the burst
    samples = np.frombuffer(audio_of(reports), "<i2").astype(float)
    assert len(samples) == 32_000
    assert np.abs(np.fft.rfft(samples)).argmax() == 880  # 440 Hz in 2 s


async def test_our_audio_arrives_as_it_was_fed(http, vendor):
    make, fake_type, _ = vendor
    rng = np.random.default_rng(3)
    fed_audio = rng.integers(-9000, 9000, 320 * 40, dtype=np.int16).tobytes()
    feed = AudioFeed(50)
    for start in range(0, len(fed_audio), 640):
        feed.push(fed_audio[start : start + 640])
    async with fake_type(KEY) as fake:
        running = asyncio.create_task(make(http, fake).run(feed, lambda _: None))
        await fake.until(lambda: fake.audio_bytes == len(fed_audio))
        assert bytes(fake.audio) == fed_audio
        feed.close()
        await in_time(running)


@pytest.mark.parametrize(("name", "failure"), CASES)
async def test_every_failure_is_one_end(http, name, failure):
    make, fake_type, _ = VENDORS[name]
    if (name, failure) == ("elevenlabs", "mute"):
        assert LIMITS.ready_seconds < LIMITS.silence_seconds  # it is the missing greeting that ends it
    async with fake_type(KEY) as fake, fed() as feed:
        fake.outcomes += [failure, failure]  # aiohttp asks once more after a reset
        reports = []
        ended = await in_time(make(http, fake, LIMITS).run(feed, reports.append))
    assert (ended.reason, ended.category) == FAILURES[failure]
    assert bool(ended.error) == (ended.reason == "failed")
    assert KEY not in ended.error or name == "pipecat"  # which has no key of ours to give away
    assert all(isinstance(report, Connected) for report in reports)
    assert len(reports) <= 1


async def test_junk_from_a_bot_ends_the_conversation(http):
    async with Pipecat() as fake, fed() as feed:
        fake.outcomes.append("junk")
        ended = await in_time(pipecat(http, fake).run(feed, lambda _: None))
    assert (ended.reason, ended.category) == ("failed", "unknown")


@pytest.mark.parametrize("name", ["elevenlabs", "vapi", "deepgram"])
async def test_a_wrong_key_is_the_callers_fault(http, name):
    make, fake_type, _ = VENDORS[name]
    async with fake_type(KEY) as fake, fed() as feed:
        for key in ("wrong", "two\r\nX-Lines: 1"):
            ended = await in_time(make(http, fake, key=key).run(feed, lambda _: None))
            assert (ended.reason, ended.category) == ("failed", "permanent_auth")
            assert key not in ended.error
            assert KEY not in ended.error or name == "vapi"  # that fake says the right one, which we cannot know


async def test_the_call_breaks_in_mid_sentence(http, vendor):
    make, fake_type, _ = vendor
    async with fake_type(KEY) as fake, fed() as feed:
        fake.outcomes.append("cut")
        fake.fail_after_chunks = fake.speak_after_chunks + 2
        reports = []
        ended = await in_time(make(http, fake).run(feed, reports.append))
    assert (ended.reason, ended.category) == ("failed", "retryable")
    assert len(audio_of(reports)) == 64_000  # what had come is not lost


async def test_nothing_is_reported_after_the_end(http, vendor):
    make, fake_type, _ = vendor
    async with fake_type(KEY) as fake, fed() as feed:
        reports = []
        running = asyncio.create_task(make(http, fake).run(feed, reports.append))
        await fake.until(lambda: fake.audio_bytes)
        feed.close()
        assert await in_time(running, 2.0) == STOPPED
        count = len(reports)
        await asyncio.sleep(0.05)
        assert len(reports) == count


async def test_messages_need_a_connection(http, vendor):
    make, fake_type, _ = vendor
    async with fake_type(KEY) as fake:
        with pytest.raises(CallerError) as refused:
            await make(http, fake).inject("hello")
    assert refused.value.status == (501 if fake_type is ConvAi else 409)


async def test_messages_after_the_end(http):
    async with DeepgramConverse(KEY) as fake, fed() as feed:
        fake.outcomes.append("close")
        agent = deepgram(http, fake)
        assert await in_time(agent.run(feed, lambda _: None)) == CLOSED
        with pytest.raises(CallerError) as refused:
            await agent.inject("hello")
    assert refused.value.status == 409


@pytest.mark.parametrize("name", ["pipecat", "deepgram"])
async def test_a_message_on_the_socket(http, name):
    make, fake_type, _ = VENDORS[name]
    async with fake_type(KEY) as fake, fed() as feed:
        agent, reports = make(http, fake), []
        running = asyncio.create_task(agent.run(feed, reports.append))
        await fake.until(lambda: fake.audio_bytes)
        await agent.inject("say cheese ✓")
        said = "you said say cheese ✓" if name == "pipecat" else "say cheese ✓"
        await fake.until(lambda: AgentResponse(said) in reports)
        feed.close()
        await in_time(running)


class TestElevenLabs:
    async def begun(self, http, fake, **options):
        """Runs until the agent has been heard."""
        request = ElevenLabsRequest("agent 1", KEY, **options)
        reports = []
        async with fed() as feed:
            running = asyncio.create_task(ElevenLabsAgent(http, request, fake.url, PATIENT).run(feed, reports.append))
            await fake.until(lambda: Interrupted() in reports)
            feed.close()
            await in_time(running)
        return reports

    async def test_what_is_overridden_goes_first(self, http):
        variables = {"name": "Ann", "age": 7, "vip": True, "score": 1.5}
        async with ConvAi(KEY) as fake:
            await self.begun(http, fake, first_message="hi", language="de", dynamic_variables=variables)
        assert fake.texts[0] == {
            "type": "conversation_initiation_client_data",
            "conversation_config_override": {"agent": {"first_message": "hi", "language": "de"}},
            "dynamic_variables": variables,
        }
        assert fake.connections[0]["query"] == [["agent_id", "agent 1"]]

    async def test_nothing_overridden_nothing_sent_and_pings_answered(self, http):
        async with ConvAi(KEY) as fake:
            await self.begun(http, fake)
        assert [text for text in fake.texts if "user_audio_chunk" not in text] == [{"type": "pong", "event_id": 7}]

    async def test_an_id_at_the_top(self, http):
        async with ConvAi(KEY) as fake:
            fake.id_at_top = True
            reports = await self.begun(http, fake)
        assert reports[0] == Connected("conv_1")

    @pytest.mark.parametrize("wire", ["pcm_8000", "pcm_22050", "pcm_24000", "pcm_44100", "pcm_48000", "ulaw_8000"])
    async def test_formats(self, http, wire):
        async with ConvAi(KEY) as fake:
            fake.output_format = fake.input_format = wire
            reports = await self.begun(http, fake)
        samples = np.frombuffer(audio_of(reports), "<i2").astype(float)
        assert 0 <= 32_000 - len(samples) <= 480
        assert abs(np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples) - 440) < 1
        if wire == "ulaw_8000":
            assert set(fake.audio) == {0xFF}
        else:
            assert np.abs(np.frombuffer(fake.audio, "<i2")).max() <= 2  # dither

    async def test_an_unknown_format(self, http):
        async with ConvAi(KEY) as fake, fed() as feed:
            fake.output_format = "opus_48000"
            ended = await in_time(elevenlabs(http, fake).run(feed, lambda _: None))
        assert "opus_48000" in ended.error


class TestDeepgram:
    async def settings(self, http, **options):
        async with DeepgramConverse(KEY) as fake, fed() as feed:
            request = DeepgramRequest(KEY, **options)
            running = asyncio.create_task(DeepgramAgent(http, request, fake.url, PATIENT).run(feed, lambda _: None))
            await fake.until(lambda: fake.audio_bytes)
            feed.close()
            await in_time(running)
            assert fake.early_audio == 0
        sent = fake.texts[0]
        assert sent.pop("type") == "Settings"
        assert sent.pop("audio")["input"] == {"encoding": "linear16", "sample_rate": 16000}
        return sent

    async def test_default_settings(self, http):
        providers = {"listen": ("deepgram", "nova-3"), "think": ("open_ai", "gpt-4o-mini")}
        providers["speak"] = ("deepgram", "aura-2-asteria-en")
        expected = {part: {"provider": {"type": kind, "model": model}} for part, (kind, model) in providers.items()}
        assert await self.settings(http) == {"agent": expected}
        both = await self.settings(http, greeting="hi", language="de")
        assert both == {"agent": {**expected, "greeting": "hi", "language": "de"}}

    async def test_the_callers_settings_with_our_audio(self, http):
        settings = {"type": "Nonsense", "audio": {"input": {}}, "tags": ["a"], "agent": {"think": {"x": 1}}}
        before = repr(settings)
        sent = await self.settings(http, settings=settings, greeting="hi")
        assert sent == {"tags": ["a"], "agent": {"think": {"x": 1}, "greeting": "hi"}}
        assert repr(settings) == before

    async def test_settings_without_an_agent_get_one(self, http):
        assert await self.settings(http, settings={}, greeting="hi") == {"agent": {"greeting": "hi"}}

    async def test_the_older_name_of_the_id(self, http):
        async with DeepgramConverse(KEY) as fake, fed() as feed:
            fake.id_name = "session_id"
            reports = []
            running = asyncio.create_task(deepgram(http, fake).run(feed, reports.append))
            await fake.until(lambda: reports)
            feed.close()
            await in_time(running)
        assert reports[0] == Connected("dg_1")

    async def test_kept_alive_without_audio(self, http, monkeypatch):
        monkeypatch.setattr("workers.stream.agents.deepgram.ConverseDialect.idle_seconds", 0.02)
        async with DeepgramConverse(KEY) as fake:
            feed = AudioFeed(10)
            running = asyncio.create_task(deepgram(http, fake).run(feed, lambda _: None))
            await fake.until(lambda: fake.texts.count({"type": "KeepAlive"}) >= 2)
            feed.close()
            assert await in_time(running) == STOPPED

    async def test_a_message_waits_for_the_settings_to_be_taken(self, http):
        async with DeepgramConverse(KEY) as fake, fed() as feed:
            agent, reports = deepgram(http, fake), []
            running = asyncio.create_task(agent.run(feed, reports.append))
            while not reports:  # noqa: ASYNC110 - the very moment of Welcome
                await asyncio.sleep(0)
            await agent.inject("psst")
            await fake.until(lambda: {"type": "InjectAgentMessage", "message": "psst"} in fake.texts)
            assert fake.texts[0]["type"] == "Settings"
            feed.close()
            await in_time(running)

    async def test_a_message_that_waits_for_settings_that_are_refused(self, http):
        limits = SocketLimits(ready_seconds=0.3, close_seconds=0.1)
        async with DeepgramConverse(KEY) as fake, fed() as feed:
            agent, reports = DeepgramAgent(http, DeepgramRequest(KEY, settings={"agent": []}), fake.url, limits), []
            running = asyncio.create_task(agent.run(feed, reports.append))
            await fake.until(lambda: reports)
            with pytest.raises(VendorError):
                await agent.inject("psst")
            await in_time(running)

    async def test_refused_settings_are_told_and_then_given_up(self, http):
        limits = SocketLimits(ready_seconds=0.3, close_seconds=0.1)
        async with DeepgramConverse(KEY) as fake, fed() as feed:
            request, reports = DeepgramRequest(KEY, settings={"agent": []}), []
            ended = await in_time(DeepgramAgent(http, request, fake.url, limits).run(feed, reports.append))
        assert reports[1] == AgentProblem("deepgram: Error UNPARSABLE_CLIENT_MESSAGE bad message for …")
        assert ended.error == "deepgram: does not answer"


class TestVapi:
    async def test_the_call_that_is_created(self, http):
        async with Vapi(KEY) as fake, fed() as feed:
            request = VapiRequest("assistant-1", KEY, first_message="hi", variable_values={"n": 1, "ok": True})
            running = asyncio.create_task(VapiAgent(http, request, fake.url, PATIENT).run(feed, lambda _: None))
            await fake.until(lambda: fake.audio_bytes)
            feed.close()
            assert await in_time(running) == STOPPED
            await fake.until(lambda: fake.closes)
        assert fake.calls[0]["assistantOverrides"] == {"firstMessage": "hi", "variableValues": {"n": 1, "ok": True}}
        assert fake.texts == [{"type": "end-call"}]

    @pytest.mark.parametrize("shape", ["nested", "flat"])
    async def test_messages_go_to_the_control_url(self, http, shape):
        async with Vapi(KEY) as fake, fed() as feed:
            fake.shape = shape
            agent = vapi(http, fake)
            running = asyncio.create_task(agent.run(feed, lambda _: None))
            await fake.until(lambda: fake.audio_bytes)
            await agent.inject("be brief")
            assert fake.controls == [{"type": "add-message", "message": {"role": "system", "content": "be brief"}}]
            fake.control_status = 500
            with pytest.raises(VendorError):
                await agent.inject("be brief")
            feed.close()
            await in_time(running)
        assert "assistantOverrides" not in fake.calls[0]

    async def test_without_a_control_url(self, http):
        async with Vapi(KEY) as fake, fed() as feed:
            fake.shape = "none"
            agent = vapi(http, fake)
            running = asyncio.create_task(agent.run(feed, lambda _: None))
            await fake.until(lambda: fake.audio_bytes)
            with pytest.raises(CallerError) as refused:
                await agent.inject("be brief")
            assert refused.value.status == 409
            feed.close()
            await in_time(running)

    async def test_a_stop_during_the_creation_ends_the_call(self, http):
        async with Vapi(KEY) as fake, fed() as feed:
            fake.may_create.clear()
            running = asyncio.create_task(vapi(http, fake).run(feed, lambda _: None))
            await fake.until(lambda: fake.calls)
            feed.close()
            fake.may_create.set()
            assert await in_time(running) == STOPPED
            await fake.until(lambda: fake.closes)
        assert fake.texts == [{"type": "end-call"}]

    async def test_a_stop_before_the_creation_creates_nothing(self, http):
        async with Vapi(KEY) as fake:
            feed = AudioFeed(1)
            feed.close()
            assert await in_time(vapi(http, fake).run(feed, lambda _: None)) == STOPPED
        assert fake.calls == []

    @pytest.mark.parametrize(
        ("outcome", "category"),
        [
            (402, "unknown"),
            (429, "rate_limited"),
            (500, "service_unavailable"),
            ("garbage", "unknown"),
            ("no_url", "unknown"),
            ("stall", "retryable"),
        ],
    )
    async def test_failing_creations(self, http, outcome, category):
        async with Vapi(KEY) as fake, fed() as feed:
            fake.call_outcomes.append(outcome)
            ended = await in_time(vapi(http, fake).run(feed, lambda _: None))
        assert (ended.reason, ended.category) == ("failed", category)
        assert ended.error

    async def test_the_assistant_hangs_up(self, http):
        async with Vapi(KEY) as fake, fed() as feed:
            fake.interrupt = lambda ws: ws.send_json({"type": "status-update", "status": "ended"})
            assert await in_time(vapi(http, fake).run(feed, lambda _: None)) == CLOSED


class TestPipecat:
    @pytest.mark.parametrize(("rate_hz", "channels"), [(24_000, 1), (48_000, 2), (8_000, 1), (44_100, 2)])
    async def test_rates_and_channels(self, http, rate_hz, channels):
        async with Pipecat() as fake, fed() as feed:
            fake.rate_hz, fake.channels = rate_hz, channels
            reports = []
            running = asyncio.create_task(pipecat(http, fake).run(feed, reports.append))
            await fake.until(lambda: Interrupted() in reports)
            feed.close()
            await in_time(running)
        samples = np.frombuffer(audio_of(reports), "<i2").astype(float)
        assert 0 <= 32_000 - len(samples) <= 480
        assert abs(np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples) - 440) < 1

    @pytest.mark.parametrize("old_messages", [False, True])
    async def test_words_in_rtvi_messages(self, http, old_messages):
        async with Pipecat() as fake, fed() as feed:
            fake.rtvi_texts, fake.old_messages = True, old_messages
            reports = []
            running = asyncio.create_task(pipecat(http, fake).run(feed, reports.append))
            await fake.until(lambda: Interrupted() in reports)
            feed.close()
            await in_time(running)
        assert words_of(reports)[1:] == [UserTranscript("what time is it"), AgentResponse("it is noon"), Interrupted()]

    @pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "nonsense", "ws://", "ws://127.0.0.1:99999/", "ws://[::1/"])
    async def test_urls_that_are_none(self, http, url):
        async with fed() as feed:
            ended = await in_time(PipecatAgent(http, PipecatRequest(url), PATIENT).run(feed, lambda _: None))
        assert (ended.reason, ended.category) == ("failed", "permanent_input")

    @pytest.mark.parametrize(("rate_hz", "channels"), [(96_000, 1), (1, 1), (16_000, 9)])
    async def test_audio_that_cannot_be(self, http, rate_hz, channels):
        async with Pipecat() as fake, fed() as feed:
            fake.say = lambda ws: fake._send(
                ws, audio={"audio": bytes(640), "sample_rate": rate_hz, "num_channels": channels}
            )
            ended = await in_time(pipecat(http, fake).run(feed, lambda _: None))
        assert (ended.reason, ended.category) == ("failed", "unknown")
