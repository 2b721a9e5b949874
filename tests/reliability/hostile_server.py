"""Runs commands of vitdet in forked processes, each with limits, and with a record of what it does.

A line of JSON on standard input, `{"argv", "folder", "seconds", "bytes"}`, is answered by one on standard output,
`{"code", "seconds", "cpu", "grown", "did"}`: the exit status (negative: the signal that ended it), its time, how much
more memory it needed than was there before, and which of the forbidden things it did. What it prints goes to `printed`
in the folder. Everything heavy is imported once, before the first fork.
"""

import contextlib
import io
import json
import os
import resource
import signal
import sys
import time

MODULES = ("evil_canary", "antigravity", "this", "turtledemo", "idlelib", "xmlrpc", "http.server", "cgitb", "pip")
FORBIDDEN = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.startfile",
    "socket.connect",
    "pty.spawn",
)


def watch(number: int) -> None:
    """Writes what is forbidden to a file, by its number, as soon as it is tried."""

    def hook(event: str, args: tuple) -> None:
        if event in FORBIDDEN or (event == "import" and str(args[0]).startswith(MODULES)):
            os.write(number, f"{event} {args[:2]}\n".encode())

    sys.addaudithook(hook)


def child(order: dict) -> int:
    os.chdir(order["folder"])
    printed = os.open("printed", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0), write_through=True)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", 0), write_through=True, errors="backslashreplace")
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + order["bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (order["seconds"],) * 2)
    watch(os.open("did", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
    from vitdet.cli import main

    try:
        main(order["argv"])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


def run(order: dict) -> dict:
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    number = os.fork()
    if number == 0:
        code = 70
        try:
            code = child(order)
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os._exit(code)
    killed = False
    while True:
        found, status, usage = os.wait4(number, os.WNOHANG)
        if found:
            break
        # other programs may need the processor: its time is what counts, and this is for what waits
        if time.monotonic() - begun > 4 * order["seconds"] and not killed:
            os.kill(number, signal.SIGKILL)
            killed = True
        time.sleep(0.01)
    spent = time.monotonic() - begun
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    did = os.path.join(order["folder"], "did")
    said = open(did).read().splitlines() if os.path.exists(did) else []  # noqa: SIM115
    used = round(usage.ru_utime + usage.ru_stime, 2)
    return {
        "code": code,
        "seconds": round(spent, 2),
        "cpu": used,
        "grown": (usage.ru_maxrss - before) * 1024,
        "did": said,
    }


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    import vitdet.command.data_check
    import vitdet.command.export
    import vitdet.command.predict
    import vitdet.command.report
    import vitdet.command.run
    import vitdet.deploy
    import vitdet.explain
    import vitdet.metrics
    import vitdet.report

    assert vitdet.Backbone and vitdet.deploy.predict_files and vitdet.metrics.evaluate
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
