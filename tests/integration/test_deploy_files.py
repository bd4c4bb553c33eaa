"""compose/ and k8s/ as files: they parse, Kubernetes knows every field, and they hold what a deployment
must have. scripts/check-containers runs them."""

import copy
import pathlib
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE = ROOT / "k8s/base"
COMPOSE = ROOT / "compose/compose.yaml"
OLDEST_KUBERNETES, NEWEST_KUBERNETES = "1.22.0", "1.32.0"


def objects():
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    for name in kustomization["resources"]:
        yield from yaml.safe_load_all((BASE / name).read_text())


OBJECTS = {f"{o['kind']}/{o['metadata']['name']}": o for o in objects()}
PODS = {name: o["spec"]["template"]["spec"] for name, o in OBJECTS.items() if "template" in o["spec"]}
OURS = ["StatefulSet/lm-agent", "Deployment/lm-proxy"]


# ---- Kubernetes ----


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, NEWEST_KUBERNETES])
@pytest.mark.parametrize("name", OBJECTS)
def test_kubernetes_knows_every_field(name, version):
    kubernetes_validate.validate(OBJECTS[name], version, strict=True)


def test_the_validation_can_fail():
    broken = copy.deepcopy(OBJECTS["StatefulSet/lm-agent"])
    container = broken["spec"]["template"]["spec"]["containers"][0]
    container["readynessProbe"] = container.pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, NEWEST_KUBERNETES, strict=True)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl here to run kustomize")
def test_kustomize_builds_the_base():
    done = subprocess.run(["kubectl", "kustomize", str(BASE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = {f"{o['kind']}/{o['metadata']['name']}": o for o in yaml.safe_load_all(done.stdout)}
    assert set(OBJECTS) < set(built)
    secrets = [name for name in built if name.startswith("Secret/lm-join-key")]
    assert len(secrets) == 1
    # kustomize put the secret's real name where agents and proxies look for it
    for name in OURS:
        assert secrets[0].removeprefix("Secret/") in str(built[name])


@pytest.mark.parametrize("name", OURS)
def test_our_pods_have_probes_drain_limits_and_no_root(name):
    pod = PODS[name]
    container = pod["containers"][0]
    paths = {probe: container[probe]["httpGet"]["path"]
             for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/ready", "readinessProbe": "/ready", "livenessProbe": "/health"}
    assert container["lifecycle"]["preStop"]
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert set(container["resources"]) == {"requests", "limits"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


def option(arguments, name):
    return next((a.split("=", 1)[1] for a in arguments if a.startswith(f"--{name}=")), None)


@pytest.mark.parametrize("name", OURS)
def test_nobody_is_killed_before_it_has_drained(name):
    container = PODS[name]["containers"][0]
    pause = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pause[0] == "sleep"
    needed = int(pause[1]) + int(option(container["args"], "drain-timeout"))
    assert PODS[name]["terminationGracePeriodSeconds"] >= needed + 5
    probe = container["readinessProbe"]
    assert int(pause[1]) >= probe["periodSeconds"]  # who balances has heard of it by then


@pytest.mark.parametrize("name", OURS)
def test_secrets_come_from_secrets(name):
    environment = {e["name"]: e for e in PODS[name]["containers"][0]["env"]}
    program = "PROXY" if "proxy" in name else "AGENT"
    for option_name, secret in (("JOIN_KEY", "lm-join-key"), ("SESSION_SECRET", "lm-session-secret")):
        reference = environment[f"LM_{program}_{option_name}"]["valueFrom"]["secretKeyRef"]
        made = yaml.safe_load((BASE / "kustomization.yaml").read_text())["secretGenerator"]
        literals = next(s["literals"] for s in made if s["name"] == secret)
        assert reference["name"] == secret and literals[0].startswith(reference["key"] + "=")


def test_the_proxys_state_file_is_on_a_volume():
    pod = PODS["Deployment/lm-proxy"]
    container = pod["containers"][0]
    path = pathlib.PurePosixPath(option(container["args"], "state-file"))
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    assert mounts[str(path.parent)] in {v["name"] for v in pod["volumes"]}
    proxy = yaml.safe_load(COMPOSE.read_text())["services"]["proxy"]
    path = pathlib.PurePosixPath(option(proxy["command"], "state-file"))
    assert any(v.split(":")[1] == str(path.parent) for v in proxy["volumes"])


def test_services_select_the_pods_and_their_ports():
    labels = {}
    for name, pod in PODS.items():
        template = OBJECTS[name]["spec"]["template"]
        assert OBJECTS[name]["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
        ports = {p["name"] for c in pod["containers"] for p in c.get("ports", [])}
        labels[tuple(sorted(template["metadata"]["labels"].items()))] = ports
    services = [o for o in OBJECTS.values() if o["kind"] == "Service"]
    assert len(services) == 3
    for service in services:
        ports = labels[tuple(sorted(service["spec"]["selector"].items()))]
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= ports


def test_agents_have_stable_names_and_redis_keeps_its_data():
    agent, redis = OBJECTS["StatefulSet/lm-agent"], OBJECTS["StatefulSet/lm-redis"]
    headless = OBJECTS[f"Service/{agent['spec']['serviceName']}"]
    assert headless["spec"]["clusterIP"] == "None"
    assert redis["spec"]["volumeClaimTemplates"]
    assert "--appendonly" in redis["spec"]["template"]["spec"]["containers"][0]["args"]


# ---- compose ----


def test_compose_file_holds_the_cluster():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert {"redis", "proxy", "agent-1", "agent-2"} <= set(services)
    assert "--appendonly" in services["redis"]["command"] and services["redis"]["volumes"]
    for name in ("proxy", "agent-1", "agent-2"):
        environment = services[name]["environment"]
        assert any(key.endswith("_JOIN_KEY") for key in environment)
        assert any(key.endswith("_SESSION_SECRET") for key in environment)
        grace_s = int(services[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s >= int(option(services[name]["command"], "drain-timeout")) + 5
        assert services[name]["read_only"] and services[name]["cap_drop"] == ["ALL"]


def compose_tools():
    tools = [["docker-compose"]] if shutil.which("docker-compose") else []
    if shutil.which("docker"):
        probe = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        tools += [["docker", "compose"]] if probe.returncode == 0 else []
    return tools


@pytest.mark.skipif(not compose_tools(), reason="neither docker-compose nor docker compose here")
def test_compose_tools_accept_the_file():
    for tool in compose_tools():
        done = subprocess.run([*tool, "-f", COMPOSE, "config", "-q"], capture_output=True, text=True,
                              check=False)
        assert done.returncode == 0, (tool, done.stderr)


@pytest.mark.parametrize("name", ["Dockerfile.agent", "Dockerfile.proxy"])
def test_images_have_a_base_to_choose_a_health_check_and_no_root(name):
    lines = (ROOT / "compose" / name).read_text().splitlines()
    assert any(line.startswith("ARG BASE=") for line in lines)
    last_stage = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM ")):]
    assert any(line.startswith("USER ") and "root" not in line for line in last_stage)
    assert any(line.startswith("HEALTHCHECK ") for line in last_stage)
