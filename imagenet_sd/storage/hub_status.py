"""The Hugging Face Hub as seen from here: whether it answers, whether there is a token, how large its cache is.

The token is looked for, and never sent or told.
"""

import os
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote
from urllib.request import Request, urlopen

from imagenet_sd.core.errors import one_line

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def ask_hub(seconds: float = 1.0) -> dict[str, Any]:
    """Whether the Hub, or what `HF_ENDPOINT` names, answers to a request without a token.

    Args:
        seconds: how long connecting and answering may take, each; looking up the name is not in it.

    Returns:
        `reachable` (None in offline mode: it was not asked), `status` (HTTP), `seconds`, and `error`: why it is not.
    """
    from huggingface_hub import constants

    answer: dict[str, Any] = {"reachable": None, "status": None, "seconds": None, "error": None}
    if constants.HF_HUB_OFFLINE:
        return answer | {"error": "offline mode is on"}
    began = time.monotonic()
    try:
        request = Request(_without_userinfo(constants.ENDPOINT), method="HEAD")
        with urlopen(request, timeout=seconds, context=_certificates()) as response:
            answer["status"] = response.status
    except HTTPError as error:  # an answer too; a proxy's refusal and a server out of order are none
        answer["status"] = error.code
        if error.code >= 500 or error.code == 407:
            answer["error"] = f"HTTP {error.code} {error.reason}"
    except Exception as error:  # addresses that are none raise further kinds
        reason = getattr(error, "reason", None) or error
        answer["error"] = one_line(reason if isinstance(reason, BaseException) else error) or type(error).__name__
    return answer | {"reachable": answer["error"] is None, "seconds": round(time.monotonic() - began, 3)}


def hub_settings() -> dict[str, Any]:
    """`endpoint` without user and password, `offline`, `token` (where it comes from, or None), `cache` (a folder)."""
    from huggingface_hub import constants

    token = next((name for name in _TOKENS if os.environ.get(name, "").strip()), None)
    if token is None and _stored_token():
        token = "file of `hf auth login`"
    return {
        "endpoint": mask_url(constants.ENDPOINT),
        "offline": bool(constants.HF_HUB_OFFLINE),
        "token": token,
        "cache": constants.HF_HUB_CACHE,
    }


def known_secrets() -> list[str]:
    """Tokens and passwords that this process could print: of the Hub, its endpoint and proxies, longest first."""
    urls = [value for name, value in os.environ.items() if name.lower() in (*_PROXIES, "hf_endpoint")]
    userinfos = [_split_url(url)[1] for url in urls]
    secrets = {os.environ.get(name, "").strip() for name in _TOKENS} | {_stored_token(), *userinfos}
    secrets |= {userinfo.partition(":")[2] for userinfo in userinfos}
    secrets |= {unquote(secret) for secret in secrets}
    return sorted((secret for secret in secrets if len(secret) > 3), key=len, reverse=True)


def mask_url(url: str) -> str:
    """A URL without user, password, query and fragment."""
    scheme, userinfo, rest = _split_url(url)
    address, mark, _ = rest.replace("#", "?").partition("?")
    return f"{scheme}{'[secret]@' if userinfo else ''}{address}{'?[secret]' if mark else ''}"


def _split_url(url: str) -> tuple[str, str, str]:
    """Scheme with ://, user and password, and what follows; passwords may hold an unquoted @ or slash."""
    scheme, found, rest = url.partition("://")
    if not found:
        scheme, rest = "", url
    userinfo, _, rest = rest.rpartition("@")
    return scheme + found, userinfo, rest


def _without_userinfo(url: str) -> str:
    scheme, _, rest = _split_url(url)
    return scheme + rest


def _stored_token() -> str:
    from huggingface_hub import constants

    with suppress(OSError, UnicodeDecodeError):
        return Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8").strip()
    return ""


def _certificates() -> ssl.SSLContext:
    """Those that the environment names, else the system's and certifi's: versions of the Hub's client take either."""
    context = ssl.create_default_context()
    if not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        with suppress(ImportError):
            import certifi

            context.load_verify_locations(certifi.where())
    return context
