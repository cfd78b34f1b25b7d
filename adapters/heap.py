"""What this process has allocated, from the C library's own books; the only file that asks it.

Resident memory says less: pages that were freed stay resident, and a small model fits into them and seems to take nothing.
"""

from __future__ import annotations

import ctypes
from typing import Final

_FIELDS: Final = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Books(ctypes.Structure):
    """`struct mallinfo2`, malloc.h."""

    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


class Heap:
    """A `MemoryMeter` over glibc 2.33 or later. With another C library nothing is measured, and versions count by their size."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._books = getattr(library, "mallinfo2", None)
        self._trim = getattr(library, "malloc_trim", None)
        if self._books is not None:
            self._books.restype = _Books

    def heap_bytes(self) -> int:
        """Add what is in use in every arena and what was mapped by itself."""
        if self._books is None:
            return 0
        books = self._books()
        return int(books.uordblks + books.hblkhd)

    def trim(self) -> None:
        """Give free pages back; takes each arena's lock in turn."""
        if self._trim is not None:
            self._trim(0)
