/*
 * Load generator of scripts/bench: a SIP user agent that is called by the server, and sends and checks real RTP.
 *
 * Runs in: one process with one thread, built and started by scripts/benchlib/generator.py.
 * Owns:    one SIP socket; an RTP and an RTCP socket per call.
 * Rules:
 *  1. It has to cost far less than what it measures. Packets go out in SLOTS wake-ups a frame, each at its own absolute
 *     deadline; a call's queue is read every RECEIVE_EVERY_FRAMES frames, because the kernel stamps each packet when it
 *     arrives and so nothing is measured by the time of reading. There is no readiness loop over the RTP sockets.
 *  2. One frame in a call is 20 ms of G.711. Talkers send a burst of 5 frames of their tone every 25 frames over
 *     silence; all others send silence. Tones lie on a 50 Hz grid, so a block of 160 samples tells them apart exactly.
 *  3. Mouth to ear is the arrival of the packet that holds a burst's onset, plus the onset's place in that packet,
 *     minus the instant just before send() of the burst's first packet. It is known modulo the 500 ms cycle.
 *  4. Every queue is the kernel's; what overflows there shows as loss.
 * Control: lines on stdin ("go SECONDS", "quit"; end of file quits), lines on stdout (READY, STATUS, RESULT {json}).
 * Not here: summing up and CPU figures -> benchlib/report.py, benchlib/processes.py. Only UDP and IPv4; sends no RTCP.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    FRAME_SAMPLES = 160,
    BURST_FRAMES = 5,
    BURST_SAMPLES = BURST_FRAMES * FRAME_SAMPLES,
    CYCLE_FRAMES = 25,
    TALKERS_MAX = 3,               /* more would leave less than two silent frames between the bursts of a room */
    TONES = 16,                    /* rooms share a tone only when they are 16 talkers apart */
    SLOTS = 10,                    /* wake-ups a frame: 2 ms apart */
    RECEIVE_EVERY_FRAMES = 4,
    BATCH = 8,
    SENDS_KEPT = 4,                /* burst send instants kept per talker, to match late arrivals */
    QUIET_BEFORE_ONSET = 320,      /* samples below the threshold that must precede an onset */
    RTP_HEADER_BYTES = 12,
    MESSAGE_BYTES = 8192,
    RTP_BYTES = 512,               /* an L16 packet would be truncated, and is not expected */
};
static const int64_t MS = 1000000;
static const int64_t FRAME_NS = 20 * 1000000;
static const int64_t SAMPLE_NS = 125000;
static const double AMPLITUDE = 10362.0; /* -10 dBFS peak */

/* ---- time and figures ---------------------------------------------------------------------------------------- */

static int64_t clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

enum { HISTOGRAM_BUCKETS = 20000 };
static const int64_t BUCKET_NS = 50000;

typedef struct {
    uint64_t count;
    int64_t max_ns;
    double sum_ns;
    uint64_t bucket[HISTOGRAM_BUCKETS]; /* the last one takes all from 1 s on */
} histogram;

static void histogram_add(histogram *h, int64_t ns) {
    int64_t i = ns < 0 ? 0 : ns / BUCKET_NS;
    h->bucket[i < HISTOGRAM_BUCKETS ? i : HISTOGRAM_BUCKETS - 1]++;
    h->count++;
    h->sum_ns += (double)ns;
    if (ns > h->max_ns) h->max_ns = ns;
}

static double histogram_ms(const histogram *h, double share) {
    uint64_t wanted = (uint64_t)ceil(share * (double)h->count), seen = 0;
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen >= wanted) return ((double)i + 0.5) * (double)BUCKET_NS / 1e6;
    }
    return 0;
}

static void histogram_print(const char *name, const histogram *h) {
    if (h->count == 0) {
        printf("\"%s\":null,", name);
        return;
    }
    printf("\"%s\":{\"count\":%llu,\"mean\":%.3f,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f},", name,
           (unsigned long long)h->count, h->sum_ns / (double)h->count / 1e6, histogram_ms(h, .5), histogram_ms(h, .9),
           histogram_ms(h, .99), histogram_ms(h, .999), (double)h->max_ns / 1e6);
}

/* ---- calls ----------------------------------------------------------------------------------------------------- */

enum state { IDLE, ANSWERED, CONFIRMED, ENDED };

typedef struct { /* counted inside the measured window only */
    uint32_t received, lost, reordered, duplicates, odd, ssrc_changes;
    uint32_t bursts_sent;                    /* as a talker */
    uint32_t bursts_heard, blocks_heard;     /* of the other talkers of this room; a block is 20 ms of a burst */
    uint32_t talkers_heard;                  /* one bit each */
    uint32_t self_heard, foreign_heard;      /* bursts */
    uint32_t stray;                          /* loud packets or captures that are no burst: clicks, garbage */
    int64_t gap_max_ns;
} counters;

