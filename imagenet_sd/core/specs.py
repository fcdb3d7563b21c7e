"""What a spec string means: a set of labelled images, or an encoder. Parsed once, where it enters; objects after that.

Knows nothing of how images or encoders are opened.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from imagenet_sd.core.errors import DatasetError, ImagenetSDError
from imagenet_sd.core.layout import holds_dataset

DataKind = Literal["dataset", "imagefolder", "parquet", "hf", "builtin", "torchvision", "imagenet", "targets", "cog"]
_FORMS: dict[DataKind, str] = {
    "imagefolder": "DIR",
    "parquet": "DIR",
    "hf": "REPO",
    "builtin": "NAME",
    "torchvision": "NAME@ROOT",
    "imagenet": "NAME@ROOT",
    "targets": "TSV",
}
DATA_SPECS = f"a dataset folder, {', '.join(f'{kind}:{form}' for kind, form in _FORMS.items())}"
ENCODER_SPECS = "a run folder, timm:NAME, timm:NAME@CHECKPOINT or timm:NAME@random; A+B for an ensemble"
_PARTS = {
    "DIR": "(?P<root>.+)",
    "TSV": "(?P<root>.+)",
    "REPO": "(?P<name>.+)",
    "NAME": "(?P<name>.+)",
    "NAME@ROOT": "(?P<name>[^@]+)@(?P<root>.+)",
}
_LIMIT = re.compile(r"(.+)@(rounds|per_class)=(\d{1,9})")
_LEVEL = re.compile(r"(?P<name>.+?)@(?P<root>.+?)(?:@(?P<level>L[1-5]))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """A set of labelled images, by what kind of thing it is and where; `str` gives the text back.

    Attributes:
        kind: "dataset" is the folder of a dataset made by `generate`; "cog" a level of ImageNet-CoG; the others are the
            prefixes in the text.
        name: the set (`builtin`, `torchvision`, `imagenet`), the Hub repository (`hf`), or the folder with the lists
            of the levels (`cog`).
        root: the folder of the images; for `cog` that of ImageNet-21K, for `targets` the table.
        level: "L1" ... "L5" for `cog`; "" for all five.
        limit: "per_class" keeps the first `number` images of each class, "rounds" the first rounds of a dataset.
        number: at least 1 where there is a limit, else 0.
    """

    kind: DataKind
    name: str = ""
    root: str = ""
    level: str = ""
    limit: Literal["", "rounds", "per_class"] = ""
    number: int = 0

    @classmethod
    def parse(cls, text: str) -> "DataSpec":
        """Read `DATA_SPECS` or `LEVELS@IMAGENET21K[@L1]`.

        A text may end in `@per_class=N`, and in `@rounds=K` where it names a dataset made by `generate`. The folder of
        such a dataset may have an `@` in its name.

        Raises:
            DatasetError: the text is none of these, or its limit keeps nothing.
        """
        if not (limited := _LIMIT.fullmatch(text)):
            return cls._unlimited(text)
        spec, number = cls._unlimited(limited[1]), int(limited[3])
        if not number:
            raise DatasetError(f"{text} keeps nothing", "give a number of at least 1")
        if limited[2] == "per_class":
            return replace(spec, limit="per_class", number=number)
        if spec.kind not in ("dataset", "parquet"):
            raise DatasetError(f"{spec} has no rounds", "@rounds is for the folder of a dataset made by `generate`")
        return replace(spec, limit="rounds", number=number)

    @classmethod
    def _unlimited(cls, text: str) -> "DataSpec":
        prefix, _, rest = text.partition(":")
        for kind, form in _FORMS.items():
            if prefix == kind:
                if not (match := re.fullmatch(_PARTS[form], rest)):
                    raise DatasetError(f"no data {text!r}", f"write {kind}:{form}")
                parts = match.groupdict()
                return cls(kind=kind, name=parts.get("name", ""), root=parts.get("root", ""))
        if not text:
            raise DatasetError("no data ''", f"give {DATA_SPECS}")
        level = _LEVEL.fullmatch(text)
        if level and not holds_dataset(Path(text)):
            return cls(kind="cog", name=level["name"], root=level["root"], level=level["level"] or "")
        return cls(kind="dataset", root=text)

    def __str__(self) -> str:
        body = "@".join(filter(None, (self.name, self.root, self.level)))
        prefix = "" if self.kind in ("dataset", "cog") else f"{self.kind}:"
        return f"{prefix}{body}" + (f"@{self.limit}={self.number}" if self.limit else "")

    @property
    def paths(self) -> tuple[Path, ...]:
        """The local folders (for `targets`, the table) that it needs."""
        folders = (self.name, self.root) if self.kind == "cog" else (self.root,)
        return tuple(Path(folder).expanduser() for folder in folders if folder)

    def levels(self) -> dict[str, "DataSpec"]:
        """The five levels of ImageNet-CoG by name, "L1" to "L5".

        Raises:
            DatasetError: it is another kind of data, or one level already.
        """
        if self.kind != "cog" or self.level:
            raise DatasetError(f"{self} names no ImageNet-CoG levels", "write LEVELS@IMAGENET21K, two folders")
        return {name: replace(self, level=name) for name in ("L1", "L2", "L3", "L4", "L5")}


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSpec:
    """One encoder; `str` gives the text back.

    Attributes:
        model: name of a timm model; "" for a run folder.
        path: the run folder, or a file with weights for the model; "" for none.
        random: the model is left untrained.
    """

    model: str = ""
    path: str = ""
    random: bool = False

    @classmethod
    def parse(cls, text: str) -> "EncoderSpec":
        """Read one encoder of `ENCODER_SPECS`.

        Raises:
            ImagenetSDError: the text names none.
        """
        kind, _, rest = text.partition(":")
        model, _, checkpoint = rest.partition("@")
        if not text or (kind == "timm" and not model):
            raise ImagenetSDError(f"no encoder {text!r}", f"give {ENCODER_SPECS}")
        if kind != "timm":
            return cls(path=text)
        return cls(model=model, random=True) if checkpoint == "random" else cls(model=model, path=checkpoint)

    @classmethod
    def parse_ensemble(cls, text: str) -> tuple["EncoderSpec", ...]:
        """Read encoders joined by `+`; a `+` in the path of a file or folder that exists is part of the path."""
        parts, specs = text.split("+"), []
        while parts:
            taken = next((n for n in range(len(parts), 1, -1) if cls._is_path("+".join(parts[:n]))), 1)
            specs.append(cls.parse("+".join(parts[:taken])))
            parts = parts[taken:]
        return tuple(specs)

    @classmethod
    def _is_path(cls, text: str) -> bool:
        spec = cls.parse(text)
        return "+" not in spec.model and bool(spec.path) and Path(spec.path).exists()

    def __str__(self) -> str:
        if not self.model:
            return self.path
        return f"timm:{self.model}" + (f"@{self.path}" if self.path else "@random" if self.random else "")

    @property
    def label(self) -> str:
        """A short name: the text without its prefix."""
        return str(self).removeprefix("timm:")

    @property
    def weights(self) -> Path | None:
        """The local file that holds its weights; None where timm has them or they are random."""
        if self.model:
            return Path(self.path) if self.path else None
        return Path(self.path) / "encoder.safetensors"
