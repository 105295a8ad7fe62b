#!/usr/bin/env python3
"""A throw-away S3 server (SeaweedFS) for tests.

  dev/seaweedfs.py run [--bucket NAME] -- COMMAND...    a fresh server for one command
  eval "$(dev/seaweedfs.py start --dir D)"              one that stays, in a new folder D
  dev/seaweedfs.py stop --dir D                         ends it and removes D

`run` gives COMMAND the usual AWS_* variables and hands back its exit code;
`start` prints the same variables. With --bucket NAME the bucket exists, and
GRAVITY_TEST_BUCKET names it. `dev/tools.sh seaweedfs` installs the server.
"""

import argparse
import ctypes
import glob
import hashlib
import hmac
import http.client
import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

WEED = Path(__file__).resolve().parent.parent / ".tools" / "venv" / "bin" / "weed"
HOST = "127.0.0.1"
REGION = "us-east-1"
ACCESS_KEY = "gravity-test"
SECRET_KEY = "gravity-test-secret"
READY_SECONDS = 120
GRPC = 10000  # SeaweedFS puts each gRPC port this far above the HTTP port

# From the caller's shell these would win over what we set, or break its signatures.
UNWANTED = ["AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN"]


class Failed(Exception):
    """Told to the user as one line."""


def s3(port, method, path, body=b""):
    """Sends one request signed with SigV4; returns (status, body). A query must be sorted and encoded."""
    now = datetime.now(timezone.utc)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    headers = {
        "host": f"{HOST}:{port}",
        "x-amz-content-sha256": hashlib.sha256(body).hexdigest(),
        "x-amz-date": stamp,
    }
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    place, _, query = path.partition("?")
    request = "\n".join([method, place, query, lines, names, headers["x-amz-content-sha256"]])
    scope = f"{day}/{REGION}/s3/aws4_request"
    to_sign = "\n".join(
        ["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()]
    )
    key = b"AWS4" + SECRET_KEY.encode()
    for part in [*scope.split("/"), to_sign]:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, "
        f"SignedHeaders={names}, Signature={key.hex()}"
    )
    # http.client, not urllib: a proxy in the environment must not see this.
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_ports(count):
    """Ports that are free now, and whose gRPC ports are too.

    All lie below the range from which systems take ports for outgoing
    connections: the server starts in stages over seconds, and a connection of
    its own could else sit on a port that a later stage wants.
    """
    ports, held = [], []
    try:
        while len(ports) < count:
            port = random.randrange(12000, 22000)
            pair = [socket.socket(), socket.socket()]
            held += pair
            try:
                pair[0].bind((HOST, port))
                pair[1].bind((HOST, port + GRPC))
            except OSError:
                continue
            ports.append(port)
        return ports
    finally:
        for sock in held:
            sock.close()


def die_with_parent():
    """So that not even a SIGKILL of this script leaves a server behind (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def launch(folder, tied, port=None):
    """Starts a server in `folder`; returns (process, ports): S3's (`port`, or a free one), the master's, others."""
    if not WEED.exists():
        raise Failed("SeaweedFS is not installed: run dev/tools.sh seaweedfs")
    ports = free_ports(4)
    ports[0] = port or ports[0]
    s3_port, master, volume, filer = ports
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    command = [
        WEED, "-logtostderr", "server", f"-dir={folder}/data", f"-ip={HOST}", f"-ip.bind={HOST}",
        f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
        "-s3", f"-s3.port={s3_port}", f"-s3.config={folder}/s3.json",
        "-s3.port.iceberg=0", "-s3.port.lance=0",  # else fixed ports, and two runs collide
        "-s3.autoCreateBucket=false",  # S3 itself answers NoSuchBucket
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64", "-volume.max=0",  # many small volumes, as disk allows
    ]  # fmt: skip
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for COMMAND; we end the server after it
            preexec_fn=die_with_parent if tied else None,
        )
    return process, ports


def wait_ready(process, port, folder):
    """Returns once an object could be written and removed: an open port says little."""
    steps = [("PUT", "/ready-probe"), ("PUT", "/ready-probe/object"),
             ("DELETE", "/ready-probe/object"), ("DELETE", "/ready-probe")]  # fmt: skip
    deadline = time.monotonic() + READY_SECONDS
    while steps:
        if process.poll() is not None or time.monotonic() > deadline:
            log = (folder / "log").read_text(errors="replace").splitlines()
            raise Failed("SeaweedFS did not start; its last lines:\n" + "\n".join(log[-20:]))
        try:
            status, _ = s3(port, *steps[0])
        except (OSError, http.client.HTTPException):
            status = 0
        if status // 100 == 2:
            steps.pop(0)
        else:
            time.sleep(0.1)


def make_bucket(port, name):
    status, body = s3(port, "PUT", f"/{name}")
    if status not in (200, 409):  # 409: it is ours already
        raise Failed(f"bucket {name}: {status} {body.decode(errors='replace')}")


def kill(pid, ports):
    """SIGKILL, as SeaweedFS takes 25 s over a SIGTERM; then the sockets it left in /tmp."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    for port in ports:
        for number in (port, port + GRPC):
            for socket_file in glob.glob(f"/tmp/seaweedfs-*-{number}.sock"):
                os.unlink(socket_file)


