"""Rooms: who is in which, and how legs come and go. Runs in: control."""
