"""`docker-compose.yml` and the configurations it mounts: what they name is there. No container engine is asked."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest
import yaml
from typer.testing import CliRunner

from gateway.commands.app import app

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def mounts(service: str) -> dict[PurePosixPath, Path]:
    """Return where in the container which file or directory of the repository lies."""
    split = [volume.split(":") for volume in SERVICES[service].get("volumes", ())]
    return {PurePosixPath(inside): ROOT / outside for outside, inside, *_ in split if outside.startswith(".")}


def outside(service: str, path: str) -> Path | None:
    """Return the file of the repository that a path in the container is."""
    for inside, found in mounts(service).items():
        if PurePosixPath(path).is_relative_to(inside):
            return found / PurePosixPath(path).relative_to(inside)
    return None


def test_compose_brings_up_all_four():
    """The gateway, Prometheus, Alertmanager and Grafana, all in one network, on loopback ports only."""
    assert sorted(SERVICES) == ["alertmanager", "gateway", "grafana", "network", "prometheus"]
    assert {one["network_mode"] for name, one in SERVICES.items() if name != "network"} == {"service:network"}
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["network"]["ports"])


def test_compose_network_outlives_the_gateway():
    """Who owns the network depends on no other service, is not built anew with the gateway, and does nothing that could fail."""
    owner = SERVICES["network"]
    assert owner.keys() == {"image", "command", "init", "ports", "restart"}
    assert owner["command"] == ["sleep", "infinity"]


@pytest.mark.parametrize("service", sorted(SERVICES.keys() - {"network"}))
def test_compose_mounts_what_is_there(service):
    """Each mounted path is in the repository, and each named volume is declared."""
    assert all(path.exists() for path in mounts(service).values())
    declared = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["volumes"]
    named = {volume.split(":")[0] for volume in SERVICES[service]["volumes"] if not volume.startswith(".")}
    assert named <= declared.keys()


@pytest.mark.parametrize("service", ["prometheus", "alertmanager"])
def test_compose_names_mounted_configurations(service):
    """The configuration that a command names is mounted there, as are the rules that it names itself."""
    [config] = [word.removeprefix("--config.file=") for word in SERVICES[service]["command"] if word.startswith("--config.file=")]
    found = outside(service, config)
    assert found is not None
    assert found.is_file()
    for pattern in yaml.safe_load(found.read_text()).get("rule_files", ()):
        directory = outside(service, str(PurePosixPath(config).parent / PurePosixPath(pattern).parent))
        assert directory is not None
        assert list(directory.glob(PurePosixPath(pattern).name))


def test_compose_runs_the_images_own_command():
    """The gateway is built from the Dockerfile, whose command is one of headgate's."""
    assert SERVICES["gateway"]["build"] == "."
    assert "command" not in SERVICES["gateway"]
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    [command] = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD ")]
    asked = CliRunner().invoke(app, [command[0], "--help"])
    assert asked.exit_code == 0
    for word in command[1:]:
        assert not word.startswith("--") or word in asked.output


def test_grafana_finds_boards_and_sources_without_a_click():
    """The provider's path is where the boards are mounted; the sources are the addresses that the other configurations have."""
    [provider] = yaml.safe_load((ROOT / "grafana/provisioning/dashboards/headgate.yml").read_text())["providers"]
    directory = outside("grafana", provider["options"]["path"])
    assert directory is not None
    assert {path.stem for path in directory.glob("*.json")} >= {
        "fleet",
        "route",
        "rollout",
        "drift",
        "quality",
        "audit",
        "monitor",
    }
    assert outside("grafana", SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).is_file()
    assert outside("grafana", "/etc/grafana/provisioning") == ROOT / "grafana/provisioning"
    sources = {
        source["type"]: source
        for path in (ROOT / "grafana/provisioning/datasources").glob("*.yml")
        for source in yaml.safe_load(path.read_text())["datasources"]
    }
    alerting = yaml.safe_load((ROOT / "grafana/prometheus.yml").read_text())["alerting"]["alertmanagers"][0]
    assert sources["alertmanager"]["url"] == "http://" + alerting["static_configs"][0]["targets"][0]
    assert sources["prometheus"]["jsonData"]["alertmanagerUid"] == sources["alertmanager"]["uid"]