typedef struct {
    int room, index;
    enum state state;
    /* signalling */
    uint64_t call_id;                        /* hash; also makes our tag */
    uint32_t invite_cseq, sdp_version;
    struct sockaddr_in peer;                 /* where the INVITE came from */
    char *answer;                            /* our 200, repeated until the ACK */
    int answer_bytes;
    int64_t invite_ns, confirmed_ns, answered_ns, repeat_ns, repeat_after_ns;
    /* sending */
    int rtp_fd, rtcp_fd, port;
    bool sends, keeps_silence_now;
    uint16_t sequence;
    uint32_t timestamp;
    uint8_t packet[RTP_HEADER_BYTES + FRAME_SAMPLES];
    int64_t burst_ns[SENDS_KEPT];            /* as a talker, newest first */
    /* receiving */
    bool heard_any;
    uint16_t last_sequence;
    uint32_t last_ssrc;
    int64_t last_arrival_ns;
    int quiet_samples;
    bool captures;
    uint32_t capture_timestamp;
    int64_t onset_ns;
    uint8_t capture[BURST_SAMPLES];
    uint32_t rtcp_received;
    counters seen;
} call;

static struct {
    const char *ip;
    int sip_port, rtp_base, calls, room_size, talkers;
    double phase_ms;
    bool pcma;
} option = {"127.0.0.1", 0, 20000, 3, 3, 1, 0, false};

static call *calls;
static int *slot_calls, slot_first[SLOTS + 1]; /* the calls of slot s are slot_calls[slot_first[s]] and on */
static int sip_fd, unacknowledged;
static bool quits;
static int64_t realtime_offset_ns;             /* CLOCK_REALTIME - CLOCK_MONOTONIC */
static int64_t window_start_ns, window_end_ns; /* the measured window; 0, 0 before "go" */
static bool result_due;
static uint64_t sent_total, received_total;
static histogram gaps, mouth_to_ear, send_lateness;
static struct sockaddr_in own_address;

static bool in_window(int64_t ns) { return ns >= window_start_ns && ns < window_end_ns; }

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- audio: tones, G.711, the search for bursts ------------------------------------------------------------------ */

static int16_t decoded[256];
static uint8_t silence, magnitude_flip, loud_magnitude;
static uint8_t tone_payload[TONES][BURST_SAMPLES];
static double tone_coefficient[TONES];

static int16_t decode_ulaw(uint8_t code) { /* G.711 table 2a */
    uint8_t u = (uint8_t)~code;
    int magnitude = (((u & 15) << 3) + 132) << ((u >> 4) & 7);
    return (int16_t)(u & 128 ? 132 - magnitude : magnitude - 132);
}

static int16_t decode_alaw(uint8_t code) { /* G.711 table 1a */
    uint8_t a = code ^ 0x55;
    int segment = (a >> 4) & 7, magnitude = ((a & 15) << 4) + (segment ? 0x108 : 8);
    if (segment > 1) magnitude <<= segment - 1;
    return (int16_t)(a & 128 ? magnitude : -magnitude);
}

static uint8_t encode(double sample) { /* the nearest code: slow and free of tables, it runs at start only */
    int best = 0;
    for (int code = 1; code < 256; code++)
        if (fabs(decoded[code] - sample) < fabs(decoded[best] - sample)) best = code;
    return (uint8_t)best;
}

static void prepare_audio(void) {
    for (int code = 0; code < 256; code++)
        decoded[code] = option.pcma ? decode_alaw((uint8_t)code) : decode_ulaw((uint8_t)code);
    silence = option.pcma ? 0xD5 : 0xFF;
    magnitude_flip = option.pcma ? 0x55 : 0x7F; /* (code ^ flip) & 0x7F grows with the magnitude in both laws */
    /* 25 % of a burst: well above comfort noise and a resampling filter's ringing, and passed within a few samples */
    for (int m = 127; m >= 0 && abs(decoded[0x80 | (m ^ (magnitude_flip & 0x7F))]) >= AMPLITUDE / 4; m--)
        loud_magnitude = (uint8_t)m;
    for (int tone = 0; tone < TONES; tone++) {
        double step = 2 * M_PI * (600 + 100 * tone) / 8000;
        tone_coefficient[tone] = 2 * cos(step);
        for (int i = 0; i < BURST_SAMPLES; i++) tone_payload[tone][i] = encode(AMPLITUDE * sin(step * i));
    }
}

static bool is_talker(const call *c) { return c->index < option.talkers; }

static int tone_of(int room, int talker) { return (room * option.talkers + talker) % TONES; }

/* Amplitude of a tone in one block of 160 samples (Goertzel; the block is one period of the 50 Hz grid). */
static double tone_amplitude(const uint8_t *block, int tone) {
    double k = tone_coefficient[tone], s1 = 0, s2 = 0;
    for (int i = 0; i < FRAME_SAMPLES; i++) {
        double s0 = decoded[block[i]] + k * s1 - s2;
        s2 = s1;
        s1 = s0;
    }
    return 2 * sqrt(fmax(s1 * s1 + s2 * s2 - k * s1 * s2, 0)) / FRAME_SAMPLES;
}

/* How many of the five blocks of a captured burst carry the tone within 3 dB of the level at which it was sent. */
static int blocks_with_tone(const call *c, int tone) {
    int blocks = 0;
    for (int b = 0; b < BURST_FRAMES; b++) {
        double amplitude = tone_amplitude(c->capture + b * FRAME_SAMPLES, tone);
        blocks += amplitude > AMPLITUDE * 0.708 && amplitude < AMPLITUDE * 1.413;
    }
    return blocks;
}

