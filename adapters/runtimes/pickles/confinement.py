"""What a process gives up before it unpickles anything: files, sockets, other processes, capabilities.

Landlock keeps it from files and seccomp from system calls, both by plain system calls, so that no library is needed in the
version's environment. Each works without privileges and for good: nothing that runs later can take it back. What this kernel
lacks is named to the caller, who decides whether to go on.

Source: linux/landlock.h, linux/seccomp.h, linux/filter.h, linux/audit.h, and the tables of system calls of both architectures.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable, Sequence

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_PR_SET_DUMPABLE = 4
_SECCOMP_MODE_FILTER = 2

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same number on every architecture
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_TRUNCATE = 1 << 14
_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_NETWORK_RIGHTS = 0b11  # bind and connect over TCP; from ABI 4
_SCOPES = 0b11  # abstract Unix sockets and signals of processes outside; from ABI 6
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | 1 << 15  # all that a rule on a file, not a directory, may hold

# Numbers of the calls that are refused, x86-64 and AArch64. Sockets of every kind; io_uring, which would open them unseen; other
# processes' memory; programs; namespaces, mounts, modules, keys, clocks; owners and modes of files, which Landlock does not keep;
# memory that no limit of this process counts, because it is mapped nowhere.
_REFUSED = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "kcmp": (312, 272), "execve": (59, 221), "execveat": (322, 281),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430), "fsmount": (432, 432),
    "mount_setattr": (442, 442), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264), "mknodat": (259, 33), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "fchown": (93, 55), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "utimensat": (280, 88), "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "semget": (64, 190),
    "mq_open": (240, 180), "quotactl": (179, 60), "syslog": (103, 116), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "vmsplice": (278, 75),
}  # fmt: skip
_REFUSED_AT_LAST = {"sched_setaffinity": (203, 122), "setpriority": (141, 140), "sched_setscheduler": (144, 119),
                    "sched_setattr": (314, 274), "setrlimit": (160, 164)}  # fmt: skip  # once its limits are set
_REFUSED_ON_X86 = (133, 90, 92, 94, 132, 235, 261)  # mknod, chmod, chown, lchown, utime, utimes, futimesat
_X86_FORKS = (57, 58)  # fork, vfork
_SIGNALS = {"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
            "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424)}  # fmt: skip
_PRLIMIT, _CLONE, _CLONE3 = (302, 261), (56, 220), (435, 435)
_PRCTL, _FCNTL = (157, 167), (72, 25)
_PR_SET_PDEATHSIG, _F_SETPIPE_SZ = 1, 1031
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # the column above, and AUDIT_ARCH_…

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_X32_BIT = 0x40000000  # calls of the 32-bit ABI on x86-64 have numbers of their own
_CLONE_THREAD = 0x00010000
_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF instructions on 32-bit words
_NUMBER_AT, _ARCH_AT, _ARGS_AT = 0, 4, 16  # in struct seccomp_data; low halves first on both architectures

READABLE = (  # what an interpreter, the C library and numerical libraries read besides their own prefix
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime",
    "/dev/null", "/dev/zero", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu",
)  # fmt: skip


class Missing(Exception):
    """The kernel, or this architecture, lacks a part of the confinement; the message names it."""


def give_up_privileges() -> None:
    """Forbid new privileges, drop every capability, and let no process of the same user look inside."""
    _call(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    header = struct.pack("<Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    _call(_LIBC.capset(header, bytes(24)))
    _call(_LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def restrict_files(readable: Iterable[str], writable: Iterable[str]) -> str:
    """Leave this process only these files and directories; nothing may be executed.

    Returns:
        What was applied, for people.

    Raises:
        Missing: the kernel has no Landlock, or it is switched off.
    """
    abi = _LIBC.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if abi < 1:
        raise Missing("Landlock (the kernel lacks it, or it is not among the boot parameter lsm=)")
    rights = _RIGHTS_BY_ABI[min(abi, 5)]
    network = _NETWORK_RIGHTS if abi >= 4 else 0
    scopes = _SCOPES if abi >= 6 else 0
    attributes = struct.pack("<QQQ", rights, network, scopes)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = _LIBC.syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0)
    _call(ruleset)
    try:
        for path in readable:
            _allow(ruleset, path, (_READ_FILE | _READ_DIR) & rights)
        for path in writable:
            every = _WRITE_FILE | _READ_FILE | _READ_DIR | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _TRUNCATE
            _allow(ruleset, path, every & rights)
        _call(_LIBC.syscall(_LANDLOCK_RESTRICT, ruleset, 0))
    finally:
        os.close(ruleset)
    return f"Landlock ABI {abi}"


def refuse_calls(*, may_fork: bool) -> str:
    """Refuse system calls: those in `_REFUSED`, and unless it may fork, other processes, signals to them and limits of its own.

    Returns:
        What was applied, for people.

    Raises:
        Missing: the kernel has no seccomp filters, or the architecture is not known here.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES or sys.byteorder != "little":
        raise Missing(f"seccomp (there is no table of system calls for {machine})")
    column, architecture = _ARCHITECTURES[machine]
    program = _program(column, architecture, may_fork=may_fork)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    if _LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0):
        raise Missing(f"seccomp ({os.strerror(ctypes.get_errno())})")
    return "seccomp"


