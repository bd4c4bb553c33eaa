"""compose/ and k8s/ as files: they parse, Kubernetes knows every field, and they hold what a deployment
must have. scripts/check-containers runs them."""

import copy
import pathlib
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE = ROOT / "k8s/base"
GPU = ROOT / "k8s/overlays/gpu"
COMPOSE = ROOT / "compose/compose.yaml"
COMPOSE_GPU = ROOT / "compose/compose.gpu.yaml"
OLDEST_KUBERNETES, NEWEST_KUBERNETES = "1.22.0", "1.32.0"


def objects():
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    for name in kustomization["resources"]:
        yield from yaml.safe_load_all((BASE / name).read_text())


# How kustomize finds the entry of a list that a patch means. Lists of other things are replaced.
MERGE_KEYS = {"containers": "name", "initContainers": "name", "env": "name", "volumes": "name",
              "ports": "containerPort", "volumeMounts": "mountPath"}


def merged(base, patch, name=""):
    """A strategic merge patch, as far as ours need it."""
    if isinstance(base, dict) and isinstance(patch, dict):
        new = {key: merged(base[key], value, key) if key in base else value for key, value in patch.items()}
        return {**base, **new}
    key = MERGE_KEYS.get(name)
    if not key or not isinstance(base, list):
        return patch
    changes = {entry[key]: entry for entry in patch}
    kept = [merged(entry, changes.pop(entry[key], {})) for entry in base]
    return [entry for entry in [*kept, *changes.values()] if entry.get("$patch") != "delete"]


def overlaid(objects_of_base, folder):
    """The base's objects that the overlay changes, changed."""
    for patch in yaml.safe_load((folder / "kustomization.yaml").read_text())["patches"]:
        for change in yaml.safe_load_all((folder / patch["path"]).read_text()):
            name = f"{change['kind']}/{change['metadata']['name']}"
            yield name, merged(objects_of_base[name], change)


OBJECTS = {f"{o['kind']}/{o['metadata']['name']}": o for o in objects()}
BASE_NAMES = set(OBJECTS)
OBJECTS.update({f"gpu {name}": o for name, o in overlaid(OBJECTS, GPU)})
PODS = {name: o["spec"]["template"]["spec"] for name, o in OBJECTS.items() if "template" in o["spec"]}
GPU_AGENT = "gpu StatefulSet/lm-agent"
OURS = ["StatefulSet/lm-agent", "Deployment/lm-proxy", GPU_AGENT]
COMPOSE_FILES = {"cpu": COMPOSE, "gpu": COMPOSE_GPU}


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


def kustomize(folder):
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {f"{o['kind']}/{o['metadata']['name']}": o for o in yaml.safe_load_all(done.stdout)}


needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl here to run kustomize")


@needs_kubectl
@pytest.mark.parametrize("folder", [BASE, GPU], ids=["base", "gpu"])
def test_kustomize_builds(folder):
    built = kustomize(folder)
    assert BASE_NAMES < set(built)
    secrets = [name for name in built if name.startswith("Secret/lm-join-key")]
    assert len(secrets) == 1
    # kustomize put the secret's real name where agents and proxies look for it
    for name in BASE_NAMES & set(OURS):
        assert secrets[0].removeprefix("Secret/") in str(built[name])


def without_secret_names(value):
    text = re.sub(r"(lm-(join-key|session-secret))-[0-9a-z]{10}\b", r"\1", yaml.safe_dump(value, sort_keys=True))
    value = yaml.safe_load(text)
    pod = value["spec"]["template"]["spec"]
    pod["initContainers"] = pod.get("initContainers") or []
    for container in pod["containers"]:
        container["env"].sort(key=lambda entry: entry["name"])
    return value


@needs_kubectl
def test_the_merge_here_is_kustomizes():
    """What the other tests look at is what is applied."""
    built = kustomize(GPU)["StatefulSet/lm-agent"]
    assert without_secret_names(OBJECTS[GPU_AGENT]) == without_secret_names(built)


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