static void judge_capture(call *c) {
    c->captures = false;
    for (int t = 0; t < option.talkers; t++) {
        int blocks = blocks_with_tone(c, tone_of(c->room, t));
        if (blocks == 0) continue;
        if (t == c->index) {
            c->seen.self_heard += in_window(c->onset_ns);
            return;
        }
        const call *talker = &calls[c->room * option.room_size + t];
        int k = 0;
        while (k < SENDS_KEPT && talker->burst_ns[k] > c->onset_ns) k++;
        if (k == SENDS_KEPT || !in_window(talker->burst_ns[k])) return;
        c->seen.bursts_heard++;
        c->seen.talkers_heard |= 1u << t;
        c->seen.blocks_heard += (uint32_t)blocks;
        histogram_add(&mouth_to_ear, c->onset_ns - talker->burst_ns[k]);
        return;
    }
    if (!in_window(c->onset_ns)) return;
    for (int tone = 0; tone < TONES; tone++)
        if (blocks_with_tone(c, tone)) {
            c->seen.foreign_heard++;
            return;
        }
    c->seen.stray++;
}

static void hear(call *c, const uint8_t *payload, int samples, uint32_t timestamp, int64_t arrival_ns) {
    int from = 0;
    if (c->captures) {
        int32_t place = (int32_t)(timestamp - c->capture_timestamp);
        if (place < 0 && place > -8000) return; /* late or repeated: it belongs before the onset */
        if (place >= 0 && place < BURST_SAMPLES) {
            from = samples < BURST_SAMPLES - place ? samples : BURST_SAMPLES - place;
            memcpy(c->capture + place, payload, (size_t)from);
            if (place + samples < BURST_SAMPLES) return;
        }
        judge_capture(c);
        c->quiet_samples = 0;
    }
    uint8_t peak = 0;
    for (int i = from; i < samples; i++) {
        uint8_t magnitude = (payload[i] ^ magnitude_flip) & 0x7F;
        peak = magnitude > peak ? magnitude : peak;
    }
    if (peak < loud_magnitude) {
        if (c->quiet_samples < QUIET_BEFORE_ONSET) c->quiet_samples += samples - from;
        return;
    }
    int onset = from;
    while (((payload[onset] ^ magnitude_flip) & 0x7F) < loud_magnitude) onset++;
    if (c->quiet_samples + onset - from < QUIET_BEFORE_ONSET) {
        c->seen.stray += in_window(arrival_ns);
        c->quiet_samples = 0;
        return;
    }
    c->captures = true;
    c->capture_timestamp = timestamp + (uint32_t)onset;
    c->onset_ns = arrival_ns + onset * SAMPLE_NS;
    memset(c->capture, silence, BURST_SAMPLES);
    memcpy(c->capture, payload + onset, (size_t)(samples - onset < BURST_SAMPLES ? samples - onset : BURST_SAMPLES));
}

/* ---- RTP ------------------------------------------------------------------------------------------------------- */

static void take_packet(call *c, const uint8_t *p, int bytes, int64_t arrival_ns) {
    bool counts = in_window(arrival_ns);
    int header = RTP_HEADER_BYTES + 4 * (p[0] & 15);
    if (bytes <= header || p[0] >> 6 != 2 || (p[0] & 0x30) || (p[1] & 0x7F) != (option.pcma ? 8 : 0)) {
        c->seen.odd += counts; /* not G.711, or with padding or extension: a server has no reason to send these */
        return;
    }
    uint16_t sequence = (uint16_t)(p[2] << 8 | p[3]);
    uint32_t timestamp, ssrc;
    memcpy(&timestamp, p + 4, 4);
    memcpy(&ssrc, p + 8, 4);
    int16_t ahead = (int16_t)(sequence - c->last_sequence);
    received_total++;
    if (!c->heard_any || ssrc != c->last_ssrc) {
        c->seen.ssrc_changes += counts && c->heard_any;
        ahead = 1;
    } else if (ahead <= 0) {
        c->seen.duplicates += counts && ahead == 0;
        c->seen.reordered += counts && ahead < 0;
        if (ahead == 0) return;
        if (counts && c->seen.lost > 0) c->seen.lost--;
    }
    if (counts) {
        c->seen.received++;
        if (ahead > 1) c->seen.lost += (uint32_t)(ahead - 1);
        if (c->heard_any) {
            int64_t gap_ns = arrival_ns - c->last_arrival_ns;
            histogram_add(&gaps, gap_ns);
            if (gap_ns > c->seen.gap_max_ns) c->seen.gap_max_ns = gap_ns;
        }
    }
    if (ahead > 0) c->last_sequence = sequence;
    c->last_ssrc = ssrc;
    c->last_arrival_ns = arrival_ns;
    c->heard_any = true;
    hear(c, p + header, bytes - header, ntohl(timestamp), arrival_ns);
}

static int64_t arrival_ns_of(struct msghdr *m) {
    for (struct cmsghdr *part = CMSG_FIRSTHDR(m); part; part = CMSG_NXTHDR(m, part))
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec t;
            memcpy(&t, CMSG_DATA(part), sizeof t);
            return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec - realtime_offset_ns;
        }
    return now_ns();
}

static void receive_packets(call *c) {
    static uint8_t data[BATCH][RTP_BYTES];
    static _Alignas(struct cmsghdr) char control[BATCH][64];
    static struct iovec parts[BATCH];
    static struct mmsghdr batch[BATCH];
    int got;
    do {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){data[i], RTP_BYTES};
            batch[i].msg_hdr = (struct msghdr){
                .msg_iov = &parts[i], .msg_iovlen = 1, .msg_control = control[i], .msg_controllen = sizeof control[i]};
        }
        got = recvmmsg(c->rtp_fd, batch, BATCH, MSG_DONTWAIT, NULL);
        for (int i = 0; i < got; i++) take_packet(c, data[i], (int)batch[i].msg_len, arrival_ns_of(&batch[i].msg_hdr));
    } while (got == BATCH || (got < 0 && errno == ECONNREFUSED)); /* a refused packet is reported once, then reading goes on */
}

