"""Which files of the archive are joined: neighbours of one stream and form, and each record twice at most."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from adapters.archives.manifest import File
from adapters.archives.merging import OPEN_DAY_FILES, RECORDS_MAX, due, joined

NOW_S = 1_763_726_400.0  # 2025-11-21, 12:00 UTC
TODAY, YESTERDAY = "route=r/date=2025-11-21", "route=r/date=2025-11-20"


def file(number: int, *, day: str = TODAY, stream: str = "w0", form: str = "f", records: int = 10) -> File:
    return File(
        f"{day}/{stream}-{number:020d}-0.parquet", "r", records, number, number + 1.0, f"{number:04d}", f"{number:04d}", form
    )


def numbers(files) -> list[float]:
    return [one.first_s for one in files]


def test_files_of_the_open_day_are_joined_by_the_dozen():
    """One file fewer waits; twelve are joined in the order of their offsets, however the manifest has them."""
    few = [file(number) for number in range(OPEN_DAY_FILES - 1)]
    assert due(few, now_s=NOW_S) == ()
    assert numbers(due([file(99), *reversed(few)], now_s=NOW_S)) == [*range(OPEN_DAY_FILES - 1), 99]


def test_files_of_a_day_that_is_over_are_all_joined():
    """Two are enough once the day is over, joined ones among them; a single one stays as it is."""
    first = joined([file(number, day=YESTERDAY) for number in range(3)])
    last = file(7, day=YESTERDAY)
    assert due([last, first], now_s=NOW_S) == [first, last]
    assert due([last], now_s=NOW_S) == ()


def test_day_is_over_an_hour_after_midnight():
    """Segments that were open at midnight have until then to be taken."""
    files = [file(number, day=YESTERDAY) for number in range(2)]
    midnight_s = NOW_S - 12 * 3_600
    assert due(files, now_s=midnight_s + 3_599) == ()
    assert due(files, now_s=midnight_s + 3_601) == files


def test_only_files_of_one_directory_stream_and_form_are_joined():
    """Routes, days, workers and columns stay apart, and so does a file of which nobody knows the columns."""
    apart = [
        file(1, day=YESTERDAY),
        file(2, day=YESTERDAY, stream="w1"),
        file(3, day=YESTERDAY, form="g"),
        file(4, day=YESTERDAY.replace("r/", "s/")),
        file(5, day=YESTERDAY.replace("20", "19")),
        *(file(number, day=YESTERDAY, form="") for number in (6, 7)),
    ]
    assert due(apart, now_s=NOW_S) == ()
    truths = [
        replace(file(number), path=f"ground_truth/date=2025-11-20/w0-{number:020d}.parquet", route=None, form="")
        for number in (1, 2)
    ]
    assert due([*apart, *truths], now_s=NOW_S) == truths


def test_joined_file_says_what_its_parts_said():
    """It has the sum of the records and the ends of times and ids, and both places in its name."""
    parts = [file(3), file(1), file(2)]
    whole = joined(parts)
    assert whole == File(f"{TODAY}/w0-{3:020d}-0-{2:020d}-0.parquet", "r", 30, 1, 4.0, "0001", "0003", "f")
    again = joined([whole, file(9)])
    assert again.path == f"{TODAY}/w0-{3:020d}-0-{9:020d}-0.parquet"


@given(st.lists(st.integers(1, 150_000), max_size=60), st.booleans())
def test_joining_ends_and_loses_nothing(sizes, is_over):
    """However large the files are, joining comes to an end, keeps every record, and makes no file larger than it may be."""
    day = YESTERDAY if is_over else TODAY
    files = [file(number, day=day, records=size) for number, size in enumerate(sizes)]
    for _ in range(len(sizes) + 1):
        run = due(files, now_s=NOW_S)
        if not run:
            break
        whole = joined(run)
        assert whole.records <= RECORDS_MAX
        assert whole.path not in {one.path for one in files}
        files = [one for one in files if one not in run] + [whole]
    assert not due(files, now_s=NOW_S)
    assert sum(one.records for one in files) == sum(sizes)
    if is_over:
        ends = sorted(files, key=lambda one: one.first_s)
        assert all(one.records + other.records > RECORDS_MAX for one, other in itertools.pairwise(ends))
