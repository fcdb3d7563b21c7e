"""Features of data on the Hub are those of that repository and that content: on a Hub on loopback."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, HfFileSystem, constants

from imagenet_sd.data.open import open_images
from imagenet_sd.evaluation.features import dataset_fingerprint
from tests.storage.test_push import TOKEN, Hub


def shard(content: bytes) -> bytes:
    """One image of class a and one of class b."""
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    rows = {"image": [{"bytes": content, "path": ""}] * 2, "label": [0, 1]}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    buffer = io.BytesIO()
    pq.write_table(pa.table(rows).replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()


@pytest.fixture
def upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, bytes], None]]:
    """Puts a shard of one name into a repository."""
    hub = Hub(tmp_path / "root", tmp_path / "home")
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    api = HfApi(endpoint=hub.url, token=TOKEN)

    def put(name: str, content: bytes) -> None:
        if not api.repo_exists(name, repo_type="dataset"):
            api.create_repo(name, repo_type="dataset")
        api.upload_file(
            path_or_fileobj=shard(content), path_in_repo="data/train-00000-of-00001.parquet", repo_id=name,
            repo_type="dataset",
        )  # fmt: skip
        HfFileSystem().invalidate_cache()

    yield put
    hub.process.terminate()
    hub.process.wait(30)


def test_repositories_with_the_same_classes_and_names_of_shards_are_told_apart(upload: Callable[[str, bytes], None]):
    upload("me/sd-scale2", b"one")
    upload("me/sd-scale75", b"two")
    first, second = (dataset_fingerprint(open_images(f"hf:me/{name}")) for name in ("sd-scale2", "sd-scale75"))
    assert first != second == dataset_fingerprint(open_images("hf:me/sd-scale75"))
    upload("me/sd-scale75", b"two!")  # another commit, under the same name
    images = open_images("hf:me/sd-scale75")
    assert dataset_fingerprint(images) not in (first, second)
    assert [record.data for record in images.read_group(0)] == [b"two!"] * 2
