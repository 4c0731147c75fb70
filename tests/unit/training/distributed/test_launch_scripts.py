"""Every place to run, without running there: what scripts would start, what they refuse, the manifest, the image."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from harness import ROOT

from warmup.training.distributed import environment
from warmup.training.glue import tasks as glue_tasks

LAUNCH, ACCELERATE, TRAIN = ROOT / "launch", ROOT / "configs" / "accelerate", str(ROOT / "train.py")
OURS = (
    "OMP_NUM_THREADS",
    "GLOO_SOCKET_IFNAME",
    "ACCELERATE_USE_CPU",
    "CUDA_VISIBLE_DEVICES",
    "DS_ACCELERATOR",
    "PYTORCH_CUDA_ALLOC_CONF",
    "WARMUP_TRACEBACK",
)


@pytest.fixture
def run(tmp_path: Path):
    """Runs a command in a machine of 4 GPUs, of which nothing is started: an accelerate that would be seen is there."""
    (tmp_path / "bin").mkdir()
    for name, text in (("nvidia-smi", "printf 'GPU %s: H\\n' 0 1 2 3"), ("accelerate", "touch started")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    def call(*command: object, **env: str) -> subprocess.CompletedProcess[str]:
        variables = {name: value for name, value in os.environ.items() if name not in OURS}
        path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables |= {"PATH": path, "WARMUP_DRY_RUN": "1", **env}
        words = [str(word) for word in command]
        ended = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60)
        assert sorted(one.name for one in tmp_path.iterdir()) == ["bin"]  # neither a start nor a trace
        return ended

    return call


def printed(ended: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """The commands, in words as a shell would read them."""
    assert (ended.returncode, ended.stderr) == (0, "")
    return [shlex.split(line) for line in ended.stdout.splitlines()]


def options(words: list[str]) -> dict[str, str]:
    return {name: value for name, value in zip(words, words[1:]) if name.startswith("--")}


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda script: script.name)
def test_a_script_explains_itself(script: Path, run) -> None:
    if script.stem in ("environment", "functions"):  # which are sourced
        return
    ended = run("bash", script, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search(rf"^Usage:  \w+ .*launch/{script.name}", ended.stdout, re.MULTILINE), ended.stdout
    assert "set -" not in ended.stdout and ended.stdout == run("bash", script, "-h").stdout


def test_what_train_is_told_of_its_start(run, tmp_path: Path) -> None:
    """A launcher that prints it stands in for Accelerate's."""
    (tmp_path / "bin" / "accelerate").write_text('#!/bin/sh\nprintf "%s\\n" "$WARMUP_COMMAND"\n')
    machines = ("--machines", 2, "--rank", 0, "--main", "a:1", "--cpu", 3)
    two = ("--config_file", ACCELERATE / "cpu_2.yaml", TRAIN)
    for script, given in (
        ("cpu", (3,)),
        ("gpus", (2,)),
        ("deepspeed", (1, "--cpu", 2)),
        ("machines", machines),
        ("run", two),
    ):
        ended = run("bash", LAUNCH / f"{script}.sh", *given, "--seed", "1", WARMUP_DRY_RUN="")
        assert ended.stdout.strip() == " ".join(map(str, ("bash", LAUNCH / f"{script}.sh", *given))), ended.stderr


def test_ranks_on_this_machines_cpu(run) -> None:
    cpu_2 = str(ACCELERATE / "cpu_2.yaml")
    (words,) = printed(run("bash", LAUNCH / "cpu.sh", 3, "--data.text_column", "a b'c", OMP_NUM_THREADS="5"))
    assert words == [
        *("ACCELERATE_USE_CPU=true", "GLOO_SOCKET_IFNAME=lo", "OMP_NUM_THREADS=5"),
        *("accelerate", "launch", "--config_file", cpu_2, "--num_processes", "3", TRAIN),
        *("--launch.world_size", "3", "--launch.device", "cpu", "--data.text_column", "a b'c"),
    ]
    (words,) = printed(run("bash", LAUNCH / "cpu.sh", 1))
    assert "--cpu" in words


