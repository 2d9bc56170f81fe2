"""What a process gives up before it runs other people's code: network, other folders, programs, memory, large files.

There are two walls. On Linux the kernel refuses: a network namespace, Landlock and limits of resources, which no code
in the process can lift. Everywhere Python's audit hook refuses: it holds ordinary code, not code that means to break
out.
"""

from __future__ import annotations

import ctypes
import os
import platform
import site
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Of Linux, the same on all its 64-bit machines.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
NEW_USER, NEW_NET, NO_NEW_PRIVILEGES = 0x10000000, 0x40000000, 38
READ_FILE, READ_DIR, WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
FILE_RIGHTS = (1 << 0) | WRITE_FILE | READ_FILE | (1 << 14)  # what a rule for a single file may grant
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by the kernel's version of Landlock
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/proc", "/sys", "/System", "/Library", "/etc/fonts", "/etc/ssl")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/passwd", "/etc/nsswitch.conf", "/etc/mime.types")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/tty", os.devnull)
LARGEST_FILE = 200 << 20


def readable_folders(more: Sequence[Path]) -> list[Path]:
    """Folders that Python itself must read, the system's, and `more`."""
    package = Path(__file__).resolve().parents[1]
    named: list[str] = [
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        *site.getsitepackages(),
        site.getusersitepackages(),
    ]
    named += [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages") or p.endswith(".zip")]
    if os.name == "nt":
        named += [os.environ.get("SYSTEMROOT", r"C:\Windows")]
    else:
        named += SYSTEM
    found = {Path(p).resolve() for p in named}
    found |= {p.resolve() for p in [package, package.parent / "notebooks", *more]}
    return sorted(p for p in found if p.is_dir() and p != Path(p.anchor))


class _Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "network", "scoped")]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def leave_network() -> bool:
    """Move into a network without any device (Linux, where the system allows it). Before threads are started."""
    if sys.platform != "linux":
        return False
    user = os.getuid()
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_USER | NEW_NET):
        return False
    try:
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    except OSError:  # then files belong to "nobody" in our eyes, which does no harm
        return True
    return True


def lock_files(writable: Path, readable: Sequence[Path]) -> bool:
    """Let Landlock refuse all other files, and TCP (Linux 5.13 and newer). Before threads are started."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return False
    call = ctypes.CDLL(None, use_errno=True)
    version = call.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    rights = RIGHTS[max(v for v in RIGHTS if v <= version)]
    rules = _Ruleset(rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = call.syscall(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    grants = [(writable, rights & ~1)]  # all but to execute
    grants += [(folder, READ_FILE | READ_DIR) for folder in readable]
    grants += [(Path(p), READ_FILE) for p in SYSTEM_FILES] + [(Path(p), READ_FILE | WRITE_FILE) for p in DEVICES]
    for path, allowed in grants:
        if not path.exists():
            continue
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            mask = rights if path.is_dir() else rights & FILE_RIGHTS
            rule = _Beneath(allowed & mask, opened)
            if call.syscall(ADD_RULE, ruleset, 1, ctypes.byref(rule), 0):
                return False
        finally:
            os.close(opened)
    call.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    done = call.syscall(RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return done


def limit_resources(memory: int, seconds: int) -> bool:
    """No more memory, seconds of a processor, large files or core dumps (where the system counts them).

    Args:
        memory: bytes that the process may ask for.
        seconds: of a processor, for the whole process.
    """
    if sys.platform == "win32":
        return False
    import resource
    import signal

    wanted = {"RLIMIT_CPU": seconds, "RLIMIT_FSIZE": LARGEST_FILE, "RLIMIT_CORE": 0}
    if sys.platform == "linux":  # elsewhere it does not count what is mapped
        wanted["RLIMIT_DATA"] = memory
    for name, value in wanted.items():
        kind = getattr(resource, name)
        most = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value, value) if most == resource.RLIM_INFINITY or most >= value else (most, most))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file that is too large becomes an error, and no crash
    return True


PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"}
PROGRAMS |= {"os.startfile", "os.startfile/2", "pty.spawn", "os.kill", "os.killpg"}
NETWORK = {"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
NETWORK |= {"socket.sendmsg", "socket.gethostbyaddr"}
CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink"}
CHANGES |= {"os.truncate", "os.utime", "shutil.rmtree", "shutil.move", "os.setxattr", "os.removexattr", "os.chflags"}
LOOKS = {"os.listdir", "os.scandir", "os.chdir"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC


def refuse_in_python(writable: Path, readable: Sequence[Path], words: dict[str, str]) -> None:
    """Refuse network, programs and other folders by Python's audit hook. It stays until the process ends.

    Args:
        writable: the only folder to write to.
        readable: folders to read from.
        words: sentences: "network", "programs", and "outside" with `{what}`.
    """
    own, read = str(writable.resolve()), [str(p) for p in [writable.resolve(), *readable]]
    single = {os.path.realpath(p) for p in [*SYSTEM_FILES, *DEVICES]} | {"nul", os.devnull}
    real, separator = os.path.realpath, os.sep

    def inside(path: Any, folders: Sequence[str]) -> bool:
        if isinstance(path, int) or path is None:  # an open file, or the present folder
            return True
        try:
            text = real(os.fsdecode(path))
        except (TypeError, ValueError, OSError):
            return False
        return text in single or any(text == f or text.startswith(f.rstrip(separator) + separator) for f in folders)

    def must(good: bool, path: Any) -> None:
        if not good:
            raise PermissionError(words["outside"].format(what=os.fsdecode(path) if path else path))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = (*arguments, None, None, None)[:3]
            writes = bool(flags & WRITING) if isinstance(flags, int) else any(c in str(mode) for c in "wax+")
            must(inside(path, [own] if writes else read), path)
        elif event in LOOKS:
            must(inside(arguments[0], read), arguments[0])
        elif event in CHANGES:
            for path in (
                arguments[:2] if event in ("os.rename", "os.link", "os.symlink", "shutil.move") else arguments[:1]
            ):
                must(inside(path, [own]), path)
        elif event in NETWORK:
            raise PermissionError(words["network"])
        elif event in PROGRAMS:
            raise PermissionError(words["programs"])

    guard: Callable[[str, tuple[Any, ...]], None] = hook
    sys.addaudithook(guard)
