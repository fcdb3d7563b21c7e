"""Every format that the package reads from a user's disk: sound files of it, how they are mutated, and the readers.

Left out: files that are compared with a known SHA-256 before they are read (WordNet, the photographs, their cache), and
the shipped data.
"""

import json
from contextlib import suppress
from pathlib import Path

import yaml

from imagenet_sd.core.errors import ImagenetSDError
from imagenet_sd.core.specs import DataSpec, EncoderSpec
from imagenet_sd.core.typed import read_setting
from imagenet_sd.prompts.classes import load_classes
from imagenet_sd.prompts.lint import lint_classes
from imagenet_sd.prompts.templates import load_templates
from imagenet_sd.prompts.tokens import folder_tokenizer
from imagenet_sd.report.collect import collect
from imagenet_sd.study import expand, load_study
from imagenet_sd.study.planner import read_stamp
from tests.fuzz.datasets import DATASETS
from tests.fuzz.mutate import mutate_bytes, mutate_json, mutate_yaml
from tests.fuzz.real_data import REAL_DATA
from tests.fuzz.run import Format
from tests.fuzz.runs import RUNS
from tests.fuzz.samples import write
from tests.prompts.samples import save_t5

TSV = "id\tname\tdefinition\thypernym\nb2\tnasi goreng\ta dish of fried rice\trice\na1\tred widget\ta thing\twidget\n"
STUDY = {
    "name": "s", "paths": {"x": "/nowhere"}, "generate": {"model": "embedded", "guidance_scale": 2},
    "train": {"recipe": "small", "validation": "builtin:mnist", "optimizer": {"epochs": 1}},
    "evaluate": [{"suite": "transfer", "probe": "knn", "data": {"d": "builtin:digits"}}],
    "grid": [{"generate.guidance_scale": [1, 2], "star": {"train.optimizer.base_lr": [0.1]}}],
}  # fmt: skip
RESULTS = {
    "encoder": "r", "suite": "transfer", "encoder_fingerprints": ["0"], "versions": {"torch": "2"},
    "results": [
        {"dataset": "d", "split": "test", "probe": "knn", "top1": 0.5, "top1_interval": [0.4, 0.6], "num_test": 10,
         "seeds": [0], "hyper_parameters": [{"k": 1}], "per_class": {"a": 0.5}, "unreadable": []},
        {"dataset": "d", "split": "test", "probe": "analysis", "sparsity": 0.1, "intra_class_distance": 1.0,
         "redundancy": 0.1, "coding_length": 3.0, "coding_length_per_sample": 0.1, "singular_values": [1.0]},
    ],
}  # fmt: skip
CELLS = {
    "name": "s", "machine": "m", "cells": [
        {"id": "a", "factors": {"prompt": "c", "guidance_scale": 2.0, "seed": 0}, "images": 10, "epochs": 1,
         "results": ["results.json"], "metrics": {"d/test": {"top1": 0.5}}}
    ],
}  # fmt: skip
LIST = "n01440764\n# a comment\nn02086910  # another\n"


def make_report(folder: Path) -> None:
    """A study and the results that it names."""
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "study.json").write_text(json.dumps(CELLS))


def _count_tokens(folder: Path) -> None:
    tokenizer = folder_tokenizer(folder, "T5", 12)
    for text in ("", "a dog", "Ünknown wörds 日本", "a dog on a lawn " * 5):
        tokenizer.count(text)
        tokenizer.lost(text)


def read_specs(folder: Path) -> None:
    """What a command line takes: data, encoders, settings."""
    text = (folder / "specs.txt").read_bytes().decode(errors="replace")
    for line in text.split("\n")[:20]:
        for parse in (DataSpec.parse, EncoderSpec.parse_ensemble, read_setting):
            with suppress(ImagenetSDError):
                parse(line)


FORMATS: dict[str, Format] = {
    "class list": Format(
        make=write("c.txt", LIST), files={"c.txt": mutate_bytes}, read=lambda f: load_classes(str(f / "c.txt"))
    ),
    "class table": Format(
        make=write("c.tsv", TSV), files={"c.tsv": mutate_bytes},
        read=lambda f: lint_classes(load_classes(str(f / "c.tsv"))),
    ),
    "templates": Format(
        make=write("t.yaml", 'sketch: "a sketch of a {name}"\nboth: "{name}, {hypernym} inside {background}"\n'),
        files={"t.yaml": mutate_yaml}, read=lambda f: load_templates(f / "t.yaml"),
    ),
    "tokenizer": Format(
        make=save_t5, files={"tokenizer.json": mutate_json}, read=_count_tokens,
    ),
    "study": Format(
        make=write("s.yaml", yaml.safe_dump(STUDY)), files={"s.yaml": mutate_yaml},
        read=lambda f: expand(load_study(f / "s.yaml")),
    ),
    "results and studies": Format(
        make=make_report, files={"results.json": mutate_json, "study.json": mutate_json}, read=lambda f: collect([f])
    ),
    "stage stamp": Format(
        make=write("stage.json", json.dumps({"stage": "train", "inputs": "x", "seconds": 1.0, "num_images": 5})),
        files={"stage.json": mutate_json}, read=lambda f: read_stamp(f, "stage.json"),
    ),
    "specs": Format(
        make=write("specs.txt", "builtin:mnist@per_class=3\ntimm:resnet18@x.pth+run\nlevels@root@L1\na.b=[1, 2]\n"),
        files={"specs.txt": mutate_bytes}, read=read_specs,
    ),

}  # fmt: skip
FORMATS |= RUNS | DATASETS | REAL_DATA
