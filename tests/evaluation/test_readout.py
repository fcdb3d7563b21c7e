"""Read-outs of frozen features: ridge and logistic regression by cross-validation, targets, fusion."""

import colorsys
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from imagenet_sd.core.errors import DatasetError
from imagenet_sd.core.specs import DataSpec
from imagenet_sd.core.types import FeatureSet
from imagenet_sd.data.images import ArraySet
from imagenet_sd.data.open import open_images
from imagenet_sd.data.targets import Rotated, TargetSet, angle_of, mean_brightness, mean_hue, own_targets, read_targets
from imagenet_sd.evaluation.config import EvalConfig, EvaluationError
from imagenet_sd.evaluation.features import Extracted, concatenate
from imagenet_sd.evaluation.probes.logreg import lambda_path
from imagenet_sd.evaluation.probes.ridge import cross_validate_ridge, folds, r_squared, solve_ridge
from imagenet_sd.evaluation.suites.readout import _logistic
from imagenet_sd.pipeline import evaluate


@pytest.mark.parametrize(("rows", "columns"), [(60, 8), (20, 50)])
def test_ridge_equals_scikit_learns(rows: int, columns: int):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, columns)) + 3, rng.normal(size=(rows, 2)) * 5 - 2
    penalties = [1e-3, 0.7, 40.0, 1e5]
    path = solve_ridge(x, y, penalties)
    for k, penalty in enumerate(penalties):
        expected = Ridge(alpha=penalty).fit(x, y)
        assert np.allclose(path.weights[k].T, expected.coef_, rtol=1e-7, atol=1e-9)
        assert np.allclose(path.predict(x, k), expected.predict(x), rtol=1e-7)
        assert r_squared(path.predict(x, k), y).mean() == pytest.approx(r2_score(y, expected.predict(x)), rel=1e-7)


def test_cross_validation_equals_scikit_learns_on_the_same_folds():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(90, 30))
    y = x[:, :2] @ rng.normal(size=(2, 2)) + rng.normal(size=(90, 2))
    parts, penalties = folds(90, 5, "x"), lambda_path()[::8].tolist()
    assert sorted(np.concatenate(parts).tolist()) == list(range(90)) and {len(part) for part in parts} == {18}
    found = cross_validate_ridge(x, y, penalties, parts)
    expected = {}
    for penalty in penalties:
        scores = []
        for held in parts:
            rows = np.setdiff1d(np.arange(90), held)
            model = Ridge(alpha=penalty).fit(x[rows], y[rows])
            scores.append(r2_score(y[held], model.predict(x[held])))
        expected[penalty] = np.mean(scores), np.std(scores)
    best = max(expected, key=lambda each: expected[each][0])
    assert found.penalty == best and (found.mean, found.sd) == pytest.approx(expected[best], rel=1e-6)


def test_each_concatenation_widens_the_range_by_a_hundred():
    plain, wider = lambda_path(), lambda_path(2)
    assert (plain[0], plain[-1], len(plain)) == (pytest.approx(1e-6), pytest.approx(1e5), 45)
    assert np.allclose(wider[:45], plain) and wider[-1] == pytest.approx(1e9) and len(wider) == 61


def test_fusion_is_raw_or_normalised():
    rng = np.random.default_rng(0)
    parts = [
        Extracted(
            data=FeatureSet(features=rng.normal(size=(5, d)).astype(np.float32), labels=np.arange(5)),
            classes=tuple("abcde"), unreadable=(), cache_key=str(d), from_cache=True,
            digests=np.arange(5, dtype=np.uint64),
        )
        for d in (3, 4, 2)
    ]  # fmt: skip
    raw = concatenate(parts, "raw")
    assert np.array_equal(raw.data.features, np.hstack([part.data.features for part in parts]))
    assert raw.concatenations == 2 and concatenate(parts).concatenations == 0
    norms = [np.linalg.norm(concatenate(parts).data.features[:, part], axis=1) for part in (slice(0, 3), slice(3, 7))]
    assert np.allclose(norms, 1 / math.sqrt(3), atol=1e-6)


def plain(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (6, 4), colour)