static void send_packet(call *c, int64_t frame) {
    bool burst_starts = false;
    if (is_talker(c)) {
        int64_t place = (frame + 7 * c->room + c->index * CYCLE_FRAMES / option.talkers) % CYCLE_FRAMES;
        if (place < BURST_FRAMES) {
            memcpy(c->packet + RTP_HEADER_BYTES, tone_payload[tone_of(c->room, c->index)] + place * FRAME_SAMPLES, FRAME_SAMPLES);
            burst_starts = place == 0;
            c->keeps_silence_now = false;
        } else if (!c->keeps_silence_now) {
            memset(c->packet + RTP_HEADER_BYTES, silence, FRAME_SAMPLES);
            c->keeps_silence_now = true;
        }
    }
    uint16_t sequence = htons(c->sequence++);
    uint32_t timestamp = htonl(c->timestamp);
    c->timestamp += FRAME_SAMPLES;
    memcpy(c->packet + 2, &sequence, 2);
    memcpy(c->packet + 4, &timestamp, 4);
    if (burst_starts) {
        memmove(c->burst_ns + 1, c->burst_ns, sizeof c->burst_ns - sizeof c->burst_ns[0]);
        c->burst_ns[0] = now_ns();
        c->seen.bursts_sent += in_window(c->burst_ns[0]);
    }
    sent_total += send(c->rtp_fd, c->packet, sizeof c->packet, MSG_DONTWAIT) > 0;
    c->packet[1] &= 0x7F; /* the marker bit stands on the first packet only */
}

static void start_sending(call *c) {
    uint8_t random[8];
    if (getrandom(random, sizeof random, 0) != sizeof random) fail("getrandom");
    c->packet[0] = 0x80;
    c->packet[1] = 0x80 | (option.pcma ? 8 : 0);
    memcpy(&c->sequence, random, 2);
    memcpy(&c->timestamp, random + 2, 4);
    memcpy(c->packet + 8, random + 4, 4);
    memset(c->packet + RTP_HEADER_BYTES, silence, FRAME_SAMPLES);
    c->keeps_silence_now = true;
    c->heard_any = c->captures = false;
    c->quiet_samples = 0;
}

/* ---- SIP ------------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *at;
    int size;
} text;

typedef struct {
    text method, uri, headers, body;
    struct sockaddr_in source;
    int64_t arrival_ns;
} request;

static bool next_line(text *rest, text *line) {
    if (rest->size <= 0) return false;
    const char *end = memchr(rest->at, '\n', (size_t)rest->size);
    int size = end ? (int)(end - rest->at) + 1 : rest->size;
    *line = (text){rest->at, size};
    while (line->size && (line->at[line->size - 1] == '\n' || line->at[line->size - 1] == '\r')) line->size--;
    *rest = (text){rest->at + size, rest->size - size};
    return true;
}

static bool begins(text t, const char *prefix) {
    int n = (int)strlen(prefix);
    return t.size >= n && memcmp(t.at, prefix, (size_t)n) == 0;
}

static bool is_header(text line, const char *name, text *value) {
    const char *colon = memchr(line.at, ':', (size_t)line.size);
    if (!colon) return false;
    int n = (int)(colon - line.at);
    while (n && (line.at[n - 1] == ' ' || line.at[n - 1] == '\t')) n--;
    static const char *compact[][2] = {{"Via", "v"}, {"From", "f"}, {"To", "t"}, {"Call-ID", "i"}};
    bool same = n == (int)strlen(name) && strncasecmp(line.at, name, (size_t)n) == 0;
    for (size_t i = 0; !same && i < sizeof compact / sizeof compact[0]; i++)
        same = n == 1 && strcmp(name, compact[i][0]) == 0 && strncasecmp(line.at, compact[i][1], 1) == 0;
    *value = (text){colon + 1, line.size - (int)(colon + 1 - line.at)};
    while (value->size && (*value->at == ' ' || *value->at == '\t')) *value = (text){value->at + 1, value->size - 1};
    return same;
}

static text header(const request *r, const char *name) {
    text rest = r->headers, line, value;
    while (next_line(&rest, &line))
        if (is_header(line, name, &value)) return value;
    return (text){"", 0};
}

static uint64_t hash(text t) { /* FNV-1a */
    uint64_t h = 14695981039346656037u;
    for (int i = 0; i < t.size; i++) h = (h ^ (uint8_t)t.at[i]) * 1099511628211u;
    return h;
}

typedef struct {
    char at[MESSAGE_BYTES];
    int size;
} writer;

__attribute__((format(printf, 2, 3))) static void add(writer *w, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(w->at + w->size, (size_t)(MESSAGE_BYTES - w->size), format, arguments);
    va_end(arguments);
    if (n > 0) w->size = w->size + n < MESSAGE_BYTES ? w->size + n : MESSAGE_BYTES - 1;
}