def _program(column: int, architecture: int, *, may_fork: bool) -> bytes:
    """Return the filter: other architectures die, listed calls fail with EPERM, all else is allowed."""
    refuse = _ERRNO | _EPERM
    refused = [numbers[column] for numbers in _REFUSED.values()]
    if column == 0:
        refused += _REFUSED_ON_X86
        refused += () if may_fork else _X86_FORKS
    code = [_load(_ARCH_AT), _step(_JEQ, architecture, 1, 0), _step(_RET, _KILL), _load(_NUMBER_AT)]
    if column == 0:
        code += [_step(_JGE, _X32_BIT, 0, 1), _step(_RET, refuse)]
    for number in refused:
        code += [_step(_JEQ, number, 0, 1), _step(_RET, refuse)]
    if not may_fork:
        for numbers in _REFUSED_AT_LAST.values():
            code += [_step(_JEQ, numbers[column], 0, 1), _step(_RET, refuse)]
        # A new limit is a pointer that is not null; both halves are looked at.
        limit = [_load(_ARGS_AT + 16), _step(_JEQ, 0, 0, 2), _load(_ARGS_AT + 20), _step(_JEQ, 0, 1, 0), _step(_RET, refuse)]
        code += _when(_PRLIMIT[column], limit)
        code += _when(_PRCTL[column], [_load(_ARGS_AT), *_refused_if(_PR_SET_PDEATHSIG)])  # it ends with the fork server
        code += _when(_FCNTL[column], [_load(_ARGS_AT + 8), *_refused_if(_F_SETPIPE_SZ)])  # a pipe holds 64 KB, not 1 MB
        code += _when(_CLONE3[column], [_step(_RET, _ERRNO | _ENOSYS)])  # its flags lie in memory; the C library then uses clone
        code += _when(_CLONE[column], [_load(_ARGS_AT), _step(_JSET, _CLONE_THREAD, 1, 0), _step(_RET, refuse)])
        for numbers in _SIGNALS.values():
            code += _when(numbers[column], [_load(_ARGS_AT), _step(_JEQ, os.getpid(), 1, 0), _step(_RET, refuse)])
    code.append(_step(_RET, _ALLOW))
    return b"".join(code)


def _when(number: int, then: Sequence[bytes]) -> list[bytes]:
    """Return the steps that run `then` for one call, and afterwards have the call's number loaded again."""
    return [_step(_JEQ, number, 0, len(then) + 1), *then, _load(_NUMBER_AT)]


def _refused_if(value: int) -> list[bytes]:
    """Return the steps that refuse a call whose argument, just loaded, is this one."""
    return [_step(_JEQ, value, 0, 1), _step(_RET, _ERRNO | _EPERM)]


def _load(offset: int) -> bytes:
    return _step(_LD, offset)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not on this machine
    try:
        allowed = rights if os.path.isdir(path) else rights & _FILE_RIGHTS  # noqa: PTH112 - pathlib is not imported in the child
        _call(_LIBC.syscall(_LANDLOCK_ADD, ruleset, 1, struct.pack("<Qi", allowed, descriptor), 0))
    finally:
        os.close(descriptor)


def _call(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
