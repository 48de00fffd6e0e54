"""The machine that a bench runs on: what it is, how busy others keep it, and what a program takes of it."""

import os
import pathlib
import platform
import subprocess
import sys
import time

# Processors that others may keep busy, before a run and during it; above that its times say nothing.
QUIET = 0.5
TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> dict:
    """Processor, cores, memory, kernel."""
    info = pathlib.Path("/proc/cpuinfo").read_text()
    lines = dict(line.partition(":")[::2] for line in info.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    flags = fields.get("flags", "").split()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": fields.get("model name", platform.machine()), "cores": len(os.sched_getaffinity(0)),
            "bf16": any(flag in flags for flag in ("avx512_bf16", "amx_bf16")), "memory_gb": round(memory / 1e9, 1),
            "kernel": platform.release()}


def _busy_seconds() -> float:
    """Processor time spent by everyone since the start, and that which a hypervisor gave to other machines."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def busy(seconds: float) -> float:
    """Processors that others keep busy, while this program sleeps."""
    before, started = _busy_seconds(), time.monotonic()
    time.sleep(seconds)
    return (_busy_seconds() - before) / (time.monotonic() - started)


def wait_until_quiet(patience: float) -> float:
    """Waits at most so long for others to be quiet; how busy they are then, told where it is too much."""
    deadline = time.monotonic() + patience
    load = busy(3)
    while load > QUIET and time.monotonic() < deadline:
        load = busy(5)
    if load > QUIET:
        warn(f"the machine is busy: others keep {load:.1f} processors at work. The times of this run are not valid.")
    return load


def warn(text: str) -> None:
    """A line that stands out."""
    print(f"bench: WARNING: {text}", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """A line of progress."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


class Failed(Exception):
    """A program ended badly; the message holds the last lines that it printed."""


def run(command: list, log: pathlib.Path, **environment) -> dict:
    """Runs a program to its end, its output into `log`: `started`, `wall_s`, `peak_mb`, `others_load`.

    `peak_mb` is the most memory that it had at one time. `others_load`: processors that others kept busy meanwhile.
    """
    busy_before = _busy_seconds()
    started, clock = time.time(), time.monotonic()
    with open(log, "wb") as file:
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=file,
                                   stderr=subprocess.STDOUT, env={**os.environ, **environment})
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - clock
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"{command[0]} ended with {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}")
    others = (_busy_seconds() - busy_before - usage.ru_utime - usage.ru_stime) / wall
    return {"started": started, "wall_s": round(wall, 2), "peak_mb": usage.ru_maxrss // 1024,
            "others_load": round(max(others, 0.0), 2)}
