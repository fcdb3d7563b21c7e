"""A dataset for others: exported to other formats, pushed to the Hub."""

from pathlib import Path
from typing import Any, Literal

from imagenet_sd.core.progress import Progress
from imagenet_sd.pipeline.dataset import open_dataset


def export_dataset(
    folder: Path, kind: Literal["imagefolder", "webdataset"], target: Path, *, verify: bool = False
) -> dict[str, Any]:
    """Write the finished shards of a dataset as an image folder or as WebDataset tars; goes on where it stopped.

    An unfinished dataset is exported as far as it goes; a later call adds the rest and touches nothing that is there.
    Files of the export that are gone or of another size are written again.

    Args:
        folder: dataset folder.
        kind: the format.
        target: folder to write: a new or empty one, or one with an export of this dataset in this format.
        verify: compare files that are there with the shards byte by byte, not by size alone.

    Returns:
        A summary: `out`, `target`, `format`, `images` (in the target now), `num_shards`, `shards_written`,
        `shards_restored` (of these: exported before, but files were gone or changed), `shards_skipped` (exported before
        and still there), `shards_missing` (not generated yet).

    Raises:
        ImagenetSDError: the target holds something else; nothing was written.
        DatasetError: a shard is damaged (it is named); what was exported before it stays.
    """
    from imagenet_sd.storage.export import ExportTarget

    dataset = open_dataset(folder)
    export = ExportTarget(dataset, kind, target)
    with export.claimed():
        survey = export.survey(verify=verify)
        todo = [*survey["todo"], *survey["damaged"]]
        done, images = (
            sum(shard.num_rows for shard in shards) for shards in (survey["done"], [*survey["done"], *todo])
        )
        with Progress("images", images, done) as progress:
            for shard in todo:
                export.export(shard)
                progress.advance(shard.num_rows)
        export.finish(verify=verify)
    return {
        "out": str(folder),
        "target": str(target),
        "format": kind,
        "images": images,
        "num_shards": dataset.plan.num_shards,
        "shards_written": len(todo),
        "shards_restored": len(survey["damaged"]),
        "shards_skipped": len(survey["done"]),
        "shards_missing": len(survey["missing"]),
    }


def push(
    folder: Path,
    repo_id: str,
    *,
    follow: bool = False,
    private: bool = False,
    revision: str = "main",
    token: str | None = None,
    poll: float = 30.0,
    shards_per_commit: int = 16,
    attempts: int = 10,
) -> dict[str, Any]:
    """Upload the finished shards of a dataset to the Hub; what is there is skipped, so it goes on where it stopped.

    Start one upload for a dataset, beside however many workers. `HF_ENDPOINT` names another Hub, if it is set before
    `huggingface_hub` is first imported.

    Args:
        folder: dataset folder.
        repo_id: "NAMESPACE/NAME"; made when it does not exist.
        follow: go on until every shard of the plan is there, as workers finish them.
        private: make the repository private; a public one of that name is refused.
        revision: branch.
        token: see `HubRepo`.
        poll: seconds between two looks for new shards.
        shards_per_commit: shards that become visible together; the Hub allows 128 commits an hour.
        attempts: how often each call to the Hub is tried at most.

    Returns:
        A summary: `out`, `repo_id`, `revision`, `num_shards`, `shards_there` (in the repository now),
        `shards_uploaded` (in this run), `files_uploaded`, `shards_missing` (not generated yet), `refused` (damaged
        shards: `shard`, `message`).

    Raises:
        HubError: no access, another dataset is there, or the Hub failed too often.
        DatasetError: the folder holds no dataset, or one too large for the Hub.
    """
    from imagenet_sd.storage.hub import HubRepo
    from imagenet_sd.storage.upload import Upload, check_limits

    dataset = open_dataset(folder)
    check_limits(dataset.plan)
    repo = HubRepo(repo_id, revision=revision, token=token, attempts=attempts)
    repo.open(private=private)
    upload = Upload(dataset, repo, shards_per_commit=shards_per_commit)
    upload.prepare()
    total = dataset.plan.num_images if follow else dataset.count_images(dataset.listed_shards())
    with Progress("images", total, dataset.count_images(upload.there)) as progress:
        upload.run(progress.advance, follow=follow, poll=poll)
    return {"out": str(folder), "repo_id": repo_id, "revision": revision, **upload.summary()}


def push_run(
    run: Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str = "main",
    token: str | None = None,
    attempts: int = 10,
) -> dict[str, Any]:
    """Upload the encoder of a finished run with a model card, so that `timm.create_model("hf-hub:REPO_ID")` loads it.

    Args:
        run: folder of the run.
        repo_id: "NAMESPACE/NAME" of a model repository; made when it does not exist.
        private: see `push`.
        revision: branch.
        token: see `HubRepo`.
        attempts: see `push`.

    Returns:
        `out`, `repo_id`, `revision`, `architecture`, `num_classes` (0: the encoder alone), `files_uploaded`.

    Raises:
        TrainingError: the run is not finished, or timm cannot build its network by name.
        HubError: no access, another model is there, or the Hub failed too often.
    """
    from imagenet_sd.storage.hub import HubRepo
    from imagenet_sd.storage.model_card import model_card
    from imagenet_sd.storage.upload import upload_files
    from imagenet_sd.training.publish import timm_files

    files, facts = timm_files(run)
    repo = HubRepo(repo_id, kind="model", revision=revision, token=token, attempts=attempts)
    repo.open(private=private)
    uploaded = upload_files(repo, {"README.md": model_card(repo_id, facts).encode(), **files}, "Add the encoder")
    return {
        "out": str(run),
        "repo_id": repo_id,
        "revision": revision,
        "architecture": facts["architecture"],
        "num_classes": len(facts["classes"]),
        "files_uploaded": len(uploaded),
    }
