"""Run in the unit's place: tries what the unit must not allow, and what it must. Says each by its name; ends with 1 where one goes wrong."""

import ctypes
import mmap
import os
import socket
import stat
import sys

wrong = []


def check(name, right):
    print("held   " if right else "NOT SO ", name, flush=True)
    if not right:
        wrong.append(name)


def refused(act):
    try:
        act()
    except (OSError, SystemError):
        return True
    return False


def write(path):
    with open(path, "w") as file:
        file.write("x")


def forbidden(name, *arguments):
    """A call of the kernel that is refused, or ends the caller."""
    child = os.fork()
    if child == 0:
        os._exit(0 if getattr(ctypes.CDLL(None), name)(*arguments) == 0 else 1)
    return os.waitpid(child, 0)[1] != 0


status = dict(line.rstrip().split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
check("a user that is not root", os.getuid() != 0 and 61184 <= os.getuid() <= 65519)
check("no capability", int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0)
check("no new privileges, and a filter of system calls", status["NoNewPrivs"] == "1" and status["Seccomp"] == "2")
check("other processes are not seen", all(os.stat(f"/proc/{pid}").st_uid == os.getuid() for pid in os.listdir("/proc") if pid.isdigit()))
check("homes are not seen", refused(lambda: os.listdir("/home")) or os.listdir("/home") == [])
check("root's home is not seen", refused(lambda: os.listdir("/root")) or os.listdir("/root") == [])
for folder in ["/etc", "/usr/local/bin", "/opt", "/var", "/var/lib", "/etc/r3mes-edge", "/sys", "/home", "/run"]:
    check(f"nothing is written to {folder}", refused(lambda: write(f"{folder}/probe")))
check("the program is not written over", refused(lambda: open("/usr/local/bin/r3mes-edge", "r+")))
check("its state is written", not refused(lambda: write("/var/lib/r3mes-edge/probe")))
check("and is for itself only", stat.S_IMODE(os.stat("/var/lib/r3mes-edge/probe").st_mode) == 0o600)
os.remove("/var/lib/r3mes-edge/probe")
check("its sockets' folder is written", not refused(lambda: write("/run/r3mes-edge/probe")))
os.remove("/run/r3mes-edge/probe")
check("/tmp is its own", not os.path.exists("/tmp/of-the-machine"))
check("no device but the harmless ones", not set(os.listdir("/dev")) & {"kvm", "vda", "sda", "mem", "kmsg"})
check("no network but IP and Unix", all(refused(lambda f=f: socket.socket(f, socket.SOCK_RAW)) for f in (socket.AF_NETLINK, socket.AF_PACKET)))
check("IP", not refused(lambda: socket.socket(socket.AF_INET6)))
check("no namespaces", forbidden("unshare", 0x10000000))
check("nothing is mounted", forbidden("mount", b"none", b"/tmp", b"tmpfs", 0, None))
check("no memory to write and run", refused(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)))
os.umask(0)
write("/tmp/x")
check("no set-user-id", refused(lambda: os.chmod("/tmp/x", 0o4755)))
check("no foreign process is ended", refused(lambda: os.kill(1, 0)))
sys.exit(1 if wrong else 0)
