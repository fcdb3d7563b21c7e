"""Set up what pip cannot: `wordnet` (required), `browser` (for the tests of pages), photographs: `cifar10`, `fashion`.

WordNet: NLTK's download where the internet answers, else Debian's package when run as root. Each step does nothing when
the thing is there already.
"""

import os
import shutil
import socket
import subprocess
import sys


def apt_install(*packages: str) -> bool:
    """Install Debian packages; False where there is no apt or no right to use it."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return False
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=environment, stdout=subprocess.DEVNULL, check=False)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode == 0


def internet_answers(host: str = "raw.githubusercontent.com") -> bool:
    """Whether NLTK's download server can be reached, found out within 5 seconds."""
    try:
        socket.create_connection((host, 443), timeout=5).close()
    except OSError:
        return False
    return True


def wordnet() -> None:
    from imagenet_sd.prompts.wordnet import find_wordnet, open_wordnet

    if find_wordnet() is None and internet_answers():
        import nltk

        nltk.download("wordnet", quiet=True)
    if find_wordnet() is None:
        apt_install("wordnet-base")
    print(f"WordNet 3.0: {len(open_wordnet()):,} noun synsets from {find_wordnet()}")


def browser() -> None:
    if not any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")) and not apt_install(
        "chromium"
    ):
        print("no Chromium here: the tests of pages are skipped (install it and run again)", file=sys.stderr)


def cifar10() -> None:
    """CIFAR-10 into the user's cache, 139 MB to download; without it some tests are skipped."""
    from imagenet_sd.data.photos import cifar10

    print(f"photographs: {len(cifar10('train')[1]):,} of CIFAR-10 to train on, {len(cifar10('test')[1]):,} to test on")


def fashion() -> None:
    """Fashion-MNIST into the user's cache, 39 MB to download; without it some tests are skipped."""
    from imagenet_sd.data.photos import fashion

    print(f"photographs: {len(fashion('train')[1]):,} of Fashion-MNIST to train on")


if __name__ == "__main__":
    from imagenet_sd.core.errors import ImagenetSDError

    try:
        for name in sys.argv[1:]:
            {"wordnet": wordnet, "browser": browser, "cifar10": cifar10, "fashion": fashion}[name]()
    except ImagenetSDError as error:
        sys.exit(f"error: {error}\nhint: {error.hint}")