def variables(port, bucket):
    env = {
        "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "S3_REGION": REGION,
        "GRAVITY_TEST_S3": "1",
        "NO_PROXY": HOST,
    }
    return {**env, "GRAVITY_TEST_BUCKET": bucket} if bucket else env


class Stopped(Exception):
    """A signal asked us to end; its argument is the signal's number."""


def raise_stopped(signum, _frame):
    raise Stopped(signum)


def on_stop_signals(handler):
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, handler)


def run(args):
    if not args.command:
        raise Failed("run: no command after --")
    folder = Path(tempfile.mkdtemp(prefix="gravity-s3-"))
    server = command = None
    ports = []
    on_stop_signals(raise_stopped)
    try:
        server, ports = launch(folder, tied=True)
        wait_ready(server, ports[0], folder)
        if args.bucket:
            make_bucket(ports[0], args.bucket)
        env = {k: v for k, v in os.environ.items() if k not in UNWANTED}
        command = subprocess.Popen(args.command, env={**env, **variables(ports[0], args.bucket)})
        code = command.wait()
        return code if code >= 0 else 128 - code
    except Stopped as stopped:
        (signum,) = stopped.args
        if command:
            # The terminal has sent Ctrl-C to COMMAND too; a SIGTERM came to us alone.
            if signum != signal.SIGINT:
                command.terminate()
            try:
                command.wait(10)
            except (subprocess.TimeoutExpired, Stopped):
                command.kill()
        return 128 + signum
    except FileNotFoundError as error:
        raise Failed(f"{error.filename}: not found") from None
    finally:
        on_stop_signals(signal.SIG_IGN)
        if server:
            kill(server.pid, ports)
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def start(args):
    folder = args.dir.resolve()
    state_file = folder / "server.json"
    if not running(folder):
        if folder.exists() and any(folder.iterdir()):
            raise Failed(f"{folder} is not empty (what is left of an ended server goes with: stop)")
        folder.mkdir(parents=True, exist_ok=True)
        server, ports = launch(folder, tied=False, port=args.port)
        state_file.write_text(json.dumps({"pid": server.pid, "ports": ports}))
        try:
            wait_ready(server, ports[0], folder)
        except BaseException:
            kill(server.pid, ports)
            raise
    port = json.loads(state_file.read_text())["ports"][0]
    if args.bucket:
        make_bucket(port, args.bucket)
    print("unset", *UNWANTED)
    for name, value in variables(port, args.bucket).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def stop(args):
    folder = args.dir.resolve()
    if not (folder / "server.json").exists():  # never remove a folder that start did not make
        raise Failed(f"no server was started in {folder}")
    state = json.loads((folder / "server.json").read_text())
    if running(folder):
        kill(state["pid"], state["ports"])
    shutil.rmtree(folder)
    return 0


def running(folder):
    """Whether the process that `start` noted in `folder` is still that server."""
    try:
        pid = json.loads((folder / "server.json").read_text())["pid"]
    except FileNotFoundError:
        return False
    shown = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True)
    return f"-dir={folder}/data" in shown.stdout


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(required=True, metavar="run|start|stop")
    for action in (run, start, stop):
        sub = actions.add_parser(action.__name__)
        sub.set_defaults(action=action)
        if action is not stop:
            sub.add_argument("--bucket", metavar="NAME", help="a bucket to create")
        if action is start:
            sub.add_argument("--port", type=int, help="S3's port [default: a free one]")
        if action is run:
            sub.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
        else:
            sub.add_argument("--dir", type=Path, required=True)
    args = parser.parse_args()
    if getattr(args, "command", [])[:1] == ["--"]:
        args.command = args.command[1:]
    try:
        return args.action(args)
    except Failed as failed:
        print(f"seaweedfs: {failed}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