def test_hue_and_brightness_of_plain_images():
    for colour in ((200, 10, 30), (10, 220, 40), (30, 30, 250), (120, 130, 20), (250, 0, 249)):
        hue = colorsys.rgb_to_hsv(*(c / 255 for c in colour))[0] * 2 * math.pi
        chroma = (max(colour) - min(colour)) / 255
        assert mean_hue(plain(colour)) == pytest.approx((chroma * math.cos(hue), chroma * math.sin(hue)), abs=1e-12)
    assert mean_hue(plain((90, 90, 90))) == (0, 0)
    assert mean_brightness(plain((255, 255, 255))) == 1 and mean_brightness(plain((0, 0, 0))) == 0
    assert mean_brightness(plain((0, 255, 0))) == pytest.approx(0.587, abs=0.002)


def test_rotation_is_by_the_angle_that_is_the_target_and_leaves_no_trace_outside():
    """A bright spot above the centre is found again at its angle, counter-clockwise; the rest is one grey."""
    pixels = np.zeros((40, 65, 65, 3), np.uint8)
    pixels[:, 8:13, 30:35] = 255
    images = ArraySet("spots", pixels, np.zeros(40, np.int64), ("a",))
    targets = own_targets(images, "rotation")
    for number, (cos, sin) in enumerate(targets):
        (record,) = Rotated(images).read_group(number)
        turned = np.asarray(record.decode())
        rows, columns = np.nonzero(turned[..., 0] > 150)
        y, x = 32 - rows.mean(), columns.mean() - 32
        angle = math.atan2(y, x) - math.pi / 2
        assert math.cos(angle - angle_of(record.image_id)) > 0.999
        assert (cos, sin) == (math.cos(angle_of(record.image_id)), math.sin(angle_of(record.image_id)))
        assert (turned[0] == 128).all() and (turned[:, 0] == 128).all() and turned[32, 32, 0] == 0
    assert len({round(angle_of(f"spots/{i}"), 6) for i in range(40)}) == 40


