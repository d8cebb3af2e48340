"""What a hostile step tries from inside a sandbox.

Each probe is Python code for the inside that gets through to its end only if what it tries worked;
an ``OSError``, or an ``insist`` on something untrue, is a refusal, and anything else a mistake in the
probe. ``given`` holds what the host tells it, and ``call(name, ...)`` is a raw system
call. A probe's second part is the errno that the refusal must carry, where only one wall should stop it.
"""

from __future__ import annotations

import textwrap
from typing import NamedTuple

WORKED, REFUSED = 0, 3

_FRAME = """
import ctypes, errno, glob, json, os, resource, socket, stat, struct, sys, time
given = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
buffer = ctypes.create_string_buffer

class Refused(Exception):
    pass

def call(name, *arguments):
    number = given["calls"][name] if isinstance(name, str) else name
    # An int would be passed in 32 bits.
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in (number, *arguments)]
    answer = libc.syscall(*wide)
    if answer == -1:
        code = ctypes.get_errno()
        raise OSError(code, errno.errorcode.get(code, str(code)))
    return answer

def insist(worked):
    if not worked:
        raise Refused

def attempt():
{body}

try:
    attempt()
except OSError as error:
    print(errno.errorcode.get(error.errno, type(error).__name__), error)
    sys.exit(3)
except Refused:
    print("REFUSED")
    sys.exit(3)
"""


class Probe(NamedTuple):
    """One attempt; ``errno`` names the only right refusal, "" allows any."""

    body: str
    errno: str = ""

    @property
    def code(self) -> str:
        """The whole program."""
        return _FRAME.format(body=textwrap.indent(textwrap.dedent(self.body).strip(), "    "))


def _writing(path: str) -> Probe:
    return Probe(f"open(os.path.join({path}, 'planted'), 'w').close()")


def _socket(family: int, kind: str = "socket.SOCK_RAW") -> Probe:
    return Probe(f"socket.socket({family}, {kind}, 0)", "EAFNOSUPPORT")


def _limit(name: str) -> Probe:
    # Python says ValueError where the kernel says EPERM.
    return Probe(
        f"""
        try:
            resource.setrlimit(resource.RLIMIT_{name}, (1 << 20, 1 << 20))
        except ValueError:
            raise Refused
        """
    )


FILES = {
    "the host's /tmp": Probe("open(given['secret']).read()"),
    "the home directory": Probe("insist(any(os.path.lexists(each) for each in given['home']))"),
    "password hashes": Probe("open('/etc/shadow').read()"),
    "the host's accounts": Probe("insist('daemon' in open('/etc/passwd').read())"),
    "private keys of the host": Probe("insist(os.listdir('/etc/ssl/private') or os.listdir('/etc/ssh'))"),
    "sockets of services": Probe(
        "insist(any(map(os.path.lexists, ('/run', '/var/run', '/var/run/docker.sock', '/run/docker.sock'))))"
    ),
    "state of the backend": Probe("os.stat(given['state'])"),
    "the kernel's own file system": Probe("os.listdir('/sys')"),
    "a process outside through /proc": Probe("os.stat('/proc/%d/root' % given['pid'])"),
    "the bwrap inside through /proc": Probe("insist(os.listdir('/proc/1'))"),
    "memory of the bwrap inside": Probe("open('/proc/1/mem', 'r+b').close()"),
    "descriptors of the bwrap inside": Probe("insist(os.listdir('/proc/1/fd'))"),
    "environment of the launcher": Probe(
        """
        found = []
        for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/task/*/environ"):
            try:
                found.append(open(path).read())
            except OSError:
                pass
        assert any("TMPDIR=" in text for text in found)
        insist(any(given["canary"] in text for text in found))
        """
    ),
    "command lines outside": Probe(
        """
        lines = []
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                lines.append(open(path).read())
            except OSError:
                pass
        assert lines
        # Turned around, or it would be found on this command line.
        insist(any(given["mark"][::-1] in line for line in lines))
        """
    ),
    "inherited descriptors": Probe(
        """
        inodes = []
        for number in range(3, 300):
            try:
                inodes.append(os.fstat(number).st_ino)
            except OSError:
                pass
        insist(inodes)
        """
    ),
    "a terminal": Probe("os.open('/dev/tty', os.O_RDWR)"),
    "a disk": Probe("insist(any(stat.S_ISBLK(os.lstat(each).st_mode) for each in glob.glob('/dev/*')))"),
    "memory of the machine": Probe("os.open('/dev/mem', os.O_RDONLY)"),
    "the kernel's memory": Probe("insist(open('/proc/kcore', 'rb').read(4))"),
    "the kernel's log": Probe("os.open('/dev/kmsg', os.O_RDONLY)"),
    "the kernel's symbols": Probe("insist(open('/proc/kallsyms').read(1))"),
    "keys of the user": Probe("insist(open('/proc/keys').read() + open('/proc/key-users').read())"),
}
WRITES = {
    "the root directory": _writing("'/'"),
    "/usr": _writing("'/usr/bin'"),
    "/etc": _writing("'/etc'"),
    "/dev": _writing("'/dev'"),
    "the Python environment": _writing("given['prefix']"),
    "installed packages": _writing("given['packages']"),
    "the launcher's own code": _writing("given['source']"),
    "an installed file": Probe("open(given['module'], 'a').close()"),
    "permissions of installed files": Probe("os.chmod(given['module'], 0o777)"),
    "core_pattern": Probe("open('/proc/sys/kernel/core_pattern', 'w').close()"),
    "any setting of the kernel": Probe(
        """
        for place, _, names in os.walk("/proc/sys"):
            for name in names:
                try:
                    os.close(os.open(os.path.join(place, name), os.O_WRONLY))
                except OSError:
                    continue
                return
        raise Refused
        """
    ),
    "sysrq": Probe("open('/proc/sysrq-trigger', 'w').close()"),
    "cgroups": Probe("os.mkdir('/sys/fs/cgroup/planted')"),
    "a device node": Probe("os.mknod('/tmp/disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0))", "EPERM"),
    "a map of user ids": Probe("os.write(os.open('/proc/self/uid_map', os.O_WRONLY), b'0 0 1')"),
}

