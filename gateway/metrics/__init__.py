"""Every metric of the program, once: name, type, labels, help; a file for each part that counts.

A process counts in the cells of its `MetricsBank`, which outlive it; cells are bound when something changes, never per request.
The control plane's scrape (`gateway/exposition.py`) turns all processes' cells into Prometheus series with the label `process`.
Labels come from bounded sets (routes, variants, versions, outcomes), never a key, an id or a message; the one exception is the
`audit_entry` of the last changes of a route. A gauge that says nothing now is NaN, and not shown.
"""
