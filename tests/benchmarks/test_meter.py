"""Processor time and memory, as the kernel tells them."""

import os
import subprocess
import sys
import time

from benchmarks.meter import Machine, Meter, Tree, processor_times

BUSY = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\n"
PARENT = (
    "import subprocess, sys, time\n"
    f"subprocess.run([sys.executable, '-c', {BUSY.format(seconds=0.3)!r}])\n"
    "print('done', flush=True)\ntime.sleep(60)\n"
)


def test_time_of_children_that_ended_counts() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as process:
        with Meter(process.pid) as meter:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
            spent = meter.spent()
        process.kill()
    assert spent >= 0.29
    assert meter.tree.memory > 1
    assert meter.tree.of_root().peak > 1


def test_only_what_is_spent_inside_counts() -> None:
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    with Meter(os.getpid()) as meter:
        pass
    assert meter.spent() < 0.2


def test_processes_that_are_gone_keep_what_they_had() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY.format(seconds=5)]) as process:
        tree = Tree((process.pid,))
        while tree.of_root().cpu < 0.1:
            tree.look()
        process.kill()
    tree.look()
    assert tree.of_root().cpu >= 0.1
    assert tree.living == []


def test_the_machines_own_account_is_read() -> None:
    assert processor_times("cpu 1 2 3 4 5 6 7 8 9 10") == (36, 9, 8)
    with Machine() as machine:
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass
    assert 0 <= machine.steal <= 1
    assert 0 < machine.busy <= 1
    assert machine.seconds >= 0.1
