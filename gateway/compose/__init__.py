"""Settings → adapters → running planes: the only package that imports adapters.

A plane runs in a process of its own; the supervisor starts it as `headgate plane NAME …` with its listening socket inherited.
"""
