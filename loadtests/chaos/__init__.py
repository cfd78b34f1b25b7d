"""What breaks, broken on purpose: each scenario harms a running gateway and says what its callers saw."""