PAGE_FAULTS = """
import resource
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (3 << 20, 13 << 20, 48 << 20):  # of a micro-batch's activations, and of a gradient of the vocabulary
        b"x" * size
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""


def test_ranks_on_cpus_keep_memory_that_is_freed() -> None:
    """Blocks of any size. The first time, all of the largest block's 12,288 pages are new."""
    exports = [line for line in (LAUNCH / "cpu.sh").read_text().splitlines() if line.startswith("export MALLOC_")]
    command = ["bash", "-c", "\n".join([*exports, 'exec "$@"']), "bash", sys.executable, "-c", PAGE_FAULTS]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    first, second = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()
    assert int(first) > 10_000 and int(second) < 100


def test_gpus_of_this_machine(run) -> None:
    for given, ranks, config in (((), "4", "multi_gpu"), ((2,), "2", "multi_gpu"), ((1,), "1", "one_gpu")):
        (words,) = printed(run("bash", LAUNCH / "gpus.sh", *given, "--task", "mlm"))
        assert options(words)["--config_file"] == str(ACCELERATE / f"{config}.yaml")
        assert options(words)["--launch.world_size"] == ranks and options(words)["--launch.device"] == "cuda"
        assert "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in words
        assert words[-2:] == ["--task", "mlm"] and "ACCELERATE_USE_CPU=true" not in words


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("1,3", 2),
        ("0, 1,2", 3),
        ("2", 1),
        ("0,-1,2", 1),
        ("1,9", 1),
        ("GPU-5a,GPU-5b", 2),
        ("", 0),
        ("-1", 0),
        ("9", 0),
    ],
)
def test_all_scripts_count_the_gpus_that_cuda_would_show(visible: str, found: int, run) -> None:
    """Of 4: CUDA's own rule for CUDA_VISIBLE_DEVICES stops at the first entry that names no GPU."""
    ended = run("bash", LAUNCH / "gpus.sh", "--count", CUDA_VISIBLE_DEVICES=visible)
    assert (ended.returncode, ended.stdout) == ((0, f"{found}\n") if found else (2, ""))
    elastic = run("bash", LAUNCH / "elastic.sh", "gpus", "1:8", CUDA_VISIBLE_DEVICES=visible)
    quickstart = run("bash", LAUNCH / "quickstart.sh", CUDA_VISIBLE_DEVICES=visible)
    first = next(words for words in printed(quickstart) if words[0] != "==")
    if not found:  # the one says so, the other goes on without
        assert elastic.returncode == 2 and "shows no GPU" in elastic.stderr
        assert options(first)["--launch.device"] == "cpu" and options(first)["--num_processes"] == "2"
        return
    (words,) = printed(elastic)
    for each in (words, first):
        assert options(each)["--launch.device"] == "cuda" and options(each)["--launch.world_size"] == str(found)


def test_the_glue_suite(run) -> None:
    """A training for each task, on one GPU at a time or on CPU ranks; the scripts count GPUs in the same way."""
    argv = (LAUNCH / "glue.sh", "hub", "--model", "bert", "--seeds", "4,5", "--recipe.lr", "3e-5")
    commands = printed(run("bash", *argv))
    assert sorted(Path(options(words)["--run_dir"]).name for words in commands) == sorted(glue_tasks.TASKS)
    for words in commands:
        given, name = options(words), Path(options(words)["--run_dir"]).name
        assert (given["--config_file"], given["--launch.world_size"]) == (str(ACCELERATE / "one_gpu.yaml"), "1")
        assert (given["--seeds"], given["--resume"], given["--recipe.lr"]) == ("4,5", "auto", "3e-5")
        assert given["--task"] == ("regression" if name == "stsb" else "classification")
        assert given["--run_dir"] == f"runs/glue-bert/{name}"
    (words,) = printed(run("bash", *argv, "--tasks", "MNLI", "--ranks", 3, CUDA_VISIBLE_DEVICES=""))
    assert (options(words)["--launch.device"], options(words)["--launch.world_size"]) == ("cpu", "3")
    held_out = options(words)["--data.validation_files"]
    assert held_out == "runs/glue-bert/data/mnli/validation_matched.jsonl"
    for given, message in (
        ((), "the first argument is neither hub nor the folder of GLUE's folders"),
        (("nowhere", "--model", "bert"), "nowhere is neither hub nor the folder of GLUE's folders"),
        (("hub",), "--model: name the model to fine-tune"),
        (("hub", "--model", "bert", "--ranks", "two"), "--ranks: 'two', but it takes a number of CPU ranks"),
    ):
        ended = run("bash", LAUNCH / "glue.sh", *given)
        assert ended.returncode == 2 and ended.stderr.startswith(f"error: {message}"), ended.stderr


