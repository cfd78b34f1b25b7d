"""What the prediction path is compared with, each started as `python -m loadtests.servers.<name> MODEL`."""
