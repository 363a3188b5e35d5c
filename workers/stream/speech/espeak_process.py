"""espeak-ng in an OS process of its own: a request on standard input, speech on standard output.

Runs in: a child of stream, one for each utterance. espeak-ng is under the GPL; nothing else of ours is loaded here, and this
file is not imported by anything.
Owns: the C library, and which of its voices a caller means.

    in    {"text", "voice", "language"} as JSON, then end of file
    out   one line of JSON, {"rate_hz"} or {"error"}; after {"rate_hz"} signed 16-bit little-endian mono until end of file

Rules
1. Audio is written while it is made. The pipe paces it; a reader that is gone ends it.
2. A voice is espeak-ng's own name, its file or a language code, whose regions are left off until it is known. A voice that is
   none of these falls back on `language`; without one it is an error. `default` is `language`, else English.

Not here: rate conversion, time limits, the kill → local.
"""

import ctypes
import json
import sys

import espeakng_loader

_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_BUFFER_MS = 60
_BY_CHARACTER = 1
_UTF8 = 1
_ALIASES = {"zh": "cmn", "no": "nb", "iw": "he", "in": "id", "tl": "fil"}

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def candidates(name: str) -> list[str]:
    """What to ask the library for, best first: `de-AT` → de-AT, de-at, de. Nothing that could leave its voice folder."""
    name = name.strip()
    if not name or ".." in name or name.startswith("/") or not name.isprintable():
        return []
    code, plus, variant = name.replace("_", "-").lower().partition("+")
    parts = code.split("-")
    codes = ["-".join(parts[:length]) for length in range(len(parts), 0, -1)]
    codes.append(_ALIASES.get(parts[0], parts[0]))
    return [name, *(code + plus + variant for code in codes)]


def main() -> None:
    """Speak once."""
    request = json.loads(sys.stdin.buffer.read())
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate_hz = library.espeak_Initialize(
        _SYNCHRONOUS, _BUFFER_MS, espeakng_loader.get_data_path().encode(), _DO_NOT_EXIT
    )
    if rate_hz <= 0:
        tell({"error": "espeak-ng does not start"})
        return
    voice, language = request["voice"], request["language"]
    wanted = [] if voice.strip().lower() == "default" else candidates(voice)
    wanted += candidates(language)
    if not wanted and voice.strip().lower() == "default":
        wanted = ["en-us", "en"]
    if not any(library.espeak_SetVoiceByName(name.encode()) == 0 for name in wanted):
        tell({"error": "no such voice"})
        return
    tell({"rate_hz": rate_hz})

    def write(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int) -> int:
        try:
            if samples and count:
                sys.stdout.buffer.write(ctypes.string_at(samples, count * 2))
                sys.stdout.buffer.flush()
        except OSError:
            return 1  # nobody listens any more
        return 0

    callback = _Callback(write)  # ctypes does not keep it alive
    library.espeak_SetSynthCallback(callback)
    text = request["text"].replace("\0", " ").encode()
    status = library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, _BY_CHARACTER, 0, _UTF8, None, None)
    sys.exit(1 if status else 0)


def tell(message: dict[str, object]) -> None:
    """The first line."""
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
