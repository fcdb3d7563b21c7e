"""`python -m imagenet_sd`."""

from imagenet_sd.cli import main

main()
