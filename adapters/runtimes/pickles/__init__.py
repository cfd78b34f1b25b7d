"""Pickled models in processes of their own: what the parent and the child share, and the child's program.

`framing`, `confinement`, `scan` and `host` run in the child, under whatever interpreter a version brings; they import nothing of
the gateway, and NumPy is all they need. `forkserver` and `process` are the parent's side. Only `host` unpickles.
"""
