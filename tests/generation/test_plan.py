import json
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from imagenet_sd.core.errors import DatasetError, PlanError, TemplateError
from imagenet_sd.core.seeds import image_seed
from imagenet_sd.core.types import GenerationPlan
from imagenet_sd.generation.config import GenerationConfig
from imagenet_sd.generation.models import resolve
from imagenet_sd.generation.plan import ModelIdentity, default_folder, make_plan
from imagenet_sd.storage.dataset import Dataset, fingerprint, load_plan

MODEL = ModelIdentity(model_id="some/model", revision="abc")


def plan_of(**settings) -> GenerationPlan:
    return make_plan(GenerationConfig(**{"classes": "digits-10", **settings}), MODEL)[0]


def ids(plan: GenerationPlan) -> list[str]:
    return [request.image_id for shard in plan.shards() for request in plan.requests(shard)]


def test_every_image_once_and_classes_mixed():
    plan = plan_of(images_per_class=37, shard_size=50)
    assert (plan.num_images, plan.num_shards) == (370, 8)
    assert [plan.shard(i).num_rows for i in range(8)] == [50] * 7 + [20]
    images = ids(plan)
    assert sorted(images) == sorted(f"{c.wnid}_{i:06d}" for c in plan.classes for i in range(37))
    first = Counter(image_id.split("_")[0] for image_id in images[:50])
    assert len(first) >= 8  # a shard without mixing would hold two classes


def test_requests_say_prompt_and_seed():
    plan = plan_of(images_per_class=3, shard_size=7, prompt="c_dc", seed=5)
    for shard in plan.shards():
        for request in plan.requests(shard):
            wnid, index = request.image_id.split("_")
            assert request.seed == image_seed(5, wnid, int(index))
            spec = plan.classes[request.prompt.class_index]
            assert spec.wnid == wnid
            assert request.prompt.text == f"{', '.join(spec.lemmas)}, {spec.definition}"


def test_noise_does_not_depend_on_prompt_scale_or_batch():
    seeds = [
        {r.image_id: r.seed for s in plan.shards() for r in plan.requests(s)}
        for plan in (
            plan_of(images_per_class=5),
            plan_of(images_per_class=5, prompt="c_hc_b", guidance_scale=2, batch_size=3, shard_size=4, multiple=2),
        )
    ]
    assert seeds[0].items() <= seeds[1].items()


def test_rounds_grow_without_touching_the_first():
    small, large = plan_of(images_per_class=10, shard_size=30), plan_of(images_per_class=10, shard_size=30, multiple=3)
    assert small.fingerprint == large.fingerprint
    assert large.num_images == 300
    for i in range(small.num_shards):
        assert small.shard(i) == large.shard(i)
        assert small.requests(small.shard(i)) == large.requests(large.shard(i))
    assert len(set(ids(large))) == 300
    by_round = [{r.image_id for s in large.shards() if s.round == k for r in large.requests(s)} for k in range(3)]
    assert by_round[1] == {f"{c.wnid}_{i:06d}" for c in large.classes for i in range(10, 20)}
    orders = [[x.split("_")[0] for x in ids(large)[k * 100 : k * 100 + 100]] for k in range(3)]
    assert orders[0] != orders[1] != orders[2]


def test_a_fraction_holds_the_first_images_of_each_class():
    tenth = plan_of(images_per_class=40, multiple=0.1)
    assert sorted(ids(tenth)) == sorted(f"{c.wnid}_{i:06d}" for c in tenth.classes for i in range(4))


def test_match_copies_the_counts_of_a_real_dataset(tmp_path: Path):
    classes = plan_of().classes
    for k, spec in enumerate(classes):
        (tmp_path / spec.wnid).mkdir()
        for i in range(k):
            (tmp_path / spec.wnid / f"{i}.JPEG").touch()
        (tmp_path / spec.wnid / "notes.txt").touch()
    plan = plan_of(match=str(tmp_path), shard_size=8)
    assert plan.counts == tuple(range(10))
    assert Counter(x.split("_")[0] for x in ids(plan)) == {c.wnid: k for k, c in enumerate(classes) if k}
    (tmp_path / classes[3].wnid).rename(tmp_path / "elsewhere")
    with pytest.raises(PlanError, match=classes[3].wnid):
        plan_of(match=str(tmp_path))