def test_a_table_of_targets(tmp_path: Path):
    rng = np.random.default_rng(0)
    lines = ["path\tred\tsplit\tside"]
    for i in range(30):
        red, side = int(rng.integers(0, 255)), int(rng.integers(16, 60))
        Image.new("RGB", (side, 40), (red, 20, 90)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png\t{red / 10}\t{'test' if i % 3 == 0 else 'train'}\t{side}")
    table = tmp_path / "t.tsv"
    table.write_text("\n".join(lines) + "\n")
    train, test = (open_images(f"targets:{table}", split) for split in ("train", "test"))
    assert (len(train.group_sizes), len(test.group_sizes)) == (20, 10)
    _, red, _, side = lines[4].split("\t")
    assert isinstance(test, TargetSet) and test.target_names == ("red", "side") and test.note == ""
    assert test.targets[1].tolist() == [float(red), float(side)]
    assert str(DataSpec.parse(f"targets:{table}")) == f"targets:{table}"
    # without the column `split`, a fifth by a hash of the path: the same whatever the order
    table.write_text("\n".join("\t".join((a, b)) for a, b, _, _ in (line.split("\t") for line in lines)) + "\n")
    files = {split: {path for path, _ in read_targets(table, split).files} for split in ("train", "test")}
    note = f"no column split: {len(files['test'])} of 30 images held out for the test, by a hash of their paths"
    assert read_targets(table, "test").note == note
    assert len(files["train"] | files["test"]) == 30 and not files["train"] & files["test"] and files["test"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no header"),
        ("file\tx\n", "no header"),
        ("path\n", "no header"),
        ("path\tx\na.png\tnan\n", "line 2"),
        ("path\tx\na.png\t1\nb.png\n", "line 3"),
        ("path\tx\tsplit\na.png\t1\tval\n", "line 2"),
        ("path\tx\tsplit\na.png\t1\ttest\n", "no images of the train split"),
        ("path\tx\tsplit\n../a.png\t1\ttrain\n", "outside of"),
        ("path\tx\tsplit\na.png\t1\ttrain\n", "is missing"),
        (f"path\tx\n{'a' * 140_000}\t1\n", "cannot be read: field larger than"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(text: str, message: str, tmp_path: Path):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        read_targets(tmp_path / "t.tsv", "train")
    assert "\n" not in str(caught.value) and caught.value.hint


def test_readouts_of_real_images(tmp_path: Path):
    """Faces: brightness is read out of an untrained network, and classes by cross-validation; both repeat."""
    config = EvalConfig(suite="readout", targets="class,brightness,rotation", crop_size=32)
    first, second = (
        evaluate("timm:test_resnet@random", {"f": "builtin:faces"}, config, cache=tmp_path) for _ in range(2)
    )
    assert first["results"] == second["results"] and second["features_from_cache"]
    rows = {row["dataset"]: row for row in first["results"]}
    assert list(rows) == ["f", "f-brightness", "f-rotation"]
    assert rows["f"]["probe"] == "logistic-5-fold" and rows["f"]["top1"] > 0.8
    assert rows["f-brightness"]["probe"] == "ridge" and rows["f-brightness"]["r2"] > 0.7
    assert rows["f-rotation"]["targets"] == ["cos", "sin"] and rows["f-rotation"]["r2"] < rows["f-brightness"]["r2"]
    assert 1e-6 < rows["f-brightness"]["hyper_parameters"][0]["penalty"] < 1e5


def test_a_table_and_fused_encoders_from_end_to_end(tmp_path: Path):
    rng = np.random.default_rng(0)
    lines = ["path\tred"]
    for i in range(80):
        red = int(rng.integers(0, 255))
        noise = rng.integers(0, 40, (32, 32, 3)) + np.array([red * 0.8, 20, 90])
        Image.fromarray(noise.astype(np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png\t{red}")
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
    config = EvalConfig(suite="readout", fusion="raw", crop_size=32)
    encoders = "timm:test_resnet@random+timm:test_efficientnet@random"
    (row,) = evaluate(encoders, {"t": f"targets:{tmp_path}/t.tsv"}, config, cache=tmp_path / "c")["results"]
    assert row["targets"] == ["red"] and row["r2"] > 0.9 and row["num_train"] + row["num_test"] == 80
    assert row["cache_keys"][0].count("+") == 1
    assert row["note"].startswith(f"no column split: {row['num_test']} of 80 images held out")
    with pytest.raises(EvaluationError, match="has no classes"):
        evaluate(encoders, {"t": f"targets:{tmp_path}/t.tsv@per_class=3"}, config, cache=tmp_path / "c")


def test_classes_are_read_out_by_the_measure_that_is_asked_for():
    """Where classes overlap, top-1 is best with a penalty under which every image is one of the larger class."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [180, 20])
    x = rng.normal(size=(200, 20)).astype(np.float32)
    x[:, 0] += y
    data = Extracted(data=FeatureSet(features=x, labels=y), classes=("a", "b"), unreadable=(), cache_key="k",
                     from_cache=True, digests=np.arange(200, dtype=np.uint64))  # fmt: skip
    by_image, by_class = (_logistic("d", (data, data), 0, metric) for metric in ("top1", "mean_per_class"))
    assert (by_image.selected_by, by_class.selected_by) == ("top1", "mean_per_class")
    assert by_image.hyper_parameters == ({"C": pytest.approx(1e-5)},) and by_class.hyper_parameters[0]["C"] > 0.1
    assert by_image.mean_per_class_accuracy == 0.5 < (by_class.mean_per_class_accuracy or 0)


def test_fewer_images_than_folds_are_one_line(tmp_path: Path):
    for number in range(4):
        (tmp_path / "d" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        plain((50 * number, 20, 90)).save(tmp_path / "d" / "ab"[number % 2] / f"{number}.png")
    for target in ("class", "brightness"):
        config = EvalConfig(suite="readout", targets=target, crop_size=32)
        with pytest.raises(EvaluationError, match="2 training images are too few for 5-fold"):
            evaluate("timm:test_resnet@random", {"d": f"imagefolder:{tmp_path / 'd'}"}, config, cache=tmp_path / "c")


def test_an_unknown_target_is_one_line(tmp_path: Path):
    config = EvalConfig(suite="readout", targets="smell", crop_size=32)
    with pytest.raises(EvaluationError, match="no target 'smell'"):
        evaluate("timm:test_resnet@random", {"f": "builtin:faces"}, config, cache=tmp_path)