NETWORK = {
    "the host's loopback": Probe("socket.create_connection(('127.0.0.1', given['port']), 2)"),
    "an abstract socket": Probe(
        "socket.socket(socket.AF_UNIX).connect(chr(0) + given['abstract'])", "ECONNREFUSED"
    ),
    "a socket by its path": Probe("socket.socket(socket.AF_UNIX).connect(given['socket'])"),
    "cloud metadata": Probe("socket.create_connection(('169.254.169.254', 80), 2)", "ENETUNREACH"),
    "the internet": Probe("socket.create_connection(('192.0.2.1', 443), 2)", "ENETUNREACH"),
    "the internet by IPv6": Probe("socket.create_connection(('2001:db8::1', 443), 2)"),
    "a name server": Probe("socket.getaddrinfo('example.org', 443)"),
    "datagrams to a name server": Probe(
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))", "ENETUNREACH"
    ),
    "interfaces": Probe(
        "insist({name for _, name in socket.if_nameindex()} - {'lo', 'sit0', 'tunl0', 'ip6tnl0'})"
    ),
    "raw packets": Probe("socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)", "EPERM"),
    "AF_PACKET": _socket(17),
    "AF_VSOCK": _socket(40, "socket.SOCK_STREAM"),
    "AF_ALG": _socket(38, "socket.SOCK_SEQPACKET"),
    "AF_KEY": _socket(15),
    "AF_BLUETOOTH": _socket(31),
    "AF_CAN": _socket(29),
    "AF_TIPC": _socket(30, "socket.SOCK_DGRAM"),
    "AF_VSOCK with high bits": Probe("call('socket', (1 << 32) | 40, 1, 0)", "EAFNOSUPPORT"),
}

