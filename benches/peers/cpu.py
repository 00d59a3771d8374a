"""CPU time of a set of processes, user and system: the figure the comparison is judged by.

Place: `processes.py` puts every server, front and load generator into a `Group` of its own before
its first instruction; `measure.py` reads the groups before and after the load. Three methods, best
first:

* `cgroup2`: `cpu.stat` of a control group; total by the scheduler's clock, the split by the
  kernel's ticks, scaled to the total. Nothing escapes: exited threads and processes stay counted.
* `cgroup1`: `cpuacct.usage` and `cpuacct.stat` of a control group: the same, the split in 10 ms
  units.
* `proc`: the sum of `/proc/PID/task/*/schedstat` over the process tree and of the user and system
  time of children it has reaped. Threads that exited are missed.

Invariant: one run uses one method for everything, and the report names it.
"""

import os
from typing import NamedTuple

import processes

TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


class CpuTimes(NamedTuple):
    """Microseconds of CPU time since the group began."""

    total: float
    user: float
    system: float

    def since(self, earlier):
        return CpuTimes(*(now - then for now, then in zip(self, earlier, strict=True)))


def _read(path):
    with open(path, encoding="ascii") as file:
        return file.read()


def _split(total, user, system):
    """The total divided in the proportion of two coarser clocks."""
    both = user + system
    share = user / both if both else 0.0
    return CpuTimes(total, total * share, total * (1 - share))


class _CgroupGroup:
    """A control group below the harness's own, removed by `close` when its processes are gone."""

    def __init__(self, parent, name):
        self.path = os.path.join(parent, f"ringhorn-bench-{os.getpid()}-{name}")
        os.mkdir(self.path)
        self._procs = os.path.join(self.path, "cgroup.procs")

    def enter(self):
        """Puts the calling process in; runs between fork and exec."""
        with open(self._procs, "w", encoding="ascii") as file:
            file.write("0")

    def watch(self, pid):
        """Nothing to do: the kernel follows the group."""

    def pids(self):
        return [int(line) for line in _read(self._procs).split()]

    def close(self):
        os.rmdir(self.path)


class Cgroup2Group(_CgroupGroup):
    def read(self):
        stat = dict(
            line.split() for line in _read(os.path.join(self.path, "cpu.stat")).splitlines()
        )
        return CpuTimes(*(float(stat[key]) for key in ("usage_usec", "user_usec", "system_usec")))


class Cgroup1Group(_CgroupGroup):
    def read(self):
        total = int(_read(os.path.join(self.path, "cpuacct.usage"))) / 1000
        stat = dict(
            line.split() for line in _read(os.path.join(self.path, "cpuacct.stat")).splitlines()
        )
        return _split(total, int(stat["user"]), int(stat["system"]))


class ProcGroup:
    """The processes watched and all their descendants, added up from /proc."""

    def __init__(self, name):
        self.name = name
        self._roots = []

    def enter(self):
        """Nothing to do before exec."""

    def watch(self, pid):
        self._roots.append(pid)

    def pids(self):
        return [pid for root in self._roots for pid in processes.tree(root)]

    def read(self):
        total = user = system = 0
        for pid in self.pids():
            try:
                fields = _read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()
                tasks = [
                    _read(f"/proc/{pid}/task/{task}/schedstat")
                    for task in os.listdir(f"/proc/{pid}/task")
                ]
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended between listing and reading
            # Fields 14 to 17 of stat(5): utime, stime, and the same of reaped children.
            own_user, own_system, reaped_user, reaped_system = (
                int(field) for field in fields[11:15]
            )
            total += sum(int(task.split()[0]) for task in tasks) / 1000
            total += (reaped_user + reaped_system) * TICK_US
            user += own_user + reaped_user
            system += own_system + reaped_system
        return _split(total, user, system)

    def close(self):
        """Nothing was made."""


class Accounting:
    """One of the three methods, with what is needed to make groups of it."""

    DESCRIPTIONS = {
        "cgroup2": "cgroup v2 cpu.stat: total by the scheduler's clock; "
        "user/system split by kernel ticks, scaled to it",
        "cgroup1": "cgroup v1 cpuacct.usage: total by the scheduler's clock; "
        "user/system split by cpuacct.stat",
        "proc": "sum of /proc/PID/task/*/schedstat + times of reaped children; "
        "user/system split by /proc/PID/stat",
    }

    def __init__(self, choice="auto"):
        self.parent = None
        for method in self.DESCRIPTIONS if choice == "auto" else [choice]:
            if method == "proc" or self._try_cgroup(method):
                self.method = method
                break
        else:
            raise SystemExit(f"--cpu {choice}: no control group can be made here")
        self.description = self.DESCRIPTIONS[self.method]

    def group(self, name):
        if self.method == "proc":
            return ProcGroup(name)
        kind = Cgroup2Group if self.method == "cgroup2" else Cgroup1Group
        return kind(self.parent, name)

    def _try_cgroup(self, method):
        """Whether a child process can be moved to a new group; remembers where to make them."""
        for parent in _cgroup_parents(method):
            kind = Cgroup2Group if method == "cgroup2" else Cgroup1Group
            try:
                group = kind(parent, "probe")
            except OSError:
                continue
            try:
                probe = processes.Process("probe", ["/bin/true"], core=None, group=group)
                probe.wait_exit(5)
                probe.stop()
                usable = group.read().total > 0
            except (OSError, ValueError, KeyError, processes.DidNotStart):
                usable = False
            group.close()
            if usable:
                self.parent = parent
                return True
        return False


def _cgroup_parents(method):
    """Folders in which a group may be made: our own group's, then the top of the mount."""
    kind, controller = ("cgroup2", None) if method == "cgroup2" else ("cgroup", "cpuacct")
    own = "/"
    for line in _read("/proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if (kind == "cgroup2" and number == "0") or (
            controller and controller in controllers.split(",")
        ):
            own = path
    for line in _read("/proc/self/mounts").splitlines():
        _, mount, found_kind, options, *_ = line.split()
        if found_kind == kind and (controller is None or controller in options.split(",")):
            yield os.path.normpath(mount + "/" + own)
            if own != "/":
                yield mount


def core_busy_us(core):
    """Microseconds the core was busy for anyone since boot, in steps of 10 ms."""
    for line in _read("/proc/stat").splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, line.split()[1:])
            return (user + nice + system + irq + softirq + steal) * TICK_US
    raise ValueError(f"/proc/stat knows no core {core}")
