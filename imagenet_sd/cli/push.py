"""The command that uploads: push."""

import signal
from typing import Annotated

import typer

from imagenet_sd import pipeline
from imagenet_sd.cli.common import Dataset, Format, OutputFormat, app, print_json
from imagenet_sd.core.errors import Interrupted


@app.command()
def push(
    out: Dataset,
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="NAMESPACE/NAME of a dataset on the Hub.")],
    follow: Annotated[bool, typer.Option("--follow", help="Upload shards as they finish, until all are done.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str, typer.Option(help="Branch.")] = "main",
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks for new shards.")] = 30.0,
    shards_per_commit: Annotated[
        int, typer.Option(min=1, help="Shards that become visible together; the Hub allows 128 commits an hour.")
    ] = 16,
    attempts: Annotated[int, typer.Option(min=1, help="How often a call to the Hub is tried at most.")] = 10,
    format: OutputFormat = Format.table,
) -> None:
    """Upload the finished shards to the Hugging Face Hub. Run it again to go on; what is there is skipped."""
    received = []

    def stop(signum: int, frame: object) -> None:  # no Exception: nothing that is tried again may catch it
        received.append(signum)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        result = pipeline.push(
            out,
            repo_id,
            follow=follow,
            private=private,
            revision=revision,
            poll=poll,
            shards_per_commit=shards_per_commit,
            attempts=attempts,
        )
    except KeyboardInterrupt:
        raise Interrupted(received[0] if received else signal.SIGINT) from None
    if format is not Format.table:
        print_json(result)
    else:
        refused = f", {len(result['refused'])} damaged and left out" if result["refused"] else ""
        missing = f", {result['shards_missing']:,} not generated yet" if result["shards_missing"] else ""
        typer.echo(
            f"{result['repo_id']}: {result['shards_there']:,} of {result['num_shards']:,} shards are there, "
            f"{result['shards_uploaded']:,} uploaded in this run{refused}{missing}"
        )
    if result["refused"]:
        typer.echo("hint: `imagenet-sd verify --repair` draws damaged shards again", err=True)
        raise typer.Exit(1)