/* RFC 3261 8.2.6.2: Via, From, To, Call-ID and CSeq are repeated; RFC 3581 for rport. Goes to the packet's source. */
static void respond(const request *r, const char *status, const char *sdp, writer *w) {
    w->size = 0;
    add(w, "SIP/2.0 %s\r\n", status);
    text rest = r->headers, line, value;
    bool top = true;
    while (next_line(&rest, &line)) {
        if (is_header(line, "Via", &value)) {
            const char *rport = top ? memmem(value.at, (size_t)value.size, ";rport", 6) : NULL;
            int before = rport ? (int)(rport - value.at) + 6 : value.size;
            add(w, "Via: %.*s", before, value.at);
            if (rport && (before == value.size || value.at[before] != '='))
                add(w, "=%d;received=%s", ntohs(r->source.sin_port), inet_ntoa(r->source.sin_addr));
            add(w, "%.*s\r\n", value.size - before, value.at + before);
            top = false;
        } else if (is_header(line, "To", &value)) {
            add(w, "To: %.*s", value.size, value.at);
            if (!memmem(value.at, (size_t)value.size, ";tag=", 5))
                add(w, ";tag=%016llx", (unsigned long long)hash(header(r, "Call-ID")));
            add(w, "\r\n");
        } else if (is_header(line, "From", &value) || is_header(line, "Call-ID", &value) || is_header(line, "CSeq", &value) ||
                   is_header(line, "Record-Route", &value))
            add(w, "%.*s\r\n", line.size, line.at);
    }
    add(w, "Contact: <sip:loadgen@%s:%d>\r\nAllow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE\r\n", option.ip, option.sip_port);
    if (*sdp) add(w, "Content-Type: application/sdp\r\n");
    add(w, "Content-Length: %d\r\n\r\n%s", (int)strlen(sdp), sdp);
    sendto(sip_fd, w->at, (size_t)w->size, MSG_DONTWAIT, (const struct sockaddr *)&r->source, sizeof r->source);
}

/* Takes address, codec and direction from an offer or answer; writes the direction of our own description. */
static bool take_sdp(call *c, text sdp, const char **direction) {
    struct sockaddr_in remote = {.sin_family = AF_INET};
    bool in_audio = false, has_codec = false, sends = true;
    text line;
    *direction = "sendrecv";
    while (next_line(&sdp, &line)) {
        char copy[256];
        snprintf(copy, sizeof copy, "%.*s", line.size, line.at);
        if (begins(line, "m=")) {
            int port = 0, used = 0;
            in_audio = remote.sin_port == 0 && sscanf(copy, "m=audio %d RTP/AVP%n", &port, &used) == 1 && used > 0;
            if (!in_audio) continue;
            remote.sin_port = htons((uint16_t)port);
            for (char *format = strtok(copy + used, " "); format; format = strtok(NULL, " "))
                has_codec |= strcmp(format, option.pcma ? "8" : "0") == 0;
        } else if (begins(line, "c=IN IP4 ") && (in_audio || remote.sin_port == 0))
            inet_pton(AF_INET, copy + 9, &remote.sin_addr);
        else if (in_audio && begins(line, "a=sendonly"))
            *direction = "recvonly", sends = false;
        else if (in_audio && begins(line, "a=recvonly"))
            *direction = "sendonly";
        else if (in_audio && begins(line, "a=inactive"))
            *direction = "inactive", sends = false;
    }
    if (!has_codec || remote.sin_port == 0) return false;
    c->sends = sends && remote.sin_addr.s_addr != 0;
    if (remote.sin_addr.s_addr && connect(c->rtp_fd, (struct sockaddr *)&remote, sizeof remote) < 0) return false;
    return true;
}

static void send_answer(const call *c) {
    sendto(sip_fd, c->answer, (size_t)c->answer_bytes, MSG_DONTWAIT, (const struct sockaddr *)&c->peer, sizeof c->peer);
}

static void answer(call *c, const request *r, uint32_t cseq) {
    const char *direction = "sendrecv";
    static writer w;
    if (r->body.size && !take_sdp(c, r->body, &direction)) {
        respond(r, "488 Not Acceptable Here", "", &w);
        return;
    }
    char sdp[512];
    snprintf(sdp, sizeof sdp,
             "v=0\r\no=- %d %u IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\n"
             "m=audio %d RTP/AVP %d\r\na=rtpmap:%d %s/8000\r\na=ptime:20\r\na=%s\r\n",
             c->port, ++c->sdp_version, option.ip, option.ip, c->port, option.pcma ? 8 : 0, option.pcma ? 8 : 0,
             option.pcma ? "PCMA" : "PCMU", direction);
    respond(r, "200 OK", sdp, &w);
    c->invite_cseq = cseq;
    c->peer = r->source;
    free(c->answer);
    c->answer = malloc((size_t)w.size);
    if (!c->answer) fail("malloc");
    memcpy(c->answer, w.at, (size_t)w.size);
    c->answer_bytes = w.size;
    c->answered_ns = now_ns();
    c->repeat_after_ns = 500 * MS; /* T1, doubled up to T2 = 4 s (RFC 3261 13.3.1.4) */
    c->repeat_ns = c->answered_ns + c->repeat_after_ns;
    unacknowledged += c->state != ANSWERED;
    c->state = ANSWERED;
}

static void end_call(call *c) {
    unacknowledged -= c->state == ANSWERED;
    c->state = ENDED;
    c->sends = false;
}

