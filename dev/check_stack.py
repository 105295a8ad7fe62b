#!/usr/bin/env python3
"""Checks what surrounds Gravity without starting any of it: shell scripts, Dockerfile, compose file, Kubernetes
manifests, systemd unit, Terraform, Prometheus' configuration. In seconds, so that it is run often; `make e2e` runs the
programs themselves. What cannot be checked on this machine is said.

  make lint-stack
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
KEDA = "github.com/kedacore/keda/v2@v2.17.2"
PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
PODMONITORS = "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"
# An image's version to the patch, and what its publisher has instead.
VERSIONED = re.compile(r":v?\d+\.\d+\.\d+(-|$)|@sha256:|^chrislusf/seaweedfs:\d+\.\d+$|^quay\.io/minio/.*:RELEASE\.")
# Its publisher has no tags of versions; the Dockerfile says more.
UNVERSIONED = {"gcr.io/distroless/cc-debian12:nonroot"}
# Their images have nothing that could ask.
PROBED_FROM_OUTSIDE = {"collector": {"collector-ready"}, "jaeger": {"jaeger-ready"}, "sqs": {"s3-events"}}
# systemd-analyze's measure, in tenths: what the unit has now, and not a point worse.
EXPOSURE = 13


class Wrong(Exception):
    """A check found something."""


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT, **options)
    if done.returncode:
        raise Wrong(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}".strip())
    return done.stdout


def skip(what, why, never_here=False):
    """Says what is not checked. CI takes no excuse but that what is needed is not to be had (`never_here`)."""
    if os.environ.get("GRAVITY_TEST_TOOLS") == "required" and not never_here:
        raise Wrong(f"{what} was not checked, and GRAVITY_TEST_TOOLS=required: {why}")
    print(f"stack: {what} NOT CHECKED: {why}")


def files(pattern):
    return [ROOT / path for path in run("git", "ls-files", "--cached", "--others", "--exclude-standard", pattern).split()]


def shell_scripts():
    run(TOOLS / "lint/bin/shellcheck", ".ci/run", *files("*.sh"))


def dockerfile():
    run(TOOLS / "lint/bin/hadolint", "Dockerfile")
    text = (ROOT / "Dockerfile").read_text()
    base_images("Dockerfile", text)
    # The oldest Rust that the project promises to build with.
    (needed,) = re.findall(r'(?m)^rust-version = "(.*)"', (ROOT / "Cargo.toml").read_text())
    if f"FROM rust:{needed}." not in text:
        raise Wrong(f"the image that builds is not that of rust-version {needed} in Cargo.toml")
    # Whether what .dockerignore lets in is a workspace that cargo builds.
    rules = (ROOT / ".dockerignore").read_text().split("\n")
    wanted = [rule[1:] for rule in rules if rule.startswith("!")]
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted:
            source, target = ROOT / name, Path(folder) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("target", "fuzz"))
            else:
                shutil.copy(source, target)
        targets_exist(Path(folder) / "Cargo.toml")


def targets_exist(manifest):
    """That each target of the workspace is there: `cargo build` wants those it does not build, too."""
    workspace = json.loads(run("cargo", "metadata", "--format-version=1", "--locked", "--manifest-path", manifest))
    for package in workspace["packages"]:
        if package["id"] not in workspace["workspace_members"]:
            continue
        # Cargo passes over what is declared and has no file, and says so when it builds.
        there = {(kind, target["name"]) for target in package["targets"] for kind in target["kind"] if Path(target["src_path"]).exists()}
        written = tomllib.loads(Path(package["manifest_path"]).read_text())
        declared = {(kind, target["name"]) for kind in ("bin", "example", "test", "bench") for target in written.get(kind, [])}
        if missing := declared - there:
            raise Wrong(f".dockerignore keeps out what {package['name']} declares: {sorted(missing)}")


def base_images(where, text):
    """That each FROM names a version to the patch."""
    for image in re.findall(r"(?m)^\s*FROM (\S+)", text):
        if image not in UNVERSIONED and not VERSIONED.search(image):
            raise Wrong(f"{where}: the image {image} has no version to the patch")


def compose():
    # A newcomer's shell has none of our variables: dev/.env must be enough.
    names = {line.split("=")[0] for line in (ROOT / "dev/.env").read_text().split("\n") if "=" in line}
    env = {name: value for name, value in os.environ.items() if name not in names}
    for profile in ("seaweedfs", "minio"):
        config = subprocess.run(
            [TOOLS / "compose/compose_config", "dev/docker-compose.yml"],
            cwd=ROOT, capture_output=True, text=True, env={**env, "COMPOSE_PROFILES": profile},
        )  # fmt: skip
        # An unset variable is a warning there, and an error here.
        if config.returncode or config.stderr:
            raise Wrong(f"docker-compose.yml, profile {profile}:\n{config.stderr}")
        compose_services(profile, json.loads(config.stdout)["services"])


def compose_services(profile, services):
    """What `docker compose config` lets pass, and `up` would not."""
    wrong = []
    # Gravity's healthcheck is in its Dockerfile.
    probed = {name for name, service in services.items() if "healthcheck" in service} | {"gravity"}
    waits = [wait for service in services.values() for wait in service.get("depends_on", {}).items()]
    ended = {name for name, how in waits if how["condition"] == "service_completed_successfully"}
    for name, service in services.items():
        if "build" not in service and not VERSIONED.search(service.get("image", "")):
            wrong.append(f"{name}: the image {service.get('image')} has no version to the patch")
        base_images(f"{name} in docker-compose.yml", service.get("build", {}).get("dockerfile_inline", ""))
        for mount in service.get("volumes", []):
            if mount["type"] == "bind" and not Path(mount["source"]).exists():
                wrong.append(f"{name}: {mount['source']} is not there")
        for port in service.get("ports", []):
            if port.get("host_ip") != "127.0.0.1":
                wrong.append(f"{name}: port {port['published']} is open to the network")
        for other, how in service.get("depends_on", {}).items():
            if other not in services:
                if how.get("required", True):
                    wrong.append(f"{name}: waits for {other}, which this profile does not have")
            elif how["condition"] == "service_healthy" and other not in probed:
                wrong.append(f"{name}: waits for {other} to be healthy, which has no healthcheck")
        # Who is waited for to end, needs none.
        if name not in ended and name not in probed and not services.keys() & PROBED_FROM_OUTSIDE.get(name, set()):
            wrong.append(f"{name}: nothing asks whether it is healthy")
    if "HEALTHCHECK" not in (ROOT / "Dockerfile").read_text():
        wrong.append("gravity: the Dockerfile has no HEALTHCHECK")
    if not services.keys() >= {"s3-events", "sqs", "collector", "litellm", "gravity", "prometheus", "grafana", "jaeger"}:
        wrong.append(f"services are missing; there are {sorted(services)}")
    if wrong:
        raise Wrong(f"docker-compose.yml, profile {profile}:\n" + "\n".join(wrong))


def kubernetes():
    others = ("kustomization.yaml", "keda.yaml", "podmonitor.yaml")
    manifests = [path for path in files("deploy/kubernetes/*.yaml") if path.name not in others]
    run(TOOLS / "lint/bin/kubernetes-validate", "--strict", "--no-warn", *manifests)
    # Others' resources by the definitions that they install.
    for module, definitions, manifest in [
        (KEDA, "config/crd/bases", "keda.yaml"),
        (PROMETHEUS_OPERATOR, PODMONITORS, "podmonitor.yaml"),
    ]:
        shown = json.loads(run("go", "mod", "download", "-json", module, env={**os.environ, "GOFLAGS": "-mod=mod"}))
        run(TOOLS / "lint/bin/python", "dev/check_crds.py", Path(shown["Dir"]) / definitions, f"deploy/kubernetes/{manifest}")
    kustomize = ["kubectl", "kustomize"] if shutil.which("kubectl") else [TOOLS / "go/kustomize", "build"]
    rendered = run(*kustomize, "deploy/kubernetes")
    for needed in ("kind: ScaledObject", "kind: PodDisruptionBudget", "image: registry.example.com/gravity:"):
        if needed not in rendered:
            raise Wrong(f"deploy/kubernetes, as kustomize puts it together: no {needed}")


def systemd():
    if not shutil.which("systemd-analyze"):
        return skip("gravity.service", "there is no systemd-analyze here")
    with tempfile.TemporaryDirectory() as folder:
        # It wants the program to be there.
        unit = Path(folder) / "gravity.service"
        unit.write_text((ROOT / "deploy/systemd/gravity.service").read_text().replace("/usr/local/bin/gravity", "/bin/true"))
        said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
        if said.returncode or "gravity.service" in said.stderr:
            raise Wrong(f"systemd-analyze verify:\n{said.stderr}")
        run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", unit)


def terraform():
    # HCL's own formatter reads it as OpenTofu and Terraform do, and takes no registry and half a minute to build.
    run(TOOLS / "go/hclfmt", "-check", "-require-no-change", *files("deploy/terraform/*.tf"))
    # `validate` wants the provider, which is not to be had without the registry. Names at least must exist.
    text = "\n".join(path.read_text() for path in files("deploy/terraform/*.tf"))
    code = re.sub(r"(?m)#.*$", "", text)
    known = {f"{kind}.{name}" for kind, name in re.findall(r'(?m)^resource "(\w+)" "(\w+)"', code)}
    known |= {f"data.{kind}.{name}" for kind, name in re.findall(r'(?m)^data "(\w+)" "(\w+)"', code)}
    known |= {f"var.{name}" for name in re.findall(r'(?m)^variable "(\w+)"', code)}
    for block in re.findall(r"(?ms)^locals \{(.*?)^\}", code):
        known |= {f"local.{name}" for name in re.findall(r"(?m)^  (\w+)\s*=", block)}
    used = set(re.findall(r"\b(?:(?:var|local)\.\w+|data\.aws_\w+\.\w+|(?<!data\.)aws_\w+\.\w+)", code))
    if missing := used - known:
        raise Wrong(f"deploy/terraform: not defined: {sorted(missing)}")
    if unused := {name for name in known if name.startswith(("var.", "local."))} - used:
        raise Wrong(f"deploy/terraform: not used: {sorted(unused)}")
    skip("Terraform's resources", "`validate` needs the AWS provider, from a registry", never_here=True)


def prometheus():
    promtool = shutil.which("promtool") or TOOLS / "prometheus/usr/bin/promtool"
    run(promtool, "check", "config", "dev/prometheus/stack.yml")
    told = set(re.findall(r"(?m)^\| `(Gravity\w+)` \|", (ROOT / "docs/operations.md").read_text()))
    alerts = set(re.findall(r"(?m)^\s*- alert: (\w+)", (ROOT / "dev/prometheus/alerts.yml").read_text()))
    if told != alerts:
        raise Wrong(f"alerts.yml and the table in docs/operations.md differ in {sorted(told ^ alerts)}")


def main():
    failed = 0
    for check in (shell_scripts, dockerfile, compose, kubernetes, systemd, terraform, prometheus):
        try:
            check()
            print(f"stack: {check.__name__.replace('_', ' ')} ok", flush=True)
        except Wrong as wrong:
            print(f"stack: {check.__name__.replace('_', ' ')}: {wrong}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
