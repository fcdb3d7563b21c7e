"""The card of an encoder on the Hub: README.md with the YAML header that the Hub reads."""

from collections.abc import Mapping
from typing import Any

import yaml

from imagenet_sd.core.errors import printable

_EXAMPLE = """```python
import timm

model = timm.create_model("hf-hub:{repo_id}", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
{use}
```"""


def model_card(repo_id: str, facts: Mapping[str, Any]) -> str:
    """The card of an encoder that `timm.create_model("hf-hub:REPO_ID")` loads.

    Args:
        repo_id: "NAMESPACE/NAME".
        facts: `architecture` (of timm), `features` (their number), `classes` (class ids of its classifier; none for an
            encoder alone), `crop_size` (pixels), `data` and `validation` (what it was trained and validated on),
            `train` (the training recipe, nested), `result` (what `train` measured), `version` (of imagenet-sd).

    Returns:
        Markdown after a YAML header; texts that come from files stand in YAML blocks and cannot end them.
    """
    classes, result = facts["classes"], facts["result"]
    header = {
        "library_name": "timm",
        "pipeline_tag": "image-classification" if classes else "image-feature-extraction",
        "tags": ["timm", "image-classification" if classes else "image-feature-extraction", "imagenet-sd"],
    }
    use = "logits = model(transform(image)[None])" if classes else "features = model(transform(image)[None])"
    kind = f"a classifier of {len(classes):,} classes" if classes else f"an encoder ({facts['features']:,} features)"
    measured = {key: result[key] for key in ("val_top1", "val_top5", "knn_top1", "val_images") if key in result}
    measured = {"validated on": facts["validation"], **measured} if measured else {}
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {repo_id}",
        f"`{facts['architecture']}` of timm, {kind}, trained from scratch with imagenet-sd {facts['version']} "
        f"for images of {facts['crop_size']} pixels.",
        _EXAMPLE.format(repo_id=repo_id, use=use),
        "## Training",
        _block({"data": facts["data"], **({"measured": measured} if measured else {})}),
        "The whole recipe:",
        _block(facts["train"]),
        "The licence of the training images, and of the model that generated them, applies: name it here.",
    ]
    return "\n\n".join(parts) + "\n"


def _block(values: Mapping[str, Any]) -> str:
    """A block of YAML; backquotes in it are replaced, so that no value ends it."""
    text = yaml.safe_dump(_plain(dict(values)), sort_keys=False, allow_unicode=True, width=100)
    return f"```yaml\n{text}```"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return printable(value).replace("`", "'") if isinstance(value, str) else value
