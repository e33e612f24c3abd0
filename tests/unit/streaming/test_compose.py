"""What is deployed in containers, checked as text: there is no Docker engine where these tests run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from streaming import observe, parts
from streaming.settings import Settings, unknown

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "streaming" / "deploy"

STRINGS = {"type": "array", "items": {"type": "string"}}
NAMED = {"type": "object", "patternProperties": {r"^[a-zA-Z0-9._-]+$": True}, "additionalProperties": False}
# The part of the Compose Specification (github.com/compose-spec/compose-spec, 05-services.md) we use: an
# attribute that is not here is a typing error, or belongs here.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["services"],
    "patternProperties": {"^x-": True},
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "volumes": NAMED,
        "services": {
            "type": "object",
            "patternProperties": {r"^[a-zA-Z0-9._-]+$": {"$ref": "#/$defs/service"}},
            "additionalProperties": False,
        },
    },
    "$defs": {
        "service": {
            "type": "object",
            "required": ["image", "restart"],
            "additionalProperties": False,
            "properties": {
                "image": {"type": "string", "pattern": r"^[a-z0-9./_-]+:[\w][\w.-]+$"},
                "build": {
                    "type": "object",
                    "required": ["context", "dockerfile"],
                    "properties": {"context": {"type": "string"}, "dockerfile": {"type": "string"}},
                    "additionalProperties": False,
                },
                "command": STRINGS,
                "entrypoint": STRINGS,
                "environment": {"type": "object", "additionalProperties": {"type": "string"}},
                "expose": STRINGS,
                "ports": {"type": "array", "items": {"type": "string", "pattern": r"^\d+:\d+$"}},
                "profiles": STRINGS,
                "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
                "volumes": {
                    "type": "array",
                    "items": {"type": "string", "pattern": r"^[\w./-]+:/[\w./-]+(:ro)?$"},
                },
                "healthcheck": {
                    "type": "object",
                    "required": ["test", "interval", "timeout", "retries"],
                    "additionalProperties": False,
                    "properties": {
                        "test": {
                            "type": "array",
                            "prefixItems": [{"enum": ["CMD", "CMD-SHELL"]}],
                            "minItems": 2,
                        },
                        "interval": {"type": "string", "pattern": r"^\d+s$"},
                        "timeout": {"type": "string", "pattern": r"^\d+s$"},
                        "retries": {"type": "integer", "minimum": 1},
                    },
                },
                "depends_on": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "required": ["condition"],
                        "properties": {"condition": {"enum": ["service_started", "service_healthy"]}},
                        "additionalProperties": False,
                    },
                },
            },
        }
    },
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """docker-compose.yml with its merges applied."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_the_file_is_a_compose_file(compose: dict[str, Any]) -> None:
    """If this fails, `docker compose` refuses the file."""
    errors = Draft202012Validator(SCHEMA).iter_errors(compose)
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


def test_every_part_of_the_stack_is_there(compose: dict[str, Any]) -> None:
    """If this fails, the containers lack a service that `millrace up` or an operator has."""
    expected = {"kafka", "valkey", "jobmanager", "taskmanager", "millrace", "prometheus", "grafana"}
    assert set(compose["services"]) == expected


def test_services_refer_to_what_exists(compose: dict[str, Any]) -> None:
    """If this fails, a container waits for ever, or starts without a file or volume it needs."""
    services = compose["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, name
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other], (name, other)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).is_file() if source.startswith(".") else source in compose["volumes"], (
                volume
            )
        if "build" in service:
            assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_host_ports_are_used_once(compose: dict[str, Any]) -> None:
    """If this fails, two containers want the same port, and one does not start."""
    ports = [
        port.split(":")[0] for service in compose["services"].values() for port in service.get("ports", [])
    ]
    assert len(ports) == len(set(ports))


def test_settings_in_containers_are_settings(compose: dict[str, Any]) -> None:
    """If this fails, a container gets a setting that is misspelt, or an address without a service."""
    services = compose["services"]
    for service in services.values():
        assert unknown(service.get("environment", {})) == []
    environment = services["taskmanager"]["environment"]
    for variable in ("MILLRACE_KAFKA", "MILLRACE_REDIS", "MILLRACE_FLINK"):
        host = re.sub(r"^\w+://", "", environment[variable]).split(":")[0]
        assert host in services


def test_the_image_copies_what_exists() -> None:
    """If this fails, the image does not build: a copied path is gone or kept out of the build context."""
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    for words in re.findall(r"^COPY (?:--\S+ )*(.+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE):
        for source in words.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert "!" + source.split("/")[0] in ignored, source


def test_prometheus_scrapes_the_taskmanagers(compose: dict[str, Any]) -> None:
    """If this fails, the dashboard stays empty: the port or the service that is scraped is another."""
    jobs = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    found = next(job for job in jobs if job["job_name"] == "taskmanager")["dns_sd_configs"][0]
    environment = compose["services"][found["names"][0]]["environment"]
    assert str(found["port"]) == environment["MILLRACE_METRICS_PORT"]
    assert environment["MILLRACE_METRICS_HOST"] == "0.0.0.0"


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    """If this fails, a panel shows nothing because its metric was renamed."""
    families = list(observe.Metrics().registry.collect())
    known = {family.name + end for family in families for end in ("", "_total", "_bucket")}
    dashboard = json.loads((DEPLOY / "grafana" / "millrace.json").read_text())
    asked = re.findall(r"millrace_\w+", json.dumps([p["targets"] for p in dashboard["panels"]]))
    assert asked
    assert set(asked) <= known
    source = yaml.safe_load((DEPLOY / "grafana" / "datasource.yml").read_text())["datasources"][0]["uid"]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source}


def test_flink_in_containers_is_configured_as_here() -> None:
    """If this fails, Flink in containers keeps state or fails over otherwise than what is tested here."""
    given = {"rest": "127.0.0.1:1", "jobmanager": "127.0.0.1:2", "kafka": "", "redis": ""}
    here = parts.flink_config(
        parts.Place("jobmanager", "", Path("x"), (1, 2), given, Settings(checkpoint=1000))
    )
    there = yaml.safe_load((DEPLOY / "flink.yaml").read_text())
    of_the_place = (
        "host",
        "port",
        "address",
        "size",
        "dir",
        "path",
        "executable",
        "max",
        "Slots",
        "opts.all",
        "interval",
    )
    shared = {key for key in there.keys() & here.keys() if not key.endswith(of_the_place)}
    assert "state.backend.type" in shared
    assert {key: there[key] for key in shared} == {key: here[key] for key in shared}
