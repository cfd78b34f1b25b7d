"""Measurements of the whole program; `loadtests/README.md` says how to read them."""
