#!/usr/bin/env python3
"""The development stack without Docker: S3 (SeaweedFS), SQS (ministack), the OpenTelemetry Collector, LiteLLM with a
mock model, Gravity's worker and Prometheus, all on 127.0.0.1.

  dev/native/stack.py start           starts what is not running; returns when all of it is healthy
  dev/native/stack.py status          what runs, and where (exit code 1 if anything does not)
  eval "$(dev/native/stack.py env)"   points gravity at the stack's S3
  dev/native/stack.py gravity -- inspect     runs gravity on the stack's store
  dev/native/stack.py port LITELLM    which port
  dev/native/stack.py logs [NAME]...  the end of the logs
  dev/native/stack.py stop            ends it; what S3 held is gone

Ports are in dev/.env; a variable of the same name goes before it, and `start --free-ports` takes any. `dev/tools.sh`
installs the programs. Jaeger and Grafana are only in dev/docker-compose.yml: neither is published anywhere that a
build from source is quick.
"""

import argparse
import http.client
import json
import os
import shlex
import signal
import shutil
import subprocess
import sys
import time
from pathlib import Path

DEV = Path(__file__).resolve().parent.parent
ROOT = DEV.parent
TOOLS = ROOT / ".tools"
HOST = "127.0.0.1"
START_SECONDS = 120
STOP_SECONDS = 30

sys.path.insert(0, str(DEV))
import seaweedfs  # noqa: E402 (it stands in dev/)
from s3_events import create_queue  # noqa: E402

Failed = seaweedfs.Failed


def env_file(path):
    """NAME=value lines; nothing if there is no such file."""
    if not path.exists():
        return {}
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def settings(free_ports=False):
    """dev/.env, with what the environment says instead of it."""
    values = env_file(DEV / ".env")
    ports = [name for name in values if name.endswith("_PORT")]
    if free_ports:
        values.update(zip(ports, map(str, seaweedfs.free_ports(len(ports)))))
    values.update({name: os.environ[name] for name in values if os.environ.get(name)})
    return values


QUEUE = "gravity"
QUEUE_ARN = f"arn:aws:sqs:{seaweedfs.REGION}:000000000000:{QUEUE}"
# A bucket's notifications to the queue, in the only server here that has them by itself.
NOTIFICATIONS = f"""<NotificationConfiguration><QueueConfiguration><Queue>{QUEUE_ARN}</Queue>
<Event>s3:ObjectCreated:*</Event><Filter><S3Key><FilterRule><Name>prefix</Name><Value>raw-spans/</Value></FilterRule>
</S3Key></Filter></QueueConfiguration></NotificationConfiguration>"""


def installed(name, *places):
    """The program `name`, from .tools or PATH."""
    found = next((str(place) for place in places if place.exists()), None) or shutil.which(name)
    if not found:
        raise Failed(f"{name} is not installed: run dev/tools.sh")
    return found


