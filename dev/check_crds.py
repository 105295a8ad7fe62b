#!/usr/bin/env python3
"""Validates custom resources by the definitions of their kinds; an unknown field is an error. For check_stack.py.

  .tools/lint/bin/python dev/check_crds.py CRDS FILE...     CRDS is a file of them, or a folder
"""

import sys
from pathlib import Path

import jsonschema
import yaml


def close(node):
    """Allows only the fields that the schema names, where it names any."""
    if isinstance(node, dict):
        if node.get("x-kubernetes-preserve-unknown-fields"):
            node["additionalProperties"] = True
        elif "properties" in node:
            node.setdefault("additionalProperties", False)
        for child in node.values():
            close(child)
    elif isinstance(node, list):
        for child in node:
            close(child)


def schemas(place):
    found = {}
    for path in [Path(place)] if Path(place).is_file() else Path(place).glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())["spec"]
        for version in spec["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            schema["properties"].pop("metadata", None)  # Kubernetes' own, checked with the other manifests
            close(schema)
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def main(place, *files):
    kinds, code = schemas(place), 0
    for file in files:
        for document in yaml.safe_load_all(Path(file).read_text()):
            name = document.pop("metadata")["name"]
            schema = kinds.get((document["apiVersion"], document["kind"]))
            validator = jsonschema.Draft7Validator(schema) if schema else None
            errors = [e.message for e in validator.iter_errors(document)] if schema else ["no such kind is defined"]
            for error in errors:
                print(f"{file}: {document['kind']} {name}: {error}")
                code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
