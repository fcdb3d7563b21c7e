"""The command that describes the machine: env."""

import textwrap
from collections.abc import Iterator
from typing import Any

from imagenet_sd import pipeline
from imagenet_sd.cli.common import FORMAT, app, echo, show
from imagenet_sd.core.progress import size

_WIDTH = 110


@app.command("env")
@FORMAT
def env(format: str) -> None:
    """Describe this machine for a bug report: versions, devices and what they run, WordNet, Hub, caches, free disk.

    No model is loaded, and no token or password is printed.
    """
    show(pipeline.environment(), format, _print_facts)


def _print_facts(facts: dict[str, Any]) -> None:
    for label, text in _lines(facts):
        wrapped = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
        for number, line in enumerate(wrapped):
            echo(f"{'' if number else label:14s}{line}")


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Label and text of each line."""
    yield "imagenet-sd", facts["imagenet_sd"]
    yield "python", f"{facts['python']['version']}, {facts['python']['executable']}"
    yield "platform", facts["platform"]
    for label, key, text in (
        ("processor", "cpu", _cpu), ("memory", "memory", _memory), ("libraries", "libraries", _installed),
        ("not installed", "libraries", _missing), ("torch", "torch", _torch),
    ):  # fmt: skip
        yield label, _said(facts[key], text)
    driver = facts["nvidia_driver"]
    yield "NVIDIA driver", _said(driver, lambda _: "none") if isinstance(driver, dict) else driver or "none"
    for device in facts["torch"].get("devices", ()):
        yield from _device(device)
    for label, key, text in (
        ("compilers", "compilers", _compilers), ("WordNet", "wordnet", _wordnet), ("hub", "hub", _hub),
        ("hub cache", "hub", lambda hub: f"{hub['cache']}, {_counted_bytes(hub['cache_bytes'])}"),
        ("cache", "cache", lambda cache: f"{cache['path']}, {_counted_bytes(cache['bytes'])}"),
        ("free disk", "free_bytes", _free),
        ("variables", "variables", lambda names: " ".join(f"{k}={v}" for k, v in names.items()) or "none of ours"),
    ):  # fmt: skip
        yield label, _said(facts[key], text)


def _said(part: dict[str, Any], text: Any) -> str:
    """The text of a part; of one that could not be found out, why."""
    return f"error: {part['error']}" if set(part) == {"error"} else text(part)


def _cpu(cpu: dict[str, Any]) -> str:
    return f"{cpu['model']}, {cpu['cores']} cores, {cpu['usable_cores']} usable"


def _memory(memory: dict[str, Any]) -> str:
    words = {"total_bytes": "in all", "available_bytes": "available", "limit_bytes": "allowed to this container"}
    return ", ".join(f"{size(memory[key])} {text}" for key, text in words.items() if memory[key] is not None)


def _installed(libraries: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" for name, version in libraries.items() if version)


def _missing(libraries: dict[str, str | None]) -> str:
    return ", ".join(name for name, version in libraries.items() if not version) or "none"


def _torch(torch: dict[str, Any]) -> str:
    builds = [f"{word} {torch[key]}" for key, word in (("cuda", "CUDA"), ("hip", "ROCm")) if torch[key]]
    cudnn = [f"cuDNN {torch['cudnn']}"] if torch["cudnn"] else []
    problem = [f"no GPU: {torch['accelerator_error']}"] if torch["accelerator_error"] else []
    build = " ".join(["built for", *builds]) if builds else "built for CPUs"
    return ", ".join([torch["version"], build, *cudnn, f"imported in {torch['import_seconds']:.1f} s", *problem])


def _device(device: dict[str, Any]) -> Iterator[tuple[str, str]]:
    texts = [device["name"], device["capability"] and f"capability {device['capability']}"]
    for key, word in (("memory_bytes", ""), ("free_bytes", " free")):
        if device.get(key) is not None:
            texts.append(f"{size(device[key])}{word}")
    if "same_as" in device:
        texts.append(f"runs what {device['same_as']} runs")
    yield device["device"], ", ".join(filter(None, texts))
    for key, what in (("dtypes", ""), ("attention", f" in {device.get('attention_dtype')}")):
        trials = device.get(key, {})
        if trials:
            runs = ", ".join(name for name, trial in trials.items() if trial["runs"]) or "none"
            yield f"  {key}", f"{runs}{what}"
        reasons: dict[str, list[str]] = {}
        for name, trial in trials.items():
            if not trial["runs"]:
                reasons.setdefault(trial["error"], []).append(name)
        for reason, names in reasons.items():
            yield "  not", f"{', '.join(names)}: {reason}"


def _compilers(found: dict[str, Any]) -> str:
    texts = [
        f"{kind}: {', '.join(filter(None, found[kind].values()))}" if found[kind] else f"{kind}: none"
        for kind in ("c", "c++")
    ]
    return "; ".join([*texts, f"Python.h {'found' if found['python_headers'] else 'missing'}"])


def _wordnet(wordnet: dict[str, Any]) -> str:
    if wordnet["path"] is None:
        return f"not found; {wordnet['hint']}"
    read = "was read before" if wordnet["extract"] else "not read yet"
    hint = f"; {wordnet['hint']}" if wordnet["hint"] else ""
    return f"{wordnet['version'] or 'unknown version'} in {wordnet['path']}, {read}{hint}"


def _hub(hub: dict[str, Any]) -> str:
    if hub["reachable"]:
        answer = f"answers in {hub['seconds']:.2f} s (HTTP {hub['status']})"
    else:
        answer = hub["error"] if hub["reachable"] is None else f"not reachable: {hub['error']}"
    return f"{hub['endpoint']}, {answer}; {'token from ' + hub['token'] if hub['token'] else 'no token'}"


def _counted_bytes(count: int | None) -> str:
    return "size not counted" if count is None else size(count)


def _free(free: dict[str, int]) -> str:
    words = {"working_folder": "here", "cache": "in the cache", "hub_cache": "in the hub cache"}
    return ", ".join(f"{size(free[key])} {text}" for key, text in words.items())
