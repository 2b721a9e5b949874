"""Heads that segment, and what finds and shows masks."""
