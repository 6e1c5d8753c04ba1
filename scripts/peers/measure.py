"""How both sides are timed: one warm-up, then repeats with wall time, CPU time of all threads, and what other
processes took meanwhile. Needs nothing but Python."""

import json
import os
import resource
import statistics
import time

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds():
    """CPU time of this process so far, all threads together."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_memory():
    """The most memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def busy_seconds():
    """CPU time that all processes of the machine took so far."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _iowait, *rest = map(int, file.readline().split()[1:9])
    return (user + nice + system + sum(rest[:3])) / TICKS


def measure(run, repeats):
    """Calls `run` once, then `repeats` times; medians of the latter."""
    run()
    walls, cpus, others = [], [], []
    for _ in range(repeats):
        busy, cpu, start = busy_seconds(), cpu_seconds(), time.perf_counter()
        run()
        wall, own = time.perf_counter() - start, cpu_seconds() - cpu
        walls.append(wall)
        cpus.append(own)
        others.append(max(0.0, busy_seconds() - busy - own) / wall)
    return summary(walls, cpus, others) | {"peak_memory": peak_memory()}


def summary(walls, cpus, others):
    """Medians and the range of wall times; `others_cores` is what other processes kept busy."""
    return {
        "seconds": statistics.median(walls),
        "fastest": min(walls),
        "slowest": max(walls),
        "cpu_seconds": statistics.median(cpus),
        "samples": len(walls),
        "others_cores": round(statistics.median(others), 2),
    }


def report(**row):
    """One row, as a line on stdout for whoever started this process."""
    print(json.dumps(row), flush=True)
