"""Fakes of the vendors: local servers that speak their wire protocols (contract media.md, section 12)."""
