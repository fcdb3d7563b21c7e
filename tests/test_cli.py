"""The options of all commands, and the commands that answer from WordNet alone, as a user runs them."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import click
import pytest

from imagenet_sd.cli import app
from imagenet_sd.core import layout
from imagenet_sd.core.errors import control_character
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.storage.dataset import Dataset
from tests.conftest import CliRun


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_prompts_of_imagenet_100(cli: CliRun):
    done = cli("prompts", "--classes", "imagenet-100", "--prompt", "c_dc", "--format", "jsonl")
    rows = lines(done.stdout)
    assert done.returncode == 0 and len(rows) == 100
    assert {"wnid", "class_index", "template", "text", "num_tokens"} <= set(rows[0])
    assert [row["class_index"] for row in rows] == list(range(100))
    papillon = next(row for row in rows if row["wnid"] == "n02086910")
    assert papillon["text"] == (
        "papillon, small slender toy spaniel with erect ears and a black-spotted brown to white coat"
    )
    from open_clip.tokenizer import SimpleTokenizer

    assert papillon["template"] == "c_dc"
    assert papillon["num_tokens"] == len(SimpleTokenizer().encode(papillon["text"])) + 2


def test_365_images_of_a_class_have_365_backgrounds(tmp_path: Path, cli: CliRun):
    (tmp_path / "one.txt").write_text("n02086910\n")
    arguments = ["prompts", "--classes", tmp_path / "one.txt", "--prompt", "c_hc_b", "--images-per-class", 365]
    rows = lines(cli(*arguments, "--format", "jsonl").stdout)
    assert len(rows) == 365
    assert len({row["background"] for row in rows}) == 365
    assert all(row["text"] == f"papillon, toy spaniel inside {row['background']}" for row in rows)
    assert len(cli(*arguments, "--limit", 7).stdout.splitlines()) == 7


def test_classes_shows_lint(cli: CliRun):
    done = cli("classes", "--classes", "imagenet-1k", "--format", "json")
    by_wnid = {row["wnid"]: row for row in json.loads(done.stdout)}
    assert by_wnid["n02012849"]["warnings"][0]["code"] == "shared-name"
    table = cli("classes", "--classes", "imagenet-1k")
    assert "n02086910  papillon (toy spaniel): small slender" in table.stdout
    assert "warning: n02012849 shared-name" in table.stderr


def test_a_bad_list_is_two_lines_and_no_output(tmp_path: Path, cli: CliRun):
    (tmp_path / "bad.txt").write_text("n02086910\nnope\n")
    done = cli("prompts", "--classes", tmp_path / "bad.txt")
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch(r"error: .*bad\.txt, line 2: 'nope' is not a wnid\nhint: .*\n", done.stderr)


def test_version(cli: CliRun):
    import imagenet_sd

    assert cli("--version").stdout == f"imagenet-sd {imagenet_sd.__version__}\n"


OPTIONS = {
    "generate": "--prompt --scale --guidance-scale --classes --images-per-class --match --multiple --model --revision "
    "--steps --size --seed --negative-prompt --templates --hypernym-all-lemmas --shard-size --batch-size --dtype "
    "--scheduler --guidance-interval --cache-interval --attention --compile --flag-nsfw --out --engine --workers "
    "--gpus-per-worker --metrics-file --dry-run --calibrate --format",
    "evaluate": "--suite --data --out --probe --seeds --trials --side --preprocessing --amp --cache --format",
    "train": "--out --recipe --val --set --workers --stream --dry-run --format",
    "push": "--follow --private --revision --poll --shards-per-commit --attempts --format",
    "report": "--out --title --classes --images-per-class --baseline --format",
    "run": "--set --out --dry-run --format",
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_keep_their_names(name: str):
    assert {flag for p in app.commands[name].params for flag in p.opts if flag[0] == "-"} >= set(OPTIONS[name].split())


def test_every_setting_of_a_dataset_is_an_option_of_generate_with_its_default():
    context = click.Context(app.commands["generate"])
    options = {parameter.name: parameter.get_default(context) for parameter in context.command.params}
    for field in dataclasses.fields(GenerationConfig):
        if field.name not in ("width", "height", "guidance_interval"):
            assert options[field.name] == field.default, field.name
    assert options["size"] == ""


@pytest.mark.parametrize("name", app.commands)
def test_no_option_names_two_defaults(name: str):
    command = app.commands[name]
    for parameter in command.params:
        _, text = parameter.get_help_record(click.Context(command, show_default=True)) or ("", "")
        assert text.count("default") <= 1, f"{name} {parameter.name}: {text}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_options(cli: CliRun, shell: str):
    """The script that the shell loads, and what it gets when it asks: bash and zsh by words, fish by the line."""
    script = cli(env={**os.environ, "_IMAGENET_SD_COMPLETE": f"{shell}_source"})
    assert script.returncode == 0 and f"_IMAGENET_SD_COMPLETE={shell}_complete" in script.stdout
    for words, number, expected in (
        ("imagenet-sd generate --hyp", 2, "--hypernym-all-lemmas"),
        ("imagenet-sd reg", 1, "regenerate"),
        ("imagenet-sd export --format web", 3, "webdataset"),
    ):
        last = words.split()[-1]
        asked = {"COMP_WORDS": words, "COMP_CWORD": last if shell == "fish" else str(number)}
        done = cli(env={**os.environ, "_IMAGENET_SD_COMPLETE": f"{shell}_complete", **asked})
        found = re.split(r"[,\s]+", done.stdout)
        assert expected in found, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        ("status nowhere --format json", 1, "nowhere holds no dataset"),
        ("status nowhere --format=jsonl", 1, "nowhere holds no dataset"),
        ("export nowhere --format imagefolder --out x --json", 1, "nowhere holds no dataset"),
        ("generate --no-such-option --format json", 2, "No such option"),
        ("generate --steps many --format json", 2, "'many' is not a valid integer"),
        ("prompts --classes nothing.txt --format json", 1, "no class list"),
    ],
)
def test_errors_for_programs_are_one_line_of_json(cli: CliRun, arguments: str, code: int, error: str):
    done = cli(*arguments.split())
    said = json.loads(done.stderr)
    assert (done.returncode, said["exit_code"], done.stdout) == (code, code, "")
    assert error in said["error"] and set(said) == {"error", "hint", "exit_code"} and done.stderr.count("\n") == 1
    plain = cli(*arguments.replace("--json", "").replace("--format json", "").replace("--format=jsonl", "").split())
    assert plain.returncode == code and error in plain.stderr and not plain.stderr.startswith("{")


HOSTILE = "\x1b]0;owned\x07\x9b31m\u2028\u202e"


def test_control_characters_of_a_file_never_reach_the_terminal(small_dataset: Path, tmp_path: Path, cli: CliRun):
    """From a failure file and the name of a folder, for people and for programs."""
    out = tmp_path / f"out{HOSTILE}"
    shutil.copytree(small_dataset, out)
    dataset = Dataset.open(out)
    shard = dataset.plan.shard(0)
    dataset.manifest_path(shard).unlink()
    failure = layout.failure_path(out, shard)
    failure.parent.mkdir(parents=True, exist_ok=True)
    failure.write_text(json.dumps({"error": f"first\n{HOSTILE}second"}))
    for arguments in (
        ("status", out),
        ("status", out, "--format", "json"),
        ("verify", out),
        ("export", out, "--format", "webdataset", "--out", tmp_path / f"x{HOSTILE}"),
    ):
        done = cli(*arguments)
        text = done.stdout + done.stderr
        assert text and not control_character(text, allowed="\n\t"), arguments
        assert "\\u001b" in text
    assert json.loads(cli("status", out, "--format", "json").stdout)["out"] == str(out)
    assert "failed data/round-000/train-00000-of-00004.parquet: first" in cli("status", out).stdout


def test_generation_refuses_control_characters_in_the_negative_prompt(tmp_path: Path, cli: CliRun):
    done = cli("generate", "--model", "embedded", "--negative-prompt", "\x1b[2J", "--out", tmp_path / "x")
    assert done.returncode == 1 and "negative_prompt holds the control character U+001B" in done.stderr
