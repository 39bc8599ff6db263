"""Kernels forked from one process that has already imported what notebooks import.

A kernel in a fresh process spends most of its time on imports. A forked one is a real kernel, too: only its start
differs.
This file is both sides: imported, it asks for kernels; run as a program, it forks one for each line it reads.
"""

import atexit
import gc
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from threading import Lock
from typing import Any

IMPORTED = [
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "ipykernel.zmqshell",
    "ipykernel.debugger",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "cryptography.x509",
    "cryptography.hazmat.primitives.asymmetric.ec",
    "cryptography.hazmat.primitives.asymmetric.rsa",
    "cbor2",
    "httpx",
    "paho.mqtt.client",
    "sqlalchemy.dialects.sqlite",
    "starlette.applications",
    "uvicorn",
    "rich.console",
]


def serve(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Be a kernel until it is told to stop; runs in a process of its own."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = ""  # as `python -m` has it
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance(argv=[*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])


def fork_for_each_line() -> None:
    """The program: a request on each line of the input, the number of a process on each line of the output."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # no child looks through all this for garbage
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    for line in sys.stdin:
        number = os.fork()
        if number == 0:
            try:
                serve(**json.loads(line))
                atexit._run_exitfuncs()  # what a lesson leaves to the end of its program
            finally:
                os._exit(0)
        print(number, flush=True)


class Kernel:
    """A forked kernel, as `subprocess.Popen` would show it."""

    stdin = stdout = stderr = None

    def __init__(self, number: int) -> None:
        self.pid = number

    def poll(self) -> int | None:
        """None while it runs; how it ended is not known."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    wait = poll

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def use() -> None:
    """From now on, the kernels of this process are forked."""
    from jupyter_client.provisioning.local_provisioner import LocalProvisioner

    command = [sys.executable, "-Xfrozen_modules=off", __file__]  # as Jupyter has it
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    turn = Lock()

    async def launch(self: Any, cmd: list[str], **given: Any) -> Any:
        """Instead of starting `python -m ipykernel_launcher ARGUMENTS`."""
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        environment = dict(given.get("env") or os.environ)
        folder = self.cwd = str(given.get("cwd") or pathlib.Path.cwd())
        with turn:
            assert program.stdin and program.stdout
            print(
                json.dumps({"arguments": arguments, "environment": environment, "folder": folder}),
                file=program.stdin,
                flush=True,
            )
            self.process = Kernel(int(program.stdout.readline()))
        self.pid = self.pgid = self.process.pid
        return self.connection_info

    setattr(LocalProvisioner, "launch_kernel", launch)  # noqa: B010


if __name__ == "__main__":
    fork_for_each_line()
