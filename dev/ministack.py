#!/usr/bin/env python3
"""A throw-away server (ministack) whose S3 tells its SQS of new objects, for tests.

  dev/ministack.py run -- COMMAND...    a fresh server for one command

COMMAND finds its address in GRAVITY_TEST_MINISTACK; `run` hands back its exit
code. Any credentials do. `dev/tools.sh ministack` installs the server.
"""

import argparse
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seaweedfs import (
    HOST, Failed, Stopped, die_with_parent, free_ports, on_stop_signals, raise_stopped,
)  # fmt: skip

MINISTACK = Path(__file__).resolve().parent.parent / ".tools" / "ministack" / "bin" / "ministack"
READY_SECONDS = 60


def launch(folder):
    """Starts a server that keeps what it writes in `folder`; returns (process, port)."""
    if not MINISTACK.exists():
        raise Failed("ministack is not installed: run dev/tools.sh ministack")
    (port,) = free_ports(1)
    # Nothing of the caller's AWS or ministack settings; a proxy must not see this.
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    env |= {"BIND_HOST": HOST, "GATEWAY_PORT": str(port), "MINISTACK_HOST": HOST,
            "TMPDIR": str(folder), "NO_PROXY": "*"}  # fmt: skip
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [MINISTACK],
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for COMMAND; we end the server after it
            preexec_fn=die_with_parent,
        )
    return process, port


def wait_ready(process, port, folder):
    """Returns once S3 answers."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            log = (folder / "log").read_text(errors="replace").splitlines()
            raise Failed("ministack did not start; its last lines:\n" + "\n".join(log[-20:]))
        connection = http.client.HTTPConnection(HOST, port, timeout=10)
        try:
            connection.request("GET", "/", headers={"Host": f"{HOST}:{port}"})
            if connection.getresponse().status < 500:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)


def kill(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run(argv):
    folder = Path(tempfile.mkdtemp(prefix="gravity-sqs-"))
    server = command = None
    on_stop_signals(raise_stopped)
    try:
        server, port = launch(folder)
        wait_ready(server, port, folder)
        env = {**os.environ, "GRAVITY_TEST_MINISTACK": f"http://{HOST}:{port}", "NO_PROXY": HOST}
        command = subprocess.Popen(argv, env=env)
        code = command.wait()
        return code if code >= 0 else 128 - code
    except Stopped as stopped:
        (signum,) = stopped.args
        if command:
            # The terminal has sent Ctrl-C to COMMAND too; a SIGTERM came to us alone.
            if signum != signal.SIGINT:
                command.terminate()
            try:
                command.wait(15)
            except (subprocess.TimeoutExpired, Stopped):
                command.kill()
        return 128 + signum
    except FileNotFoundError as error:
        raise Failed(f"{error.filename}: not found") from None
    finally:
        on_stop_signals(signal.SIG_IGN)
        if server:
            kill(server)
        shutil.rmtree(folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["run"])
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    args = parser.parse_args()
    argv = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not argv:
        parser.error("run: no command after --")
    try:
        return run(argv)
    except Failed as failed:
        print(f"ministack: {failed}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