def started_at(pid):
    """When the process `pid` began, empty if there is none: a number alone may be another process by now."""
    shown = subprocess.run(["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
    state, _, started = shown.stdout.strip().partition(" ")
    # One that has ended may stay as long as nobody asks for its exit code.
    return "" if state.startswith("Z") else started.strip()


class Stack:
    """The services of one folder: their settings, logs and processes."""

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self.settings = {}
        if (self.folder / "settings.json").exists():
            self.settings = json.loads((self.folder / "settings.json").read_text())

    def create(self, values):
        """A new stack with these settings; one that is there already keeps its own."""
        if not self.settings:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.settings = values
            (self.folder / "settings.json").write_text(json.dumps(values, indent=1))

    def port(self, name):
        return self.settings[name + "_PORT"]

    def url(self, name):
        return f"http://{HOST}:{self.port(name)}"

    def s3_variables(self):
        """What points an S3 client at the stack's server."""
        variables = seaweedfs.variables(self.port("S3"), None)
        del variables["GRAVITY_TEST_S3"]
        return variables

    # The services, in the order in which they start. Each gives (command, environment, health URL).

    def litellm(self):
        command = [installed("litellm", TOOLS / "litellm/bin/litellm"), "--config", DEV / "litellm-config.yaml",
                   "--host", HOST, "--port", self.port("LITELLM")]  # fmt: skip
        env = {**env_file(DEV / "litellm.env"), **env_file(ROOT / ".env"), "OTEL_ENDPOINT": self.url("OTLP_HTTP")}
        return command, env, self.url("LITELLM") + "/health/liveliness"

    def collector(self):
        command = [installed("otelcol", TOOLS / "otelcol/otelcol"), "--config", DEV / "collector-config.yaml"]
        names = ["OTLP_GRPC_PORT", "OTLP_HTTP_PORT", "COLLECTOR_HEALTH_PORT", "COLLECTOR_METRICS_PORT",
                 "TRACES_BUCKET", "DECISION_WAIT"]  # fmt: skip
        env = {name: self.settings[name] for name in names}
        jaeger = self.settings.get("JAEGER_ENDPOINT")
        env |= {"JAEGER_ENDPOINT": jaeger} if jaeger else {"REALTIME_EXPORTERS": "[debug]"}
        return command, {**env, **self.s3_variables()}, self.url("COLLECTOR_HEALTH")

    def console(self):
        ports = json.loads((self.folder / "s3/server.json").read_text())["ports"]
        command = [seaweedfs.WEED, "admin", f"-port={self.port('S3_CONSOLE')}", f"-master={HOST}:{ports[1]}", f"-dataDir={self.folder}/console",
                   "-iceberg.port=0", "-lance.port=0"]  # fmt: skip
        return command, {}, self.url("S3_CONSOLE") + "/health"

    def sqs(self):
        # ministack is an S3 server as well: with S3_SERVER=ministack, the only one.
        port = self.port("S3" if self.own_events() else "SQS")
        (self.folder / "tmp").mkdir(exist_ok=True)
        env = {"BIND_HOST": HOST, "GATEWAY_PORT": port, "MINISTACK_HOST": HOST, "TMPDIR": self.folder / "tmp"}
        health = f"http://{HOST}:{port}/_ministack/health"
        return [installed("ministack", TOOLS / "ministack/bin/ministack")], env, health

    def events(self):
        command = [sys.executable, DEV / "s3_events.py", "--port", self.port("EVENTS"), "--sqs", self.url("SQS"),
                   "--queue", QUEUE]  # fmt: skip
        return command, {}, self.url("EVENTS") + "/healthz"

    def own_events(self):
        """Whether the S3 server tells SQS by itself."""
        return self.settings.get("S3_SERVER") == "ministack"

    def queue_variables(self):
        sqs = self.url("S3" if self.own_events() else "SQS")
        return {"SQS_QUEUE_URL": f"{sqs}/000000000000/{QUEUE}", "AWS_ENDPOINT_URL_SQS": sqs}

    def worker(self):
        command = [self.gravity(), "worker", "--store", f"s3://{self.settings['TRACES_BUCKET']}"]
        if layout := self.settings.get("LAYOUT"):
            command += ["--layout", layout]
        queue = {} if self.settings.get("WORKER") == "polling" else self.queue_variables()
        env = {**self.s3_variables(), **queue, "GRAVITY_LISTEN": f"{HOST}:{self.port('GRAVITY')}", "RUST_LOG": "info"}
        return command, env, self.url("GRAVITY") + "/readyz"

    def prometheus(self):
        (self.folder / "prometheus").mkdir(exist_ok=True)
        for rules in (DEV / "prometheus").glob("*.yml"):
            text = rules.read_text()
            for service, port in [("gravity:9464", "GRAVITY"), ("collector:8888", "COLLECTOR_METRICS")]:
                text = text.replace(service, f"{HOST}:{self.port(port)}")
            (self.folder / "prometheus" / rules.name).write_text(text)
        command = [installed("prometheus", TOOLS / "prometheus/usr/bin/prometheus"),
                   f"--config.file={self.folder}/prometheus/stack.yml",
                   f"--storage.tsdb.path={self.folder}/prometheus/data",
                   f"--web.listen-address={HOST}:{self.port('PROMETHEUS')}"]  # fmt: skip
        return command, {}, self.url("PROMETHEUS") + "/-/ready"

    def gravity(self):
        """The binary: GRAVITY, or the newest that cargo built, or the one on PATH."""
        if os.environ.get("GRAVITY"):
            return os.environ["GRAVITY"]
        target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        built = [path for path in (target / "release/gravity", target / "debug/gravity") if path.exists()]
        if not built and not shutil.which("gravity"):
            raise Failed("gravity is not built: run cargo build --release")
        return installed("gravity", *sorted(built, key=lambda path: -path.stat().st_mtime))

    def start(self, names):
        """Starts what is not running, and returns once all of it is healthy."""
        (self.folder / "console").mkdir(parents=True, exist_ok=True)
        for name in names:
            if self.running(name):
                continue
            if name == "s3":
                # Blocks until it takes requests; what came before it in the list starts meanwhile.
                self.start_s3()
            else:
                self.launch(name)
        for name in names:
            if name != "s3":
                self.wait_healthy(name)

    def start_s3(self):
        if self.own_events():
            self.launch("sqs")
            self.wait_healthy("sqs")
            create_queue(self.url("S3"), QUEUE)
            for path, body in [("", b""), ("?notification", NOTIFICATIONS.encode())]:
                status, answer = seaweedfs.s3(int(self.port("S3")), "PUT", f"/{self.settings['TRACES_BUCKET']}{path}", body)
                if status != 200:
                    raise Failed(f"ministack: PUT {path}: {status} {answer.decode(errors='replace')}")
            return
        command = [DEV / "seaweedfs.py", "start", "--dir", self.folder / "s3", "--port", self.port("S3"),
                   "--bucket", self.settings["TRACES_BUCKET"]]  # fmt: skip
        webhook = {
            "ENABLED": "true",
            "ENDPOINT": self.url("EVENTS"),
            "EVENT_TYPES": "create update rename",
            "PATH_PREFIXES": f"/buckets/{self.settings['TRACES_BUCKET']}/raw-spans",
        }
        env = {**os.environ, **{f"WEED_NOTIFICATION_WEBHOOK_{name}": value for name, value in webhook.items()}}
        shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        if shown.returncode:
            raise Failed(shown.stderr.strip())

    def launch(self, name):
        command, env, _ = getattr(self, name)()
        # What a developer's shell has for AWS or OpenTelemetry is not meant for this stack.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "OTEL_", "S3_", "GRAVITY_"))}
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                env={**inherited, **{name: str(value) for name, value in env.items()}}, start_new_session=True,
            )  # fmt: skip
        state = {"pid": process.pid, "started": started_at(process.pid)}
        (self.folder / f"{name}.json").write_text(json.dumps(state))

    def running(self, name):
        """The pid of the service, if it runs."""
        if name == "s3" and self.own_events():
            name = "sqs"
        if name == "s3":
            return seaweedfs.running(self.folder / "s3")
        try:
            state = json.loads((self.folder / f"{name}.json").read_text())
        except FileNotFoundError:
            return None
        try:  # a zombie of ours would count as running
            os.waitpid(state["pid"], os.WNOHANG)
        except ChildProcessError:
            pass
        return state["pid"] if state["started"] and started_at(state["pid"]) == state["started"] else None

    def healthy(self, name):
        url = getattr(self, name)()[2]
        return self.running(name) and get(url)[0] == 200

    def wait_healthy(self, name):
        deadline = time.monotonic() + START_SECONDS
        while not self.healthy(name):
            if not self.running(name) or time.monotonic() > deadline:
                raise Failed(f"{name} did not start; the end of {self.folder}/{name}.log:\n{self.log(name)}")
            time.sleep(0.2)

    def log(self, name, lines=20):
        path = self.folder / ("s3/log" if name == "s3" else f"{name}.log")
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def end(self, name):
        """Ends a service in order, and with SIGKILL if that is not enough; true if it was."""
        pid = self.running(name)
        if pid:
            os.kill(pid, signal.SIGINT if name in ENDED_BY_SIGINT else signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            while self.running(name):
                if time.monotonic() > deadline:
                    os.killpg(pid, signal.SIGKILL)
                    return False
                time.sleep(0.05)
        return True

    def stop(self):
        """Ends everything, the sources first, and removes the folder."""
        for name in ORDER:
            if name != "s3" and not self.end(name):
                print(f"stack: {name} had to be killed", file=sys.stderr)
        if (self.folder / "s3/server.json").exists():
            seaweedfs.stop(argparse.Namespace(dir=self.folder / "s3"))
        if (self.folder / "settings.json").exists():
            shutil.rmtree(self.folder)


# Sources before what they send to; S3 after them only because it takes longest, and nothing is sent before all is up.
ORDER = ["litellm", "collector", "sqs", "events", "s3", "console", "worker", "prometheus"]


def get(url):
    """(status, body); (0, "") if nobody answers."""
    host, _, path = url.removeprefix("http://").partition("/")
    # http.client, not urllib: a proxy in the environment must not see this.
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request("GET", "/" + path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


# After SIGTERM, LiteLLM's server raises it once more against itself: the spans of the last seconds are never sent.
ENDED_BY_SIGINT = {"litellm"}

PLACES = {"litellm": "LITELLM", "collector": "OTLP_HTTP", "sqs": "SQS", "s3": "S3", "console": "S3_CONSOLE", "worker": "GRAVITY",
          "prometheus": "PROMETHEUS"}  # fmt: skip


def command_start(stack, args):
    stack.create(settings(args.free_ports))
    try:
        stack.start(ORDER)
    except BaseException:
        print(f"stack: not all of it is up; dev/native/stack.py stop --dir {stack.folder} ends the rest", file=sys.stderr)
        raise
    return command_status(stack, args)


def command_status(stack, _args):
    down = 0
    for name in ORDER:
        up = bool(stack.settings) and stack.running(name)
        down += not up
        place = stack.url(PLACES[name]) if stack.settings and name in PLACES else ""
        print(f"{name:11}{'up' if up else 'down':6}{place}")
    return 1 if down else 0


def store_variables(stack):
    if not stack.settings:
        raise Failed(f"no stack was started in {stack.folder}: dev/native/stack.py start")
    return {**stack.s3_variables(), "GRAVITY_STORE": f"s3://{stack.settings['TRACES_BUCKET']}"}


def command_env(stack, _args):
    print("unset", *seaweedfs.UNWANTED)
    for name, value in store_variables(stack).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def command_gravity(stack, args):
    env = {name: value for name, value in os.environ.items() if name not in seaweedfs.UNWANTED}
    env |= store_variables(stack)
    binary = stack.gravity()
    os.execvpe(binary, [binary, *args.arguments], env)


def command_port(stack, args):
    store_variables(stack)
    print(stack.port(args.service))
    return 0


def command_logs(stack, args):
    for name in args.names or ORDER:
        if name not in ORDER:
            raise Failed(f"no service {name}; there are: {' '.join(ORDER)}")
        print(f"==> {name}\n{stack.log(name, 50)}")
    return 0


def command_stop(stack, _args):
    stack.stop()
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(required=True, metavar="start|status|env|gravity|port|logs|stop")
    for name in ("start", "status", "env", "gravity", "port", "logs", "stop"):
        sub = actions.add_parser(name)
        sub.set_defaults(action=globals()["command_" + name])
        sub.add_argument("--dir", type=Path, default=os.environ.get("STACK_DIR", ROOT / ".native"),
                         help="where it keeps its files [STACK_DIR, or ./.native]")  # fmt: skip
        if name == "start":
            sub.add_argument("--free-ports", action="store_true", help="ports that are free now, not those of dev/.env")
        if name == "gravity":
            sub.add_argument("arguments", nargs="+", metavar="-- ARGUMENT")
        if name == "port":
            sub.add_argument("service", choices=[n.removesuffix("_PORT") for n in settings() if n.endswith("_PORT")])
        if name == "logs":
            sub.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    try:
        return args.action(Stack(args.dir), args)
    except Failed as failed:
        print(f"stack: {failed}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