static void repeat_answers(int64_t now) {
    for (int i = 0; unacknowledged && i < option.calls; i++) {
        call *c = &calls[i];
        if (c->state != ANSWERED || c->repeat_ns > now) continue;
        if (now - c->answered_ns > 32000 * MS) {
            end_call(c);
            continue;
        }
        send_answer(c);
        c->repeat_after_ns = c->repeat_after_ns * 2 < 4000 * MS ? c->repeat_after_ns * 2 : 4000 * MS;
        c->repeat_ns = now + c->repeat_after_ns;
    }
}

/* A new call: the user part "<room>-<index>" of the Request-URI names its place. */
static void take_invite(const request *r, uint32_t cseq) {
    static writer w;
    int room = -1, index = -1;
    char uri[128];
    snprintf(uri, sizeof uri, "%.*s", r->uri.size, r->uri.at);
    bool named = sscanf(uri, "sip:%d-%d@", &room, &index) == 2 && room >= 0 && index >= 0 && index < option.room_size &&
                 room <= (option.calls - 1) / option.room_size && room * option.room_size + index < option.calls;
    if (!named) {
        respond(r, "404 Not Found", "", &w);
        return;
    }
    call *c = &calls[room * option.room_size + index];
    if (c->state == ANSWERED || c->state == CONFIRMED) {
        respond(r, "486 Busy Here", "", &w);
        return;
    }
    c->call_id = hash(header(r, "Call-ID"));
    c->invite_ns = r->arrival_ns;
    c->confirmed_ns = 0;
    start_sending(c);
    answer(c, r, cseq);
}

static void confirm(call *c, const request *r) {
    const char *direction;
    if (r->body.size) take_sdp(c, r->body, &direction);
    unacknowledged--;
    c->state = CONFIRMED;
    if (!c->confirmed_ns) c->confirmed_ns = r->arrival_ns;
}

static void take_request(const request *r) {
    static writer w;
    uint64_t call_id = hash(header(r, "Call-ID"));
    uint32_t cseq = (uint32_t)strtoul(header(r, "CSeq").at, NULL, 10);
    call *c = NULL;
    for (int i = 0; !c && i < option.calls; i++)
        if (calls[i].state != IDLE && calls[i].call_id == call_id) c = &calls[i];
    bool is_up = c && c->state != ENDED;
    if (begins(r->method, "ACK")) {
        if (is_up && c->state == ANSWERED && cseq == c->invite_cseq) confirm(c, r);
    } else if (begins(r->method, "INVITE")) {
        if (!is_up) take_invite(r, cseq);
        else if (cseq > c->invite_cseq) answer(c, r, cseq);
        else if (c->state == ANSWERED) send_answer(c);
    } else if (begins(r->method, "OPTIONS"))
        respond(r, "200 OK", "", &w);
    else if (!c)
        respond(r, "481 Call/Transaction Does Not Exist", "", &w);
    else if (begins(r->method, "BYE")) {
        respond(r, "200 OK", "", &w);
        end_call(c);
    } else if (begins(r->method, "CANCEL"))
        respond(r, "200 OK", "", &w); /* the INVITE has its final answer already: no effect (RFC 3261 9.2) */
    else if (begins(r->method, "UPDATE"))
        respond(r, r->body.size ? "488 Not Acceptable Here" : "200 OK", "", &w);
    else
        respond(r, "501 Not Implemented", "", &w);
}

static void receive_requests(void) {
    static char data[MESSAGE_BYTES + 1];
    static _Alignas(struct cmsghdr) char control[64];
    for (int i = 0; i < 64; i++) { /* then the deadlines come first again */
        request r = {0};
        struct iovec part = {data, MESSAGE_BYTES};
        struct msghdr m = {.msg_name = &r.source, .msg_namelen = sizeof r.source, .msg_iov = &part, .msg_iovlen = 1,
                           .msg_control = control, .msg_controllen = sizeof control};
        ssize_t bytes = recvmsg(sip_fd, &m, MSG_DONTWAIT);
        if (bytes < 0) return;
        data[bytes] = 0;
        r.arrival_ns = arrival_ns_of(&m);
        char *end = strstr(data, "\r\n\r\n");
        text rest = {data, end ? (int)(end + 2 - data) : 0}, first;
        if (!end || !next_line(&rest, &first) || begins(first, "SIP/2.0")) continue; /* we ask nothing, so no answer is ours */
        const char *space = memchr(first.at, ' ', (size_t)first.size);
        if (!space) continue;
        r.method = (text){first.at, (int)(space - first.at) + 1};
        r.uri = (text){space + 1, first.size - r.method.size};
        r.headers = rest;
        r.body = (text){end + 4, (int)(data + bytes - end - 4)};
        take_request(&r);
    }
}

/* ---- control and results ------------------------------------------------------------------------------------------ */

static void receive_control(void) {
    static char line[256];
    static int used;
    ssize_t got = read(STDIN_FILENO, line + used, sizeof line - 1 - (size_t)used);
    if (got <= 0) quits = true;
    used += got > 0 ? (int)got : 0;
    line[used] = 0;
    for (char *end; (end = strchr(line, '\n')); memmove(line, end + 1, strlen(end + 1) + 1), used = (int)strlen(line)) {
        double seconds;
        *end = 0;
        if (strcmp(line, "quit") == 0) quits = true;
        if (sscanf(line, "go %lf", &seconds) != 1 || seconds <= 0) continue;
        for (int i = 0; i < option.calls; i++) calls[i].seen = (counters){0};
        memset(&gaps, 0, sizeof gaps);
        memset(&mouth_to_ear, 0, sizeof mouth_to_ear);
        memset(&send_lateness, 0, sizeof send_lateness);
        window_start_ns = now_ns();
        window_end_ns = window_start_ns + (int64_t)(seconds * 1e9);
        result_due = true;
    }
    if (used == sizeof line - 1) used = 0;
}