def test_a_gpu_agent_has_what_it_needs():
    agent = OBJECTS[GPU_AGENT]
    pod = PODS[GPU_AGENT]
    container = pod["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(option(container["args"], "tp"))
    assert not pod["initContainers"]  # which would fetch the small model
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 3600
    mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
    volumes = {v["name"]: v for v in pod["volumes"]}
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
    environment = {e["name"]: e.get("value") for e in container["env"]}
    weights = mounts[environment["HF_HOME"]]
    assert not weights.get("readOnly")  # they are downloaded to it
    assert weights["name"] in {c["metadata"]["name"] for c in agent["spec"]["volumeClaimTemplates"]}
    # Everything else that is written lies on a volume, too: the root is read-only.
    assert environment["CUDA_CACHE_PATH"].startswith("/tmp/") and "/tmp" in mounts


def known_options(program):
    """What docs/flags.md, which a test compares with --help-markdown, has of the program."""
    table = (ROOT / "docs/flags.md").read_text().split(f"<!-- options:{program} -->")[1].split("<!-- /options -->")[0]
    return set(re.findall(r"^\| `--(?:\[no-\])?([\w-]+)", table, re.M))


def our_command_lines():
    for name in OURS:
        container = PODS[name]["containers"][0]
        yield name, "lm-proxy" if "proxy" in name else "lm-agent", container["args"]
    for kind, path in COMPOSE_FILES.items():
        for name, service in yaml.safe_load(path.read_text())["services"].items():
            image = service.get("image", "")
            if image.startswith(("lm-agent", "lm-proxy")):
                yield f"{kind} {name}", image.removesuffix("-cuda"), service["command"]


COMMAND_LINES = {name: rest for name, *rest in our_command_lines()}


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_options_exist(name):
    program, arguments = COMMAND_LINES[name]
    used = {a[2:].split("=")[0] for a in arguments if a.startswith("--")}
    assert used and used <= known_options(program)


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


AGENTS = {"cpu": ["agent-1", "agent-2"], "gpu": ["agents"]}
LAUNCHER_KILLS_AFTER_S = 30  # KILL_AFTER_MS of agent/launcher.c


@pytest.mark.parametrize("kind", COMPOSE_FILES)
def test_compose_file_holds_the_cluster(kind):
    services = yaml.safe_load(COMPOSE_FILES[kind].read_text())["services"]
    assert {"redis", "proxy", *AGENTS[kind]} <= set(services)
    assert "--appendonly" in services["redis"]["command"] and services["redis"]["volumes"]
    for name in ("proxy", *AGENTS[kind]):
        environment = services[name]["environment"]
        assert any(key.endswith("_JOIN_KEY") for key in environment)
        assert any(key.endswith("_SESSION_SECRET") for key in environment)
        grace_s = int(services[name]["stop_grace_period"].removesuffix("s"))
        has_launcher = option(services[name]["command"], "gpus") is not None
        needed_s = int(option(services[name]["command"], "drain-timeout")) + has_launcher * LAUNCHER_KILLS_AFTER_S
        assert grace_s >= needed_s + 5
        assert services[name]["read_only"] and services[name]["cap_drop"] == ["ALL"]


def test_compose_gives_agents_the_gpus():
    agents = yaml.safe_load(COMPOSE_GPU.read_text())["services"]["agents"]
    (device,) = agents["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and "gpu" in device["capabilities"]
    assert agents["shm_size"] and agents["init"] and agents["user"] != "0"
    volumes = {v.split(":")[1]: v for v in agents["volumes"]}
    assert not volumes[agents["environment"]["HF_HOME"]].endswith(":ro")
    assert "/tmp" in agents["tmpfs"] and agents["environment"]["CUDA_CACHE_PATH"].startswith("/tmp/")


@pytest.mark.parametrize("kind", COMPOSE_FILES)
def test_compose_builds_from_what_is_there(kind):
    for service in yaml.safe_load(COMPOSE_FILES[kind].read_text())["services"].values():
        build = service.get("build")
        if build:
            dockerfile = (ROOT / build["dockerfile"]).read_text()
            stages = re.findall(r"^FROM .* AS (\w+)$", dockerfile, re.M)
            assert build.get("target", stages[-1]) in stages
            assert set(build["args"]) <= set(re.findall(r"^ARG (\w+)", dockerfile, re.M))


def compose_tools():
    tools = [["docker-compose"]] if shutil.which("docker-compose") else []
    if shutil.which("docker"):
        probe = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        tools += [["docker", "compose"]] if probe.returncode == 0 else []
    return tools


@pytest.mark.skipif(not compose_tools(), reason="neither docker-compose nor docker compose here")
@pytest.mark.parametrize("kind", COMPOSE_FILES)
def test_builds_can_ask_a_mirror_of_pypi(kind):
    """Swagger UI comes from there while an image is built."""
    for service in yaml.safe_load(COMPOSE_FILES[kind].read_text())["services"].values():
        build = service.get("build", {})
        if not build or build.get("target") == "fetch":
            continue
        assert "PIP_INDEX_URL" in build["args"]
        assert "\nARG PIP_INDEX_URL\n" in (ROOT / build["dockerfile"]).read_text().split(" AS build\n")[1].split("\nFROM ")[0]


@pytest.mark.parametrize("path", COMPOSE_FILES.values(), ids=COMPOSE_FILES)
def test_compose_tools_accept_the_file(path):
    for tool in compose_tools():
        done = subprocess.run([*tool, "-f", path, "config", "-q"], capture_output=True, text=True,
                              check=False)
        assert done.returncode == 0, (tool, done.stderr)


@pytest.mark.parametrize("name", OURS)
def test_pods_name_their_program(name):
    """No image has an entry point, so that `docker run IMAGE lmdeploy ...` works."""
    assert PODS[name]["containers"][0]["command"] == [name.split("/")[-1]]


@pytest.mark.parametrize("kind", COMPOSE_FILES)
def test_services_name_their_program(kind):
    for service in yaml.safe_load(COMPOSE_FILES[kind].read_text())["services"].values():
        image = service.get("image", "")
        if image.startswith(("lm-agent", "lm-proxy")):
            assert service["command"][0] == image.removesuffix("-cuda")


@pytest.mark.parametrize("name", ["Dockerfile.agent", "Dockerfile.agent-cuda", "Dockerfile.proxy"])
def test_images_run_lmdeploys_command(name):
    text = (ROOT / "compose" / name).read_text()
    last_stage = text[text.rindex("\nFROM "):]
    assert "ENTRYPOINT" not in last_stage and "\nCMD [" in last_stage
    assert "/lmdeploy" in text and "lm-client" in text


@pytest.mark.parametrize("name", ["Dockerfile.agent", "Dockerfile.proxy"])
def test_images_have_a_base_to_choose_a_health_check_and_no_root(name):
    lines = (ROOT / "compose" / name).read_text().splitlines()
    assert any(line.startswith("ARG BASE=") for line in lines)
    last_stage = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM ")):]
    assert any(line.startswith("USER ") and "root" not in line for line in last_stage)
    assert any(line.startswith("HEALTHCHECK ") for line in last_stage)


def test_the_cuda_image():
    """Run as LMDeploy's is: docker run --gpus all -v (the cache):(root's cache) IMAGE lm-agent ..."""
    text = (ROOT / "compose/Dockerfile.agent-cuda").read_text()
    lines = text.splitlines()
    assert "ARG BUILD_IMAGE=nvidia/cuda:${CUDA}-devel-${SYSTEM}" in lines
    assert "ARG RUNTIME_IMAGE=nvidia/cuda:${CUDA}-runtime-${SYSTEM}" in lines
    stages = re.findall(r"^FROM (\S+) AS (\w+)$", text, re.M)
    assert stages[-1] == ("${RUNTIME_IMAGE}", "agent") and ("${BUILD_IMAGE}", "build") in stages
    names = [name for _, name in stages]
    for at, (stage, source) in enumerate(re.findall(r"^FROM .* AS (\w+)|^COPY --from=(\w+)", text, re.M)):
        assert stage or source in names, at
    last_stage = "\n".join(lines[max(i for i, line in enumerate(lines) if line.startswith("FROM ")):])
    assert "\nHEALTHCHECK " in last_stage
    assert "USER" not in last_stage  # root's cache
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in last_stage