_KERNEL_CALLS = {
    "accounting": "call('acct', 0)",
    "a key ring": "call('keyctl', 0, -3, 0)",
    "adding a key": "call('add_key', b'user', b'planted', b'x', 1, -3)",
    "asking for a key": "call('request_key', b'user', b'planted', None, -3)",
    "bpf": "call('bpf', 0, buffer(128), 128)",
    "io_uring": "call('io_uring_setup', 1, buffer(256))",
    "userfaultfd": "call('userfaultfd', 1)",
    "secret memory": "call('memfd_secret', 0)",
    "performance counters": "call('perf_event_open', buffer(struct.pack('II', 1, 64), 64), 0, -1, -1, 0)",
    "fanotify": "call('fanotify_init', 0x200, 0)",
    "handles of files": (
        "call('name_to_handle_at', -100, b'/usr', buffer(struct.pack('I', 128), 256), buffer(4), 0)"
    ),
    "opening by handle": "call('open_by_handle_at', 0, buffer(struct.pack('Ii', 8, 1), 64), 0)",
    "tracing": "call('ptrace', 0, 0, 0, 0)",
    "reading another's memory": "call('process_vm_readv', os.getpid(), None, 0, None, 0, 0)",
    "writing another's memory": "call('process_vm_writev', os.getpid(), None, 0, None, 0, 0)",
    "comparing processes": "call('kcmp', os.getpid(), os.getpid(), 2, 0, 0)",
    "another's descriptors": "call('pidfd_getfd', os.pidfd_open(os.getpid()), 0, 0)",
    "a user namespace": "call('unshare', 0x10000000)",
    "a mount namespace": "call('unshare', 0x00020000)",
    "a time namespace": "call('unshare', 0x00000080)",
    "a child in a user namespace": "call('clone', 0x10000000 | 17, 0, 0, 0, 0) or os._exit(0)",
    "a child in a network namespace": "call('clone', 0x40000000 | 17, 0, 0, 0, 0) or os._exit(0)",
    "entering a namespace": "call('setns', os.open('/proc/self/ns/uts', os.O_RDONLY), 0)",
    "mounting": "call('mount', b'none', b'/tmp', b'tmpfs', 0, None)",
    "remounting": "call('mount', None, b'/usr', None, 0x1020, None)",
    "mounting by descriptor": "call('fsopen', b'tmpfs', 0)",
    "copying mounts": "call('open_tree', -100, b'/usr', 1)",
    "changing mounts": "call('mount_setattr', -100, b'/usr', 0, buffer(32), 32)",
    "moving mounts": "call('move_mount', -100, b'/usr', -100, b'/tmp', 0)",
    "unmounting": "call('umount2', b'/proc/sys', 2)",
    "chroot": "call('chroot', b'/tmp')",
    "pivot_root": "call('pivot_root', b'/tmp', b'/tmp')",
    "loading a module": "call('init_module', None, 0, b'')",
    "loading a module from a file": "call('finit_module', 0, b'', 0)",
    "another kernel": "call('kexec_load', 0, 0, None, 0)",
    "rebooting": "call('reboot', 0xfee1dead, 672274793, 0, None)",
    "swapping off": "call('swapoff', b'/none')",
    "quotas": "call('quotactl', 0x80000700, None, 0, None)",
    "setting the clock": "call('clock_settime', 0, buffer(struct.pack('qq', int(time.time()), 0)))",
    "setting the time of day": "call('settimeofday', buffer(struct.pack('qq', int(time.time()), 0)), None)",
    "trimming the clock": "call('adjtimex', buffer(256))",
    "the host's name": "call('sethostname', b'owned', 5)",
    "the log": "call('syslog', 3, buffer(64), 64)",
    "hanging up": "call('vhangup')",
    "addresses that are not random": "call('personality', 0x0040000)",
    "typing into a terminal": "call('ioctl', os.openpty()[1], 0x5412, b'x')",
    "typing with high bits set": "call('ioctl', os.openpty()[1], (1 << 32) | 0x5412, b'x')",
    "pasting into a console": "call('ioctl', os.openpty()[1], 0x541c, b'x')",
}
KERNEL = {
    **{name: Probe(body, "EPERM") for name, body in _KERNEL_CALLS.items()},
    "clone3, whose flags can't be seen": Probe("call('clone3', buffer(88), 88)", "ENOSYS"),
    "a call of tomorrow": Probe("call(900)", "ENOSYS"),
}
X86_ONLY = {
    "ports": Probe("call('iopl', 3)", "EPERM"),
    "calls of x32": Probe("call(0x40000000 | given['calls']['getpid'])", "EPERM"),
}

