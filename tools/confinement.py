"""What keeps untrusted source inside its process: limits, a system-call filter, no network, an audit hook.

Everything here is one-way and meant for a process that is about to run foreign code. The system-call filter exists on
Linux (x86-64, AArch64); elsewhere the audit hook and the resource limits are what there is. `apply` says what it got.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from typing import Any

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
_CLONE_THREAD = 0x00010000
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERRNO = 0x00050000

# Linux system-call numbers: (x86-64, AArch64); None where the call doesn't exist.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None), "execve": (59, 221),
    "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "socket": (41, 198), "socketpair": (53, 199),
    "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242),
    "sendto": (44, 206), "sendmsg": (46, 211), "kill": (62, 129), "tkill": (200, 130), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "truncate": (76, 45),
    "ftruncate": (77, 46), "mount": (165, 40), "umount2": (166, 39), "chroot": (161, 51), "pivot_root": (155, 41),
    "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "userfaultfd": (323, 282), "perf_event_open": (298, 241), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "memfd_create": (319, 279), "setrlimit": (160, 164), "prctl": (157, 167),
    "shmget": (29, 194), "mq_open": (240, 180),
}  # fmt: skip
_CLONE = (56, 220)
_CLONE3 = (435, 435)
_TGKILL = (234, 131)
_PRLIMIT = (302, 261)

_DENIED_EVENTS = frozenset(
    "open os.system os.exec os.fork os.forkpty os.posix_spawn os.spawn os.startfile os.kill os.killpg os.listdir os.scandir "
    "os.remove os.rename os.mkdir os.rmdir os.link os.symlink os.chmod os.chown os.truncate os.putenv os.unsetenv "
    "os.chdir subprocess.Popen pty.spawn shutil.rmtree shutil.copyfile shutil.move signal.pthread_kill "
    "socket.__new__ socket.connect socket.bind socket.getaddrinfo socket.gethostbyname socket.sendto "
    "ctypes.dlopen ctypes.dlsym ctypes.call_function ctypes.cdata ctypes.cdata/buffer "
    "sys.settrace sys.addaudithook gc.get_objects gc.get_referrers gc.get_referents "
    "webbrowser.open urllib.Request code.__new__ function.__new__ pickle.find_class".split()
)


class Refused(PermissionError):
    """Confined code asked the host for something; the text says what."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Resources of one job."""

    seconds: float = 60.0
    """Wall seconds; processor seconds may be as many on each core."""
    memory_bytes: int = 4 << 30
    """Address space beyond what the warm worker has already."""
    result_bytes: int = 1 << 30
    """Bytes of arrays that a job may send back."""
    printed_characters: int = 1 << 20
    """What a job may print before it is stopped."""


def leave_network() -> bool:
    """Move this process into an empty network namespace, if that is allowed. Must run before threads start."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return any(libc.unshare(flags) == 0 for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET))


def die_with_parent() -> None:
    """Have this process killed when its parent ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def limit_resources(limits: Limits) -> None:
    """Set the limits of this process; they can't be raised again."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CPU, int(limits.seconds * (os.cpu_count() or 1)) + 2)
    if sys.platform == "linux":
        _lower(resource.RLIMIT_AS, _address_space() + limits.memory_bytes)


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bound, bound))


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - read at once, before anything foreign runs
        return int(file.read().split()[0]) * resource.getpagesize()


def watch_events() -> None:
    """Refuse, from now on, what reaches for the host through Python."""
    denied = _DENIED_EVENTS

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in denied:
            raise Refused(errno.EACCES, f"confined code may not use {event}{_first(arguments)}")

    sys.addaudithook(hook)


def _first(arguments: tuple[Any, ...]) -> str:
    return f" ({arguments[0]!r})"[:120] if arguments and isinstance(arguments[0], str | bytes | int) else ""


class _Filter(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def filter_system_calls() -> bool:
    """Refuse opening files, new processes, sockets, signals and the like for good; False where there is no filter."""
    column = {"x86_64": 0, "aarch64": 1}.get(platform.machine())
    if sys.platform != "linux" or column is None or sys.byteorder != "little":
        return False
    architecture = (0xC000003E, 0xC00000B7)[column]
    program = bytearray()

    def emit(code: int, yes: int = 0, no: int = 0, value: int = 0) -> None:
        program.extend(struct.pack("<HBBI", code, yes, no, value))

    load, equal, test, jump_ge, give = 0x20, 0x15, 0x45, 0x35, 0x06
    refuse = _ERRNO | errno.EACCES
    emit(load, value=4)
    emit(equal, 1, 0, architecture)
    emit(give, value=_KILL)
    emit(load, value=0)
    if column == 0:  # the x32 interface has numbers of its own
        emit(jump_ge, 0, 1, 0x40000000)
        emit(give, value=_KILL)
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            emit(equal, 0, 1, number)
            emit(give, value=refuse)
    emit(equal, 0, 1, _CLONE3[column])  # glibc falls back to clone, whose flags a filter can see
    emit(give, value=_ERRNO | errno.ENOSYS)
    emit(equal, 0, 4, _CLONE[column])
    emit(load, value=16)
    emit(test, 1, 0, _CLONE_THREAD)
    emit(give, value=refuse)
    emit(give, value=_ALLOW)
    emit(equal, 0, 4, _TGKILL[column])  # abort() signals its own process
    emit(load, value=16)
    emit(equal, 1, 0, os.getpid())
    emit(give, value=refuse)
    emit(give, value=_ALLOW)
    emit(equal, 0, 6, _PRLIMIT[column])  # reading limits is fine, setting them isn't
    emit(load, value=32)
    emit(equal, 0, 2, 0)
    emit(load, value=36)
    emit(equal, 1, 0, 0)
    emit(give, value=refuse)
    emit(give, value=_ALLOW)
    emit(give, value=_ALLOW)
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(bytes(program))
    description = _Filter(len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(description), 0, 0) == 0)


def confine(limits: Limits) -> tuple[str, ...]:
    """Shut this process in; returns the names of the walls that stand."""
    limit_resources(limits)
    walls = ["resource limits"]
    if filter_system_calls():
        walls.append("system-call filter")
    watch_events()
    walls.append("audit hook")
    return tuple(walls)
