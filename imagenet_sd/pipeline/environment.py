"""What a bug report should say of the machine that the program runs on."""

import os
import platform
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

from imagenet_sd import __version__
from imagenet_sd.core.errors import one_line

_VARIABLES = tuple(
    """
    CC CUDA_VISIBLE_DEVICES CXX HF_ENDPOINT HF_HOME HF_HUB_CACHE HF_HUB_OFFLINE HTTPS_PROXY HTTP_PROXY
    IMAGENET_SD_CACHE IMAGENET_SD_WORDNET LD_LIBRARY_PATH NLTK_DATA NO_PROXY NVIDIA_VISIBLE_DEVICES OMP_NUM_THREADS
    PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF TRANSFORMERS_OFFLINE all_proxy http_proxy https_proxy no_proxy
    """.split()
)
_HUB_SECONDS = 1.5


def environment() -> dict[str, Any]:
    """Versions, devices and what they really run, WordNet, Hub, caches and free disk; no model is loaded.

    Torch is imported in a process of its own, beside the other questions. There is no token or password in the
    result, and the home folder is `~`.

    Returns:
        `imagenet_sd` (version), `python`, `platform`, `cpu`, `memory`, `libraries`, `nvidia_driver`, `torch` (that is
        `imagenet_sd.generation.diffusion.capabilities.torch_facts`), `compilers`, `wordnet`, `hub`, `cache`,
        `free_bytes`, `variables`. A part that cannot be found out is {"error": one line}.
    """
    from imagenet_sd.core.machine import compiler_facts, cpu_facts, library_versions, memory_facts, nvidia_driver
    from imagenet_sd.generation.diffusion.capabilities import torch_facts
    from imagenet_sd.prompts.wordnet import wordnet_facts

    torch, hub, cache, compilers = _background(torch_facts), _hub(), _background(_cache), _background(compiler_facts)
    facts = {
        "imagenet_sd": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "cpu": _part(cpu_facts),
        "memory": _part(memory_facts),
        "libraries": _part(library_versions),
        "nvidia_driver": _part(nvidia_driver),
        "torch": None,
        "compilers": _part(compilers.result),
        "wordnet": _part(wordnet_facts),
        "hub": _part(hub),
        "cache": _part(cache.result),
        "free_bytes": _part(_free_bytes),
        "variables": _part(_variables),
    }
    facts["torch"] = _part(torch.result)
    return _public(facts)


def _part(ask: Callable[[], Any]) -> Any:
    """What a part of the report says; its error where the machine does not answer."""
    try:
        return ask()
    except Exception as error:  # a report of a broken machine is what this is for
        return {"error": one_line(error) or type(error).__name__}


def _background(ask: Callable[[], Any]) -> "Future[Any]":
    """Ask in a thread that does not keep the process alive: looking up a name may take longer than anyone waits."""
    answer: Future[Any] = Future()

    def work() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return answer


def _hub() -> Callable[[], dict[str, Any]]:
    """Start to ask the Hub; the result waits for its answer, at most `_HUB_SECONDS`."""
    from imagenet_sd.core.machine import folder_bytes
    from imagenet_sd.storage.hub_status import ask_hub, hub_settings

    answer = _background(ask_hub)

    def facts() -> dict[str, Any]:
        settings = hub_settings()
        settings["cache_bytes"] = folder_bytes(Path(settings["cache"]))
        try:
            return settings | answer.result(_HUB_SECONDS)
        except FutureTimeout:
            error = f"no answer within {_HUB_SECONDS} seconds"
            return settings | {"reachable": False, "status": None, "seconds": None, "error": error}

    return facts


def _cache() -> dict[str, Any]:
    from imagenet_sd.core.files import cache_dir
    from imagenet_sd.core.machine import folder_bytes

    return {"path": str(cache_dir()), "bytes": folder_bytes(cache_dir())}


def _free_bytes() -> dict[str, int]:
    from huggingface_hub import constants

    from imagenet_sd.core.files import cache_dir, free_bytes

    places = {"working_folder": Path.cwd(), "cache": cache_dir(), "hub_cache": Path(constants.HF_HUB_CACHE)}
    return {name: free_bytes(place) for name, place in places.items()}


def _variables() -> dict[str, str]:
    """Those that change what runs, as far as they are set; addresses without passwords."""
    from imagenet_sd.storage.hub_status import mask_url

    values = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    is_url = re.compile(r"(?i).*_(proxy|endpoint)").fullmatch
    return {name: mask_url(v) if is_url(name) and name.lower() != "no_proxy" else v for name, v in values.items()}


def _public(value: Any) -> Any:
    """The same report without tokens and passwords, wherever they stand, and with `~` for the home folder."""
    from imagenet_sd.storage.hub import scrub
    from imagenet_sd.storage.hub_status import known_secrets

    secrets = known_secrets()
    homes = {str(Path.home()), os.path.realpath(Path.home())} - {"/"}
    home = re.compile(rf"(?<![\w/.~-])(?:{'|'.join(map(re.escape, homes)) or '(?!)'})(?![\w.-])")

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list):
            return [clean(item) for item in value]
        return home.sub("~", scrub(value, *secrets)) if isinstance(value, str) else value

    return clean(value)