def test_ten_million_images_are_a_small_plan():
    config = GenerationConfig(classes="imagenet-1k", prompt="c_hc_b", images_per_class=1000, multiple=10)
    make_plan(config, MODEL)  # caches of class lists and scenes
    tracemalloc.start()
    plan, document = make_plan(config, MODEL)
    last = plan.requests(plan.shard(plan.num_shards - 1))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.num_images == 10_000_000 and plan.num_shards == 10_000
    assert len(last) == 1000 and last[0].image_id.split("_")[1] >= "009000"
    assert peak < 8_000_000
    assert len(json.dumps(document)) < 500_000


def test_the_plan_comes_back_from_its_document():
    plan, document = make_plan(GenerationConfig(classes="digits-10", prompt="c_hc_b", images_per_class=3), MODEL)
    again = load_plan(json.loads(json.dumps(document)))
    assert ids(again) == ids(plan)
    assert again.requests(again.shard(0)) == plan.requests(plan.shard(0))


def test_a_document_changed_by_hand_is_noticed():
    _, document = make_plan(GenerationConfig(classes="digits-10"), MODEL)
    document["settings"]["guidance_scale"] = 3.0
    with pytest.raises(DatasetError, match="fingerprint"):
        load_plan(document)
    for garbled in ({"format_version": 1}, {"format_version": 2}, {}, []):
        with pytest.raises(DatasetError, match="lacks or garbles"):
            load_plan(garbled)
    for rounds in (0, -1, "1", "2", None, 1.5, True, float("nan"), float("inf"), [1]):
        with pytest.raises(DatasetError, match="lacks or garbles a count"):
            load_plan(make_plan(GenerationConfig(classes="digits-10"), MODEL)[1] | {"rounds": rounds})
    for rounds in (10**9, 10**30):
        with pytest.raises(DatasetError, match=r"dataset\.json plans more than 1,000,000,000 images"):
            load_plan(make_plan(GenerationConfig(classes="digits-10"), MODEL)[1] | {"rounds": rounds})
    with pytest.raises(DatasetError, match="has format 3, this version reads 1 to 2"):
        load_plan(document | {"format_version": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["classes"][0].update(count=-1), "a count: -1"),
        (lambda d: d["classes"][0].update(count="3"), "a count: '3'"),
        (lambda d: d["classes"][0].update(count=True), "a count: True"),
        (lambda d: [c.update(count=0) for c in d["classes"]], "a count: there are no images"),
        (lambda d: d["classes"][0].update(count=10**21), "plans more than 1,000,000,000 images"),
        (lambda d: d["settings"].update(shard_size=1) or d.update(rounds=300), "plans more than 1,000,000 shards"),
        (lambda d: d["settings"].update(shard_size=0), "a count: 0"),
        (lambda d: d["settings"].update(batch_size=None), "a count: None"),
        (lambda d: d["classes"][0].update(lemmas=[1]), "the class 'n13742358'"),
        (lambda d: d["classes"][0].update(lemmas=[]), "the class 'n13742358'"),
        (lambda d: d["classes"][0].update(lemmas={"zero": 0}), "the class 'n13742358'"),
        (lambda d: d["classes"][0].update(definition="\ud800"), "holds half of a character"),
        (lambda d: d["classes"][0].update(wnid=None), "the class None"),
        (lambda d: d["classes"][0].update(class_index="0"), "the class 'n13742358'"),
        (lambda d: d["settings"].update(width="512"), "the setting width: '512'"),
        (lambda d: d["settings"].update(height=0), "the setting height: 0"),
        (lambda d: d["settings"].pop("width"), "lacks or garbles 'width'"),
        (lambda d: d["settings"].update(num_inference_steps=True), "the setting num_inference_steps: True"),
        (lambda d: d["settings"].update(guidance_scale="2"), "the setting guidance_scale: '2'"),
        (lambda d: d["settings"].update(guidance_scale=float("nan")), "the setting guidance_scale: nan"),
        (lambda d: d["settings"].update(seed=-1), "the setting seed: -1"),
        (lambda d: d["settings"].update(backgrounds=[1]), r"the setting backgrounds: \[1\]"),
        (lambda d: d["settings"].update(class_list=["x"]), r"the setting class_list: \['x'\]"),
        (lambda d: d["settings"].update(model_id=None), "the setting model_id: None"),
        (lambda d: d.update(classes={}), "lacks or garbles"),
        (lambda d: d.update(classes=[3]), "lacks or garbles"),
    ],
)
def test_a_garbled_document_with_a_fitting_fingerprint_is_one_line(change, message: str):
    document = make_plan(GenerationConfig(classes="digits-10", images_per_class=400), MODEL)[1]
    change(document)
    document["fingerprint"] = fingerprint(document)
    with pytest.raises(DatasetError, match=message):
        load_plan(document)


