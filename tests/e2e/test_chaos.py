"""Harm to a running gateway, as the chaos suite does it in full: what callers see, and that nothing acknowledged is lost."""

from __future__ import annotations

from loadtests.chaos import clients, deaths, surroundings


def test_stop_at_full_load_breaks_no_answer(tmp_path):
    """SIGTERM while callers send as fast as answers come: each request that was sent gets its whole answer."""
    assert deaths.stopped_at_full_load(tmp_path, times=1).failures == []


def test_segfault_costs_the_requests_in_flight_alone(tmp_path):
    """A version that reads address 0 takes its worker with it; the log blames it, and nothing acknowledged is lost."""
    assert deaths.model_segfaults(tmp_path, times=1).failures == []


def test_log_that_cannot_be_written_is_503_until_it_can(tmp_path):
    """While no write succeeds predictions and readiness are 503, the worker stays, and good answers follow by themselves."""
    assert surroundings.log_cannot_grow(tmp_path).failures == []


def test_mutated_requests_get_a_documented_answer(tmp_path):
    """Whatever a few changed bytes or values make of a request, its answer is a documented one, and soon."""
    assert clients.mutated(tmp_path, count=500, seed=7).failures == []