PRIVILEGES = {
    "being root": Probe("os.setuid(0)"),
    "being in root's group": Probe("os.setgid(0)"),
    "more groups": Probe("os.setgroups([0])", "EPERM"),
    "capabilities": Probe(
        """
        sets = [line.split() for line in open("/proc/self/status") if line.startswith("Cap")]
        assert len(sets) == 5
        insist(any(int(value, 16) for _, value in sets))
        """
    ),
    "new privileges by executing": Probe("insist(libc.prctl(39, 0, 0, 0, 0) != 1)"),
    "a mount that honours setuid": Probe(
        "insist([line for line in open('/proc/mounts') if 'nosuid' not in line.split()[3].split(',')])"
    ),
    "a setuid file of one's own": Probe(
        """
        open("/tmp/planted", "w").close()
        os.chmod("/tmp/planted", 0o4755)
        insist(not os.statvfs("/tmp/planted").f_flag & os.ST_NOSUID)
        """
    ),
    "groups of the launcher": Probe("insist(set(os.getgroups()) - {os.getgid(), 65534})"),
    "core dumps": _limit("CORE"),
    "more processes": _limit("NPROC"),
    "real time": Probe("os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))", "EPERM"),
    "precedence": Probe("os.setpriority(os.PRIO_PROCESS, 0, -10)"),
    "signalling a process outside": Probe("os.kill(given['pid'], 0)", "ESRCH"),
    "signalling every process outside": Probe(
        """
        reached = []
        for pid in range(2, 32768):
            if not os.path.exists("/proc/%d" % pid):
                try:
                    os.kill(pid, 0)
                    reached.append(pid)
                except ProcessLookupError:
                    pass
        insist(reached)
        """
    ),
    **{
        f"the {kind} namespace of the host": Probe(
            f"insist(os.readlink('/proc/self/ns/{kind}') == given['namespaces']['{kind}'])"
        )
        for kind in ("mnt", "pid", "net", "ipc", "uts", "cgroup")
    },
}

# What must go on working: the same frame, and the other answer.
CONTROLS = {
    "writing to /tmp": Probe("open('/tmp/x', 'w').close()"),
    "writing to /var/tmp": Probe("open('/var/tmp/x', 'w').close()"),
    "writing where it starts": Probe("open('x', 'w').close()"),
    "writing to HOME": Probe("open(os.environ['HOME'] + '/x', 'w').close()"),
    "writing to shared memory": Probe("open('/dev/shm/x', 'w').close()"),
    "reading /usr": Probe("insist(os.listdir('/usr/bin'))"),
    "a user with a name": Probe("import pwd; insist(pwd.getpwuid(os.getuid()).pw_name == 'sandbox')"),
    "a raw call": Probe("insist(call('getpid') == os.getpid())"),
    "threads": Probe(
        """
        import threading
        seen = []
        threads = [threading.Thread(target=seen.append, args=(n,)) for n in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        insist(sorted(seen) == list(range(8)))
        """
    ),
    "subprocesses": Probe("import subprocess; insist(subprocess.check_output(['echo', 'x']) == b'x\\n')"),
    "shells": Probe("insist(os.system('true') == 0)"),
    "pools of processes": Probe(
        """
        import multiprocessing
        with multiprocessing.Pool(2) as pool:
            insist(pool.map(abs, [-1, -2]) == [1, 2])
        """
    ),
    "shared memory between processes": Probe(
        """
        from multiprocessing import shared_memory
        block = shared_memory.SharedMemory(create=True, size=4096)
        block.close()
        block.unlink()
        """
    ),
    "pairs of sockets": Probe("a, b = socket.socketpair(); a.send(b'x'); insist(b.recv(1) == b'x')"),
    "a loopback of its own": Probe(
        """
        server = socket.create_server(("127.0.0.1", 0))
        socket.create_connection(server.getsockname(), 2)
        """
    ),
    "a list of interfaces": Probe("insist(socket.if_nameindex())"),
    "pseudo-terminals": Probe("os.openpty()"),
    "asking for the personality": Probe("call('personality', 0xffffffff)"),
    "certificates": Probe("import ssl; ssl.create_default_context()"),
    "time zones": Probe("insist(time.localtime())"),
    "memory that can be executed": Probe("import mmap; mmap.mmap(-1, 4096, prot=7)"),
    "anonymous files": Probe("os.memfd_create('x')"),
    "its own processes": Probe("insist(os.path.exists('/proc/self/stat'))"),
    "random numbers": Probe("insist(open('/dev/urandom', 'rb').read(8) != os.urandom(8))"),
}