def test_deepspeed_on_gpus_and_on_cpu_ranks(run) -> None:
    for stage, given, ranks, name in (
        ("2", (), "4", "deepspeed_zero2.yaml"),
        ("3", (2,), "2", "deepspeed_zero3.yaml"),
        ("1", ("--cpu", 3), "3", "deepspeed_zero1_cpu.yaml"),
    ):
        (words,) = printed(run("bash", LAUNCH / "deepspeed.sh", stage, *given, "--task", "mlm"))
        assert options(words)["--config_file"] == str(ACCELERATE / name)
        assert options(words)["--num_processes"] == options(words)["--launch.world_size"] == ranks
        assert options(words)["--launch.device"] == ("cpu" if "--cpu" in given else "cuda")
        assert ("DS_ACCELERATOR=cpu" in words) == ("--cpu" in given) and words[-2:] == ["--task", "mlm"]
        content = yaml.safe_load((ACCELERATE / name).read_text())
        assert content["distributed_type"] == "DEEPSPEED"
        assert content["deepspeed_config"]["zero_stage"] == int(stage)
        assert not content["use_cpu"]  # with it Accelerate leaves DeepSpeed out
    for given, message in ((("4",), "give the stage first"), (("2", "--cpu", "many"), "--cpu: 'many' is not a number")):
        ended = run("bash", LAUNCH / "deepspeed.sh", *given)
        assert ended.returncode == 2 and ended.stderr.startswith(f"error: {message}")


def test_the_first_attempt_of_the_elastic_script(run) -> None:
    (words,) = printed(run("bash", LAUNCH / "elastic.sh", "gpus", "1:3", "--run_dir", "mine"))
    assert options(words)["--num_processes"] == "3"
    assert words[words.index("--resume") :] == ["--resume", "auto", "--run_dir", "mine"]


