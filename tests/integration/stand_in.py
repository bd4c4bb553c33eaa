"""docker, kubectl and cmake for the test of a page: what they are told is checked against the files of the tree.

    stand_in.py docker|kubectl|cmake ARGUMENT...

docker run of one of our images runs its command here, with --dry-run, if the image would: without an entry point, and with
the ports that it exposes. Everything else that a page may say must be known here; the rest is an error."""

import json
import os
import pathlib
import re
import subprocess
import sys

import yaml

ROOT = pathlib.Path(os.environ["LM_STAND_IN_ROOT"])
DOCKERFILES = {"lm-agent": "Dockerfile.agent", "lm-agent-cuda": "Dockerfile.agent-cuda", "lm-proxy": "Dockerfile.proxy"}
RUN_FLAGS = {"--rm", "-it", "--init"}
RUN_VALUES = {"--runtime", "--gpus", "-v", "--env", "-e", "-p", "--ipc"}


def need(condition, text):
    if not condition:
        sys.exit(f"stand_in: {text}")


def run_options(arguments):
    """(options with their values, IMAGE and COMMAND) of docker run."""
    options, at = [], 0
    while arguments[at].startswith("-"):
        name, equals, value = arguments[at].partition("=")
        if name in RUN_FLAGS:
            at += 1
            continue
        need(name in RUN_VALUES, f"docker run {name}")
        options.append((name, value if equals else arguments[at + 1]))
        at += 1 if equals else 2
    return options, arguments[at], arguments[at + 1:]


def docker_run(arguments):
    options, image, command = run_options(arguments)
    if image == "openapitools/openapi-generator-cli":
        document = json.loads(pathlib.Path("openapi.json").read_text())
        need(document["openapi"].startswith("3.") and document["paths"], "openapi.json has no paths")
        return 0
    need(image in DOCKERFILES, f"image {image}")
    text = (ROOT / "compose" / DOCKERFILES[image]).read_text()
    stage = text[text.rindex("\nFROM "):]
    need("ENTRYPOINT" not in stage, f"{image} has an entry point")
    exposed = re.findall(r"^EXPOSE (\d+)$", stage, re.M)
    for name, value in options:
        need(name != "-p" or value.split(":")[1] in exposed, f"{image} exposes no {value}")
    return subprocess.run([*command, "--dry-run"], check=False).returncode


def docker(arguments):
    if arguments[0] == "run":
        return docker_run(arguments[1:])
    if arguments[0] == "build":
        need(arguments[1] == "-f" and arguments[3] == "-t" and arguments[5] == ".", "docker build")
        need(DOCKERFILES.get(arguments[4]) == pathlib.Path(arguments[2]).name, f"{arguments[4]} is not built so")
        return 0 if (ROOT / arguments[2]).is_file() else 1
    need(arguments[:2] == ["compose", "-f"] and arguments[3:] == ["up", "--build"], "docker compose")
    text = (ROOT / arguments[2]).read_text()
    for name in ("LM_MODEL", "LM_GPUS", "LM_TP"):
        need(name not in os.environ or "${" + name in text, f"{arguments[2]} knows no {name}")
    need("services" in yaml.safe_load(text), f"{arguments[2]} has no services")
    return 0


def kubectl(arguments):
    if arguments[:2] == ["apply", "-k"]:
        folder = ROOT / arguments[2]
        for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
            need((folder / name).exists(), f"there is no {name}")
        return 0
    need(arguments[:3] == ["create", "secret", "generic"], "kubectl")
    key = re.fullmatch(r"--from-literal=(\w+)=.+", arguments[4]).group(1)
    wanted = f"{{name: {arguments[3]}, key: {key}"
    need(wanted in (ROOT / "k8s/overlays/gpu/agent.yaml").read_text(), f"no pod wants {wanted}")
    return 0


def cmake(arguments):
    if arguments[0] == "--install":
        need(arguments[2] == "--prefix", "cmake --install")
        return subprocess.run(["/usr/bin/env", "-S", f"PATH={os.environ['PATH'].partition(':')[2]}", "cmake", "--install",
                               os.environ["LM_STAND_IN_BUILD"], "--prefix", os.environ["LM_STAND_IN_PREFIX"]],
                              check=False).returncode
    kind = "buildPresets" if arguments[0] == "--build" else "configurePresets"
    presets = json.loads((ROOT / "CMakePresets.json").read_text())
    need(arguments[-2] == "--preset" and arguments[-1] in [p["name"] for p in presets[kind]], "cmake --preset")
    return 0


sys.exit({"docker": docker, "kubectl": kubectl, "cmake": cmake}[sys.argv[1]](sys.argv[2:]))
