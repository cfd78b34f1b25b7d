"""Replays: another version, another plan, or the monitor's own decisions, over what was logged.

Each reads the archive and the open log in the monitor's order and changes nothing. What judges is the monitor's own code.
"""
