"""Prometheus, and that what an operator looks at names what there is: a panel or an alert on a metric that does not
exist never shows anything, which looks like all is well."""

import json
import re
import time
import urllib.parse

import stack
from checks import PATIENCE_SECONDS, Wrong, expect

# Grafana's own variables; the dashboard's have their values in it.
GRAFANA = {"$__rate_interval": "1m", "$__range": "1h"}
NAME = r"\b(?:gravity|otelcol|process)_[a-z0-9_]+"
RECORDED = r"\bgravity:[a-z0-9_:]+"
# The collector has these once something was refused or could not be sent.
NOT_YET = {"otelcol_exporter_send_failed_spans", "otelcol_receiver_refused_spans"}


def ask(services, path, **parameters):
    """What Prometheus' API answers."""
    query = "?" + urllib.parse.urlencode(parameters) if parameters else ""
    status, body = stack.get(f"{services.url('PROMETHEUS')}/api/v1/{path}{query}")
    if status != 200:
        raise Wrong(f"Prometheus: {path} {parameters}: {status} {body:.300}")
    return json.loads(body)["data"]


def exposed(services):
    """The names of all metrics that worker and collector have, as a query may use them."""
    names = set()
    for port in ("GRAVITY", "COLLECTOR_METRICS"):
        status, text = stack.get(f"{services.url(port)}/metrics")
        expect(f"{port}: status of /metrics", status, 200)
        for name, kind in re.findall(r"(?m)^# TYPE (\S+) (\S+)", text):
            suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            names |= {name + suffix for suffix in suffixes}
    return names


def dashboard_queries():
    dashboard = json.loads((stack.DEV / "grafana/dashboards/gravity.json").read_text())
    values = {f"${variable['name']}": variable["query"] for variable in dashboard["templating"]["list"]}
    queries = {}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            # Longer names first: one may be the beginning of another.
            for name, value in sorted({**GRAFANA, **values}.items(), key=lambda item: -len(item[0])):
                query = query.replace(name, value)
            expect(f"{panel['title']}: variables without a value", re.findall(r"\$\w+", query), [])
            queries[f"dashboard, {panel['title']!r}, {target['refId']}"] = query
    return queries


def check_names(services, queries):
    names = exposed(services)
    recorded = set(re.findall(r"(?m)^\s*- record: (\S+)", (stack.DEV / "prometheus/recording.yml").read_text()))
    wrong = []
    for where, query in queries.items():
        unknown = set(re.findall(NAME, query)) - names - NOT_YET
        unknown |= set(re.findall(RECORDED, query)) - recorded
        wrong += [f"{where}: there is no {name}" for name in sorted(unknown)]
    if wrong:
        raise Wrong("names that are not there:\n" + "\n".join(wrong))


def check_prometheus(*stacks):
    """That Prometheus scrapes and its rules load, and that queries name what the first stack has: all of it."""
    for services in stacks:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:  # until the first scrape of each
            targets = {t["labels"]["job"]: t for t in ask(services, "targets")["activeTargets"]}
            if all(target["health"] == "up" for target in targets.values()):
                break
            if time.monotonic() > deadline:
                raise Wrong(f"Prometheus: {[(job, t['health'], t['lastError']) for job, t in targets.items()]}")
            time.sleep(0.5)
        expect("Prometheus' targets", sorted(targets), ["collector", "gravity"])

    services = stacks[0]
    rules = [rule for group in ask(services, "rules")["groups"] for rule in group["rules"]]
    kinds = {rule["type"] for rule in rules}
    expect("kinds of rules that Prometheus has loaded", sorted(kinds), ["alerting", "recording"])
    queries = {f"rule {rule['name']}": rule["query"] for rule in rules} | dashboard_queries()
    check_names(services, queries)
    for where, query in queries.items():
        try:
            ask(services, "query", query=query)
        except Wrong as wrong:
            raise Wrong(f"{where}: {wrong}") from None
    ready = ask(services, "query", query="gravity_ready")["result"]
    expect("gravity_ready in Prometheus", [sample["value"][1] for sample in ready], ["1"])