def test_a_run_directory_of_the_yaml_file_is_kept(run, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It is not replaced by a new one, so that the same command continues."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "named.yaml").write_text("run_dir: runs/my own\n")
    (folder / "unnamed.yaml").write_text("seed: 3\n")
    named, unnamed = ("--config", str(folder / "named.yaml")), ("--config", str(folder / "unnamed.yaml"))
    for script, more in ((("elastic.sh", "cpu", "1:2"), {}), (("slurm.sh",), {"SLURM_SUBMIT_DIR": str(ROOT)})):
        place = ("--cpu", 2) if script == ("slurm.sh",) else ()
        for given, added in (
            (named, False),
            ((*named, "--config", str(folder / "unnamed.yaml")), False),
            ((*unnamed, "--run-dir=mine"), False),
            (unnamed, True),
            ((*named, "--run_dir", "null"), True),
        ):
            (words,) = printed(run("bash", LAUNCH / script[0], *script[1:], *place, *given, **more))
            default = re.fullmatch(r"runs/(elastic|slurm)-\w+", options(words).get("--run_dir", ""))
            assert bool(default) == added, words


def test_the_three_runs_of_the_quickstart(run) -> None:
    commands = printed(run("bash", LAUNCH / "quickstart.sh", "--seed", 1))
    commands = [words for words in commands if words[0] != "=="]
    assert [Path(options(words)["--run_dir"]).name for words in commands] == ["pretrain", "finetune", "from_scratch"]
    assert {tuple(words[-2:]) for words in commands} == {("--seed", "1")}
    asked = run("bash", LAUNCH / "quickstart.sh", "--dry_run", "--seed", 1, WARMUP_DRY_RUN="")
    assert [words[:4] for words in printed(asked) if words[0] != "=="] == [words[:4] for words in commands]


def test_a_dry_run_prints_the_command_and_the_plan(run, classification: tuple[str, ...]) -> None:
    ended = run("bash", LAUNCH / "cpu.sh", 3, *classification, "--dry-run", WARMUP_DRY_RUN="")
    command, *plan = ended.stdout.splitlines()
    assert ended.returncode == 0, ended.stderr
    assert shlex.split(command)[-1] == "--dry-run" and "accelerate launch" in command
    assert "3 ranks x 1 micro-batch x 32 samples" in plan[0] and plan[-1].startswith("dry run: nothing was trained")


def test_without_an_environment_it_says_how_to_get_one(tmp_path: Path) -> None:
    if (ROOT / ".venv").exists():
        pytest.skip("the repository has an environment")
    ended = subprocess.run(
        ["bash", LAUNCH / "cpu.sh", "1"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert ended.returncode == 2 and ended.stderr.startswith("error: accelerate is not installed here;")


def test_several_machines(run) -> None:
    script = (LAUNCH / "machines.sh", "--machines", 3, "--rank", 2, "--main", "node0:29500")
    for given, ranks, device in ((("--cpu", 2), 2, "cpu"), ((), 4, "cuda"), (("--gpus", 3, "--"), 3, "cuda")):
        (words,) = printed(run("bash", *script, *given, "--task", "mlm"))
        config = "cpu_2.yaml" if device == "cpu" else "multi_gpu.yaml"
        start = words.index("accelerate")
        assert words[start:] == [
            *("accelerate", "launch", "--config_file", str(ACCELERATE / config)),
            *("--num_machines", "3", "--machine_rank", "2", "--same_network"),
            *("--main_process_ip", "node0", "--main_process_port", "29500", "--num_processes", str(3 * ranks), TRAIN),
            *("--launch.world_size", str(3 * ranks), "--launch.device", device, "--task", "mlm"),
        ]
        assert ("ACCELERATE_USE_CPU=true" in words[:start]) == (device == "cpu")
        assert not [word for word in words if word.startswith("GLOO_SOCKET_IFNAME")]  # lo would reach no other machine


def test_one_of_several_machines_is_this_one(run) -> None:
    one = run("bash", LAUNCH / "machines.sh", "--machines", 1, "--rank", 0, "--main", "a:1", "--cpu", 2, "--seed", 1)
    assert printed(one) == printed(run("bash", LAUNCH / "cpu.sh", 2, "--seed", 1))


@pytest.mark.parametrize(("words", "message"), [
    ("", "--machines: '' is not a number of machines, such as 2"),
    ("--machines 0 --rank 0 --main a:1", "--machines: '0' is not a number of machines, such as 2"),
    ("--machines 2 --main a:1", "--rank: '' is not this machine's number, from 0 to 1"),
    ("--machines 2 --rank 2 --main a:1", "--rank: '2' is not this machine's number, from 0 to 1"),
    ("--machines 2 --rank 1 --main a", "--main: 'a' is not HOST:PORT of machine 0, such as node0:29500"),
    ("--machines 2 --rank", "--rank: a value is missing"),
    ("--machines 2 --rank 1 --main a:1 --cpu x", "--cpu: 'x' is not a number of ranks, 1 or above"),
    ("--machines 2 --rank 1 --main a:1 --cpu 0", "--cpu: '0' is not a number of ranks, 1 or above"),
    ("--machines 2 --rank 1 --main a:1 --cpu 1 --gpus 2", "--cpu and --gpus: give one, once"),
    ("--machines 2 --rank 1 --main a:1 --gpus 5", "5 GPUs asked for, 4 found"),
])  # fmt: skip
def test_what_machines_refuses(words: str, message: str, run) -> None:
    ended = run("bash", LAUNCH / "machines.sh", *words.split())
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"error: {message}\n")


def test_a_slurm_job_that_is_not_submitted(run) -> None:
    (words,) = printed(run("bash", LAUNCH / "slurm.sh", "--cpu", 1, "--run-dir=mine", SLURM_SUBMIT_DIR=str(ROOT)))
    assert words[:3] == ["srun", "--nodes=2", "--ntasks=2"]
    assert words[-4:] == ["1", "--run-dir=mine", "--resume", "auto"] and "--run_dir" not in words
    (each,) = printed(run(*words[words.index("bash") :], SLURM_NODEID="1"))  # what a node would run of it
    assert options(each)["--machine_rank"] == "1" and options(each)["--num_machines"] == "2"
    (words,) = printed(run("bash", LAUNCH / "slurm.sh", "--seed", 1, SLURM_SUBMIT_DIR=str(ROOT)))
    assert words[-6:] == ["--seed", "1", "--run_dir", "runs/slurm-0", "--resume", "auto"]


@pytest.mark.parametrize(
    ("given", "launched", "ranks", "threads"),
    [
        ("3", False, 1, 3),
        ("1", False, 1, 1),
        ("3", False, 4, 3),
        ("1", True, 4, 1),
        ("1", False, 4, 2),  # torchrun's own
        ("", False, 4, 2),
        ("4,2", False, 16, 1),
    ],
)
def test_threads_are_those_that_were_asked_for(
    given: str, launched: bool, ranks: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each rank on 8 cores; the launch scripts name their command."""
    monkeypatch.setattr(environment, "available_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.delenv("WARMUP_COMMAND", raising=False)
    if launched:
        monkeypatch.setenv("WARMUP_COMMAND", "bash launch/cpu.sh 4")
    assert environment.threads_per_rank(ranks) == threads


def test_the_cores_that_a_scheduler_gave(tmp_path: Path) -> None:
    """One of them: one thread, however many the machine has."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs a machine of 2 cores")
    code = (
        "import os; os.environ.pop('OMP_NUM_THREADS', None); os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    )
    code += "from warmup.training.distributed import launch; launch.start_accelerator(1, 'cpu', 60, ())\n"
    code += "import torch; print('threads', torch.get_num_threads())"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "threads 1\n" in ended.stdout, ended.stderr


# Kubernetes

SERVICE, CLAIM, JOB = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
POD = JOB["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


PYTHON = """#!/bin/sh
case "$*" in
*urllib*) if [ -n "$ANSWERS" ]; then exit "$ANSWERS"; fi ;;
*"-m pip"*) echo "index ${PIP_EXTRA_INDEX_URL:-none}" >&2; exit 1 ;;
esac
exec PYTHON "$@"
"""


@pytest.fixture
def install(tmp_path: Path):
    """What index pip would be given by environment.sh: a Python that only says so is in the environment."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON.replace("exec PYTHON", f"exec {sys.executable}"))
    (tmp_path / "bin" / "python").chmod(0o755)

    def call(gpus: int, driver: str = "580.65.06", **env: str) -> str:
        smi = f'#!/bin/sh\nif [ "$1" != -L ]; then echo {driver}; exit; fi\n' + "echo GPU 0\n" * gpus
        (tmp_path / "bin" / "nvidia-smi").write_text(smi)
        (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
        known = {name: value for name, value in os.environ.items() if name != "PIP_EXTRA_INDEX_URL"}
        known |= {"VIRTUAL_ENV": str(tmp_path), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **env}
        command = ["bash", "-c", f". {LAUNCH}/environment.sh"]
        ended = subprocess.run(command, env=known, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 1
        warned = "warning: " in ended.stderr
        assert warned == (driver < "580" and "PIP_EXTRA_INDEX_URL" not in env)
        assert not warned or f"has {driver}; for a build for CUDA 12.6, set PIP_EXTRA_INDEX_URL=https" in ended.stderr
        return re.search(r"^index (\S+)$", ended.stderr, re.MULTILINE)[1]

    return call


def test_a_machine_without_a_gpu_gets_pytorchs_cpu_build(install) -> None:
    assert install(0, ANSWERS="0") == "https://download.pytorch.org/whl/cpu"
    assert install(1, ANSWERS="0") == "none"
    assert install(0, ANSWERS="1") == "none"
    assert install(0, ANSWERS="0", PIP_EXTRA_INDEX_URL="https://own") == "https://own"


def test_an_old_driver_is_told_which_index_has_a_build_for_it(install) -> None:
    """Before gigabytes are downloaded that would see no GPU."""
    assert install(1, driver="570.211.01", ANSWERS="0") == "none"
    assert install(1, driver="570.211.01", PIP_EXTRA_INDEX_URL="https://own") == "https://own"


def test_an_index_that_does_not_answer_costs_two_seconds(install) -> None:
    """Of a proxy that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        assert install(0, https_proxy=f"http://127.0.0.1:{silent.getsockname()[1]}") == "none"
    assert time.monotonic() - began < 5  # 2 s, and the rest of the script


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_the_manifest_is_valid(version: str) -> None:
    for document in (SERVICE, CLAIM, JOB):
        kubernetes_validate.validate(document, version, strict=True)
    broken = {**JOB, "spec": {**JOB["spec"], "podFailurePolicies": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


def test_the_manifests_names_fit() -> None:
    spec, env = JOB["spec"], {one["name"]: one.get("value") for one in CONTAINER["env"]}
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(env["MACHINES"])
    assert SERVICE["spec"]["clusterIP"] == "None" and SERVICE["spec"]["publishNotReadyAddresses"] is True
    assert SERVICE["spec"]["selector"] == {"job-name": JOB["metadata"]["name"]}
    assert POD["subdomain"] == SERVICE["metadata"]["name"]
    claims = {one["name"]: one.get("persistentVolumeClaim", {}).get("claimName") for one in POD["volumes"]}
    mounts = {one["mountPath"]: claims[one["name"]] for one in CONTAINER["volumeMounts"]}
    assert mounts == {"/shared": CLAIM["metadata"]["name"], "/dev/shm": None}
    assert env["WARMUP_CACHE"].startswith("/shared/")


def test_the_manifests_answer_to_each_exit_code() -> None:
    """2 fails the Job, 75 and evictions do not count, everything else counts, up to a limit."""
    rules = JOB["spec"]["podFailurePolicy"]["rules"]
    codes = {code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", [])}
    assert codes == {2: "FailJob", 75: "Ignore"}
    assert {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule} == {CONTAINER["name"]}
    assert [rule["onPodConditions"] for rule in rules if "onPodConditions" in rule] == [
        [{"type": "DisruptionTarget", "status": "True"}]
    ]
    assert POD["restartPolicy"] == "Never" and JOB["spec"]["podReplacementPolicy"] == "Failed"
    assert JOB["spec"]["backoffLimitPerIndex"] > 0 and JOB["spec"]["maxFailedIndexes"] == 0


def test_what_a_pod_runs(run) -> None:
    command = CONTAINER["command"][:-1] + [f"cd {ROOT} && {CONTAINER['command'][-1]}"]
    (words,) = printed(run(*command, MACHINES="2", JOB_COMPLETION_INDEX="1"))
    found = options(words)
    assert (found["--num_machines"], found["--machine_rank"], found["--num_processes"]) == ("2", "1", "8")
    service, job = SERVICE["metadata"]["name"], JOB["metadata"]["name"]
    assert (found["--main_process_ip"], found["--main_process_port"]) == (f"{job}-0.{service}", "29500")
    assert found["--run_dir"].startswith("/shared/") and found["--resume"] == "auto"


def test_the_image_has_what_the_scripts_need(run, tmp_path_factory: pytest.TempPathFactory) -> None:
    recipe = (LAUNCH / "Dockerfile").read_text()
    image = tmp_path_factory.mktemp("image")
    for line in re.findall(r"^COPY (.*)$", recipe, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            path = ROOT / source
            if path.is_dir():
                shutil.copytree(path, image / target)
            else:
                shutil.copy(path, image / target)
    assert "pip install --no-cache-dir -c constraints.txt -e ." in recipe
    setup = image / "setup.cfg", image / "pyproject.toml"
    assert all(path.is_file() for path in (*setup, image / "constraints.txt", image / "README.md"))
    (words,) = printed(run("bash", image / "launch" / "cpu.sh", 2))
    assert str(image / "train.py") in words and Path(options(words)["--config_file"]).is_file()
    command = [sys.executable, image / "train.py", "--print_config"]
    ended = subprocess.run(command, cwd=image, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0 and "reference_batch_size" in ended.stdout, ended.stderr
