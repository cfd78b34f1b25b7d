"""The monitor of the monitor: whether what the other boards say can be relied on."""

from __future__ import annotations

from typing import Final

from grafana import bounds
from grafana.bounds import GREEN, RED, YELLOW
from grafana.panels import SPAN, Board, Kind, Panel, Query, Unbounded, number, rate

_NO_CHANNEL: Final = 'label_replace(vector(0), "channel", "no channel", "", "")'


def _in_an_hour(metric: str) -> str:
    return f"sum(increase({metric}[1h])) or vector(0)"


_PANELS: Final = (
    number(
        "Lag",
        "How far the monitor is behind the newest records. Automatic decisions come that much later.",
        "s",
        "max(gateway_monitor_lag_seconds)",
        levels=bounds.LAG,
    ),
    number(
        "Failed turns, last hour",
        "Turns of the monitor that failed and were tried again: the log or the registry was away.",
        "short",
        _in_an_hour("gateway_monitor_turn_failures_total"),
        levels=bounds.ANY,
    ),
    number(
        "Unexpected errors, last hour",
        "Errors that the program has no name for. Each is in the journal.",
        "short",
        _in_an_hour("gateway_unexpected_errors_total"),
        levels=bounds.ANY,
    ),
    number(
        "Records lost, last hour",
        "Answers without a record, because the log could not take it and the gateway was told to answer all the same.",
        "short",
        _in_an_hour("gateway_unlogged_records_total"),
        levels=bounds.ANY,
    ),
    number(
        "Numbers lost, last hour",
        "Updates of metrics that found no room. While this grows, the boards are not whole.",
        "short",
        _in_an_hour("gateway_metrics_overflow_total"),
        levels=bounds.ANY,
    ),
    number(
        "Registry",
        "Whether the control plane can read it. Serving goes on without it; changes do not.",
        "none",
        "min(gateway_registry_up)",
        meanings=((1, "up", GREEN), (0, "down", RED)),
    ),
    Panel(
        "What is wrong with the monitor",
        "Silent, behind, watching only a sample, a drill that it missed, or too many false alarms in drills. "
        "`headgate monitor show` says each in a sentence.",
        "none",
        (Query("max by (trouble) (gateway_monitor_trouble)", "{{trouble}}"),),
        Kind.STATES,
        width=8,
        meanings=((0, "no", GREEN), (1, "yes", RED)),
    ),
    Panel(
        "Lag behind the log",
        "How far the monitor is behind the newest records. It is about half a second when all is well: the workers' streams are "
        "merged behind a watermark.",
        "s",
        (Query("max(gateway_monitor_lag_seconds)", "monitor"),),
        width=16,
        levels=bounds.LAG,
    ),
    Panel(
        "Records a second",
        "Written by the workers, and read by the monitor; heartbeats of idle workers are not among the written ones.",
        "wps",
        (
            Query(rate("gateway_log_records_total"), "written"),
            Query(rate("gateway_monitor_records_total"), "read by the monitor"),
        ),
        width=8,
        unbounded=Unbounded.AMOUNT,
    ),
    Panel(
        "Time of a write to the log",
        "The mean time of one write, which holds all records of a turn; answers wait for it.",
        "s",
        (
            Query(
                f"{rate('gateway_log_write_seconds_total', by='process')} / "
                f"({rate('gateway_log_writes_total', by='process')} > 0)",
                "{{process}}",
            ),
        ),
        width=8,
        levels=bounds.LOG_WRITE,
    ),
    Panel(
        "Writes that failed",
        "Groups of records that could not be written. Their callers got an error, unless the gateway was told to go on.",
        "wps",
        (Query(rate("gateway_log_write_failures_total", by="process"), "{{process}}"),),
        width=8,
        levels=((bounds.FLOWS, RED),),
    ),
    Panel(
        "Lag of the archive",
        "Age of the oldest closed segment that is not in the archive yet.",
        "s",
        (Query("max(gateway_archive_lag_seconds)", "archive"),),
        width=8,
        levels=bounds.ARCHIVE_LAG,
    ),
    Panel(
        "Records that are no evidence",
        "They came out of order, or of a revision of the route that is not known any more. Zero is usual.",
        "short",
        (
            Query(f"sum(increase(gateway_monitor_late_records_total[{SPAN}]))", "out of order"),
            Query(f"sum(increase(gateway_monitor_unplaced_records_total[{SPAN}]))", "of an unknown revision"),
            Query(f"sum(increase(gateway_monitor_positions_moved_total[{SPAN}]))", "streams taken up elsewhere after power loss"),
        ),
        width=8,
        levels=bounds.SELDOM,
    ),
    Panel(
        "Share looked at",
        "Below one, more predictions come than the monitor may spend time on; it looks at this share of them and of their keys.",
        "percentunit",
        (Query("min(gateway_monitor_sampled_ratio)", "least"),),
        width=8,
        levels=bounds.WHOLE,
        below=YELLOW,
    ),
    Panel(
        "Requests until a drill is found",
        "How many made-up requests the last drills took from the harm to its detection: a feature that moves by one standard "
        "deviation, a challenger that fails in 40 % of its attempts instead of 10 %. "
        "At the line a drill counts as missed.",
        "short",
        (Query("max by (drill) (gateway_monitor_drill_detection_requests)", "{{drill}}"),),
        width=8,
        levels=bounds.DETECTION,
    ),
    Panel(
        "Drills",
        "How drills on made-up traffic ended. An A/A drill must be quiet, the others detected; a false alarm now and then is "
        "within the budget.",
        "short",
        (Query(f"sum by (drill, ending) (increase(gateway_monitor_drills_total[{SPAN}]))", "{{drill}} {{ending}}"),),
        width=8,
        unbounded=Unbounded.AMOUNT,
    ),
    Panel(
        "Time spent on drills",
        "Of one core. It stays under monitor.drill_share, whose default is the line.",
        "percentunit",
        (Query(rate("gateway_monitor_drill_seconds_total"), "drills"),),
        width=8,
        levels=bounds.DRILL_SHARE,
    ),
    Panel(
        "Loop lag",
        "How late each worker's event loop was. What is computed inside it delays everybody who waits.",
        "s",
        (Query("max by (process) (gateway_loop_lag_seconds)", "{{process}}"),),
        width=8,
        levels=bounds.LOOP_LAG,
    ),
    Panel(
        "Segments of the log",
        "Closed segments that are kept. They go once the archive and the monitor have passed them; steady growth says that "
        "one has not. At the line full ones are all that log.bytes_max lets a worker keep, by default.",
        "short",
        (Query("max(gateway_log_segments)", "kept"),),
        width=8,
        levels=bounds.SEGMENTS,
    ),
    Panel(
        "Room for the log",
        "What is left on the disk of the data directory. Below the upper line the log gives back all that archive and monitor "
        "have passed; below the lower one, the default of log.free_bytes_min, predictions are refused or lose their records.",
        "bytes",
        (Query("min(gateway_log_free_bytes)", "free"),),
        width=8,
        levels=bounds.ROOM,
        below=RED,
    ),
    Panel(
        "Failed steps of the archive",
        "They are tried again.",
        "short",
        (Query(f"sum(increase(gateway_archive_failures_total[{SPAN}])) or vector(0)", "failed"),),
        width=8,
        levels=bounds.ANY,
    ),
    Panel(
        "Notices that wait",
        "What people were to be told, and a channel has not taken yet. Seconds are usual; what goes on waiting says that the "
        "channel is dead, which the others are told.",
        "short",
        (Query(f"sum by (channel) (gateway_notices_waiting) or on () {_NO_CHANNEL}", "{{channel}}"),),
        width=8,
        levels=bounds.SELDOM,
    ),
    Panel(
        "Notices that nobody got",
        "Given up after a day, or because too many waited; those above info that no channel wants; and critical ones of which "
        "nobody has heard yet.",
        "short",
        (
            Query('sum(gateway_notices_unheard{severity="critical"}) or vector(0)', "critical and not heard of yet"),
            Query(_in_an_hour("gateway_notices_lost_total"), "given up in the last hour"),
            Query(_in_an_hour('gateway_notices_untold_total{severity!="info"}'), "wanted by no channel in the last hour"),
        ),
        width=8,
        levels=bounds.SELDOM,
    ),
    Panel(
        "Routes that the monitor follows",
        "Routes of which it has seen records.",
        "short",
        (Query("max(gateway_monitor_routes)", "routes"),),
        width=24,
        height=5,
        unbounded=Unbounded.AMOUNT,
    ),
)

BOARD: Final = Board("headgate-monitor", "Monitor of the monitor", "Whether what the other boards say can be relied on.", _PANELS)
