"""The gateway beside other model servers, each in an environment of its own; `python -m loadtests.peers`."""
