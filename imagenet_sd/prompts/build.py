"""The prompt builder: a class, a template and a scene become one line of text (ImageNet-SD, sections 4.1 to 4.3)."""

import re
from collections.abc import Iterator, Sequence

from imagenet_sd.core.types import ClassSpec, Prompt, PromptTemplate
from imagenet_sd.prompts.places import background_of
from imagenet_sd.prompts.templates import parse_template, uses_background


class PromptBuilder:
    """Builds the prompt of any image of any class from a template.

    Args:
        template: the template; its fields are checked here.
        dataset_seed: seeds the order in which a class meets the scenes.

    Raises:
        TemplateError: the template has an unknown field.
    """

    def __init__(self, template: PromptTemplate, dataset_seed: int = 0):
        self.template = template
        self.dataset_seed = dataset_seed
        self._pieces = parse_template(template.text)
        self._with_background = uses_background(template)

    def prompt(self, spec: ClassSpec, index: int = 0) -> Prompt:
        """The prompt of image `index` of a class; the index matters only to templates that name a scene."""
        path = background = ""
        if self._with_background:
            path, background = background_of(self.dataset_seed, spec.wnid, index, self.template.backgrounds)
        return Prompt(
            prompt_id=f"{spec.wnid}:{self.template.key}{path}",
            wnid=spec.wnid,
            class_index=spec.class_index,
            template=self.template.key,
            background=background,
            text=self.render(spec, background),
        )

    def render(self, spec: ClassSpec, background: str) -> str:
        """The text of the prompt of a class in a scene."""
        values = {
            "name": ", ".join(spec.lemmas),
            "hypernym": ", ".join(spec.hypernyms),
            "definition": spec.definition,
            "background": background,
        }
        text = "".join(literal + (values[field] if field else "") for literal, field in self._pieces)
        if any(field and not values[field] for _, field in self._pieces):
            text = re.sub(r",?\s{2,}", " ", text)  # a comma or blank that was left without its neighbour
            text = re.sub(r"^[\s,]+|[\s,]+$", "", text)
        return text


def build_prompts(
    classes: Sequence[ClassSpec], template: PromptTemplate, *, images_per_class: int = 1, dataset_seed: int = 0
) -> Iterator[Prompt]:
    """The prompts of the first images of every class, class by class.

    Args:
        classes: the classes, in the order wanted.
        template: the template.
        images_per_class: how many prompts a class gets; more than one differs only where a scene is named.
        dataset_seed: see `PromptBuilder`.
    """
    builder = PromptBuilder(template, dataset_seed)
    for spec in classes:
        for index in range(images_per_class):
            yield builder.prompt(spec, index)
