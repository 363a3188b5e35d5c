"""What runs in rooms and on legs beside the mix: playback, speech, recording, transcription, agents. Runs in: control."""