def test_a_plan_refuses_a_template_that_names_an_empty_field(tmp_path: Path):
    (tmp_path / "own.tsv").write_text("id\tname\tdefinition\thypernym\nrice\tnasi goreng\t\t\n")
    with pytest.raises(TemplateError, match=r"names {definition}, which is empty for rice"):
        plan_of(classes=str(tmp_path / "own.tsv"), prompt="c_dc")


@pytest.mark.parametrize(
    "settings",
    [{"images_per_class": 10**21}, {"images_per_class": 10**9}, {"shard_size": 1, "multiple": 10_000}],
    ids=str,
)
def test_a_plan_too_large_to_work_on_is_refused_at_once(settings: dict):
    started = time.process_time()
    with pytest.raises(PlanError, match="the plan has more than 1,000,000") as caught:
        plan_of(**settings)
    assert "--shard-size" in caught.value.hint and time.process_time() - started < 1


def test_the_largest_plan_starts_within_seconds(tmp_path: Path):
    """A million shards: what `generate` and `status` do before the first image. Fewer files are the file system's."""
    config = GenerationConfig(classes="digits-10", images_per_class=10_000, multiple=10_000)
    plan, document = make_plan(config, MODEL)
    assert (plan.num_images, plan.num_shards) == (10**9, 10**6)
    dataset = Dataset.from_document(tmp_path, document)
    started = time.process_time()
    assert len(dataset.unfinished()) == 10**6
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", "c_hc"),
        ("guidance_scale", 2.0),
        ("num_inference_steps", 20),
        ("negative_prompt", "x"),
        ("width", 64),
        ("seed", 1),
        ("images_per_class", 11),
        ("shard_size", 7),
        ("batch_size", 7),
        ("dtype", "float16"),
        ("classes", "imagenet-100"),
    ],
)
def test_whatever_decides_pixels_changes_the_fingerprint(name: str, value: object):
    settings = {name: value} | ({"height": 64} if name == "width" else {})
    base = {"classes": "digits-10", "images_per_class": 10}
    assert plan_of(**base).fingerprint != plan_of(**(base | settings)).fingerprint


def test_fingerprint_covers_the_weights_but_not_the_rounds():
    config = GenerationConfig(classes="digits-10")
    _, document = make_plan(config, MODEL)
    _, other = make_plan(config, ModelIdentity(model_id="some/model", revision="def"))
    assert document["fingerprint"] != other["fingerprint"]
    assert fingerprint(document | {"rounds": 50, "made_with": "x"}) == document["fingerprint"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": 0.5}, "guidance_scale"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"multiple": 2.5}, "multiple is 2.5"),
        ({"multiple": 0}, "multiple is 0"),
        ({"multiple": float("nan")}, "multiple"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"width": 30, "height": 32}, "width is 30"),
        ({"width": 32}, "go together"),
        ({"images_per_class": 3, "match": "x"}, "contradict"),
        ({"dtype": "int8"}, "dtype"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_settings_are_one_clear_line(settings: dict, message: str):
    with pytest.raises(PlanError, match=message) as caught:
        GenerationConfig(**settings)
    assert caught.value.hint and "\n" not in str(caught.value)


def test_folder_is_named_after_the_settings():
    config = GenerationConfig(prompt="c_dc", guidance_scale=2.0, seed=3)
    assert default_folder(config) == "imagenet-100-sd_c_dc_scale2_seed3"


def test_defaults_are_the_papers():
    """Thesis 5.5, implementation details: SD v1.4, 50 steps, scale 7.5 (2 for the best), 512 x 384."""
    config = resolve(GenerationConfig())
    assert (config.model, config.num_inference_steps) == ("CompVis/stable-diffusion-v1-4", 50)
    assert (config.guidance_scale, config.size, config.class_list) == (7.5, (512, 384), "imagenet-100")
