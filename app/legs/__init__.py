"""Calls: what each leg is, what may be done to it, what is reported of it. Runs in: control."""
