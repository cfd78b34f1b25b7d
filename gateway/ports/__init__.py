"""Every boundary of the program, a file for each family.

- `clock`: the only time.
- `log`: the prediction log, its writer and its reader; `archive`: its columnar copies, and what may be asked of them.
- `stores`: artifacts, the registry, checkpoints, backups.
- `runtimes`: what loads, runs and validates versions; `loading`: what a worker asks of the system meanwhile.
- `inflight`: what a worker leaves behind when it dies.
- `readings`: detectors, and the monitor's picture of what they found; `metrics`: numbers that outlive their process.
- `notices` and `traces`: what is sent elsewhere.

The docstring of a method is its contract: order, durability, idempotence, blocking, errors. The log, artifacts, the registry,
checkpoints, metrics and readings have suites in `tests/conformance`, which every adapter passes. Unless a method says otherwise
it blocks, and an event loop calls it in a thread.
No driver's error crosses a port: an adapter raises a `PortFault` or a `ModelFault` from it.
"""