static void print_status(void) {
    int up = 0;
    uint64_t lost = 0;
    for (int i = 0; i < option.calls; i++) {
        up += calls[i].state == CONFIRMED;
        lost += calls[i].seen.lost;
        char rtcp[512];
        while (recv(calls[i].rtcp_fd, rtcp, sizeof rtcp, MSG_DONTWAIT) > 0) calls[i].rtcp_received++;
    }
    printf("STATUS calls=%d sent=%llu received=%llu lost=%llu\n", up, (unsigned long long)sent_total,
           (unsigned long long)received_total, (unsigned long long)lost);
    fflush(stdout);
}

static void print_result(void) {
    printf("RESULT {\"seconds\":%.3f,\"scheduling\":\"%s\",", (double)(window_end_ns - window_start_ns) / 1e9,
           sched_getscheduler(0) == SCHED_FIFO ? "fifo" : "other");
    for (int i = 0; i < option.calls; i++) { /* a leg that went dumb has a gap that no packet ends */
        call *c = &calls[i];
        int64_t open_ns = window_end_ns - c->last_arrival_ns;
        if (!c->heard_any || open_ns < 2 * FRAME_NS) continue;
        if (open_ns > window_end_ns - window_start_ns) open_ns = window_end_ns - window_start_ns;
        histogram_add(&gaps, open_ns);
        if (open_ns > c->seen.gap_max_ns) c->seen.gap_max_ns = open_ns;
    }
    histogram_print("gap_ms", &gaps);
    histogram_print("mouth_to_ear_ms", &mouth_to_ear);
    histogram_print("send_late_ms", &send_lateness);
    printf("\"blocks_per_burst\":%d,\"legs\":[", BURST_FRAMES);
    const char *comma = "";
    for (int i = 0; i < option.calls; i++) {
        const call *c = &calls[i];
        const counters *s = &c->seen;
        uint32_t expected = 0, talkers_missed = 0;
        if (!c->confirmed_ns) continue;
        for (int t = 0; t < option.talkers && c->room * option.room_size + t < option.calls; t++) {
            if (t == c->index) continue;
            uint32_t bursts = calls[c->room * option.room_size + t].seen.bursts_sent;
            expected += bursts;
            talkers_missed += bursts && !(s->talkers_heard >> t & 1);
        }
        printf("%s{\"room\":%d,\"index\":%d,\"is_talker\":%s,\"is_up\":%s,\"setup_ms\":%.3f,\"received\":%u,\"lost\":%u,"
               "\"reordered\":%u,\"duplicates\":%u,\"odd\":%u,\"ssrc_changes\":%u,\"gap_max_ms\":%.3f,\"bursts_expected\":%u,"
               "\"talkers_missed\":%u,\"bursts_heard\":%u,\"blocks_heard\":%u,\"self_heard\":%u,\"foreign_heard\":%u,\"stray\":%u,\"rtcp_received\":%u}",
               comma, c->room, c->index, is_talker(c) ? "true" : "false", c->state == CONFIRMED ? "true" : "false",
               (double)(c->confirmed_ns - c->invite_ns) / 1e6, s->received, s->lost, s->reordered, s->duplicates, s->odd,
               s->ssrc_changes, (double)s->gap_max_ns / 1e6, expected, talkers_missed, s->bursts_heard, s->blocks_heard, s->self_heard,
               s->foreign_heard, s->stray, c->rtcp_received);
        comma = ",";
    }
    printf("]}\n");
    fflush(stdout);
    result_due = false;
}

/* ---- start and loop --------------------------------------------------------------------------------------------- */

/* A bound, stamped UDP socket, or -1 when the port is taken. */
static int open_socket(int port, int receive_bytes) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    if (fd < 0) fail("socket");
    own_address.sin_port = htons((uint16_t)port);
    if (bind(fd, (struct sockaddr *)&own_address, sizeof own_address) < 0) {
        if (errno != EADDRINUSE) fail("bind");
        close(fd);
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    if (receive_bytes && setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &receive_bytes, sizeof receive_bytes) < 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    return fd;
}

static void open_calls(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    calls = calloc((size_t)option.calls, sizeof *calls);
    slot_calls = calloc((size_t)option.calls, sizeof *slot_calls);
    int *slot_of = calloc((size_t)option.calls, sizeof *slot_of);
    if (!calls || !slot_calls || !slot_of) fail("calloc");
    int rooms = (option.calls + option.room_size - 1) / option.room_size, port = option.rtp_base & ~1;
    for (int i = 0; i < option.calls; i++) {
        call *c = &calls[i];
        c->room = i / option.room_size;
        c->index = i % option.room_size;
        for (;; port += 2) {
            if (port > 65534) fail("no free RTP port");
            if ((c->rtp_fd = open_socket(port, 0)) < 0) continue;
            if ((c->rtcp_fd = open_socket(port + 1, 0)) >= 0) break;
            close(c->rtp_fd);
        }
        c->port = port;
        port += 2;
        /* The first talkers of all rooms are spread evenly over the frame, the others of a room by the golden ratio. */
        double phase = (double)c->room / rooms + c->index * 0.6180339887;
        slot_of[i] = (int)((phase - floor(phase)) * SLOTS);
    }
    for (int slot = 0, n = 0; slot < SLOTS; slot++) {
        slot_first[slot] = n;
        for (int i = 0; i < option.calls; i++)
            if (slot_of[i] == slot) slot_calls[n++] = i;
        slot_first[slot + 1] = n;
    }
    free(slot_of);
}

/* Serves SIP and control until the deadline, at least once. */
static void serve_until(int64_t deadline_ns) {
    struct pollfd readable[2] = {{.fd = sip_fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    for (int64_t left = deadline_ns - now_ns();; left = deadline_ns - now_ns()) {
        struct timespec timeout = {0, left > 0 ? left : 0};
        int n = ppoll(readable, 2, &timeout, NULL);
        if (n > 0 && readable[0].revents) receive_requests();
        if (n > 0 && readable[1].revents) receive_control();
        if (quits || n == 0 || left <= 0) return;
    }
}

static void run(void) {
    const int64_t slot_ns = FRAME_NS / SLOTS;
    /* Frames begin on the grid of CLOCK_MONOTONIC, shifted by --phase-ms, so that two runs meet the server's ticks alike. */
    int64_t start_ns = (now_ns() / FRAME_NS + 2) * FRAME_NS + (int64_t)(option.phase_ms * 1e6);
    realtime_offset_ns = clock_ns(CLOCK_REALTIME) - now_ns(); /* read anew in each slot: the clocks drift apart */
    for (int64_t n = 0; !quits; n++) {
        int64_t deadline_ns = start_ns + n * slot_ns, frame = n / SLOTS, slot = n % SLOTS;
        serve_until(deadline_ns);
        int64_t now = now_ns();
        realtime_offset_ns = clock_ns(CLOCK_REALTIME) - now;
        if (in_window(now)) histogram_add(&send_lateness, now - deadline_ns);
        for (int i = slot_first[slot]; i < slot_first[slot + 1]; i++) {
            call *c = &calls[slot_calls[i]];
            if (c->state == CONFIRMED && c->sends) send_packet(c, frame);
            if (c->state != IDLE && (frame + i) % RECEIVE_EVERY_FRAMES == 0) receive_packets(c);
        }
        if (unacknowledged) repeat_answers(now);
        if (result_due && now > window_end_ns + 700 * MS) print_result(); /* the last bursts have been read by then */
        if (n % (50 * SLOTS) == 0) print_status();
    }
}

static void usage(const char *problem) {
    if (*problem) fprintf(stderr, "loadgen: %s\n", problem);
    fprintf(*problem ? stderr : stdout,
            "usage: loadgen [--ip A] [--sip-port P] [--rtp-base P] [--calls N] [--room-size S] [--talkers 1..%d]\n"
            "               [--codec PCMU|PCMA] [--phase-ms MS]\n"
            "Answers calls to sip:<room>-<index>@ip:port, sends and checks RTP. stdin: \"go SECONDS\", \"quit\".\n",
            TALKERS_MAX);
    exit(*problem ? 2 : 0);
}

int main(int argc, char **argv) {
    static const struct option names[] = {{"ip", 1, 0, 'i'},        {"sip-port", 1, 0, 's'}, {"rtp-base", 1, 0, 'r'},
                                          {"calls", 1, 0, 'n'},     {"room-size", 1, 0, 'z'}, {"talkers", 1, 0, 't'},
                                          {"codec", 1, 0, 'c'},     {"phase-ms", 1, 0, 'p'}, {"help", 0, 0, 'h'},
                                          {0, 0, 0, 0}};
    for (int o; (o = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (o == 'i') option.ip = optarg;
        else if (o == 's') option.sip_port = atoi(optarg);
        else if (o == 'r') option.rtp_base = atoi(optarg);
        else if (o == 'n') option.calls = atoi(optarg);
        else if (o == 'z') option.room_size = atoi(optarg);
        else if (o == 't') option.talkers = atoi(optarg);
        else if (o == 'p') option.phase_ms = atof(optarg);
        else if (o == 'c' && (strcmp(optarg, "PCMU") == 0 || strcmp(optarg, "PCMA") == 0)) option.pcma = optarg[3] == 'A';
        else usage(o == 'h' ? "" : "bad option");
    }
    own_address.sin_family = AF_INET;
    if (option.calls < 1 || option.room_size < 1 || option.talkers < 1 || option.talkers > TALKERS_MAX) usage("bad number");
    if (option.phase_ms < 0 || option.phase_ms >= 20) usage("--phase-ms lies in 0 <= MS < 20");
    if (inet_pton(AF_INET, option.ip, &own_address.sin_addr) != 1) usage("--ip takes an IPv4 address");
    prepare_audio();
    sip_fd = open_socket(option.sip_port, 4 << 20);
    if (sip_fd < 0) fail("SIP port");
    socklen_t size = sizeof own_address;
    getsockname(sip_fd, (struct sockaddr *)&own_address, &size);
    option.sip_port = ntohs(own_address.sin_port);
    open_calls();
    prctl(PR_SET_TIMERSLACK, 1);
    /* A late generator would look like network jitter to the server; allowed only to root, and reported in the result. */
    sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 1});
    printf("READY sip_port=%d\n", option.sip_port);
    fflush(stdout);
    run();
    return 0;
}
