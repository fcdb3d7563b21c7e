"""Time per pair of Lin similarity: our all-pairs matrix against NLTK's `Synset.lin_similarity` in a loop over pairs.

Both use the same information content. Ours computes all pairs of the given concepts of ImageNet-21K and ImageNet-1K,
the loop a sample of those pairs; NLTK's caches are warm. Interleaved, median of several rounds; also prints the time
that our corpus takes to build (once, whatever the number of pairs) and the largest difference between the two.
"""

import argparse
import json
import random
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from imagenet_sd.data.cog import eligible_concepts, read_counts
from imagenet_sd.data.similarity import LinSimilarity
from imagenet_sd.prompts.classes import load_classes
from imagenet_sd.prompts.wordnet import find_wordnet, open_wordnet, stage_wordnet


@contextmanager
def nltk_reader() -> Iterator[Any]:
    """NLTK's own reader over the WordNet that the project uses."""
    from nltk.corpus.reader import WordNetCorpusReader
    from nltk.data import path as nltk_path

    source = find_wordnet()
    assert source is not None
    with stage_wordnet(source) as folder:
        nltk_path.append(str(folder.parent.parent))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NLTK regrets that there is no multilingual data
            yield WordNetCorpusReader(str(folder), None)


def nltk_content(lin: LinSimilarity) -> dict[str, dict[int, float]]:
    """Our counts in the form that NLTK reads: part of speech -> offset -> count, with the total at offset 0."""
    content: dict[str, dict[int, float]] = {"n": defaultdict(float), "v": defaultdict(float)}
    content["n"].update({int(wnid[1:]): float(count) for wnid, count in lin.counts.items()})
    content["n"][0] = float(len(lin))
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=Path, help="TSV of the number of images per concept (wnid, num_images)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=5000, help="pairs per round for the loop")
    args = parser.parse_args()
    counts, synsets = read_counts(args.counts), list(open_wordnet())
    columns = [spec.wnid for spec in load_classes("imagenet-1k")]
    rows = eligible_concepts(synsets, counts, columns)
    started = time.perf_counter()
    lin = LinSimilarity(synsets, {*counts, *columns})
    build_seconds = time.perf_counter() - started
    rng = random.Random(0)
    sample = [(rng.randrange(len(rows)), rng.randrange(len(columns))) for _ in range(args.pairs)]
    samples: dict[str, list[float]] = {"ours": [], "nltk": []}
    difference = 0.0
    with nltk_reader() as reader:
        content = nltk_content(lin)
        left, right = ([reader.synset_from_pos_and_offset("n", int(w[1:])) for w in wnids] for wnids in (rows, columns))
        for round_ in range(args.rounds + 1):
            started = time.perf_counter()
            matrix = lin.matrix(rows, columns)
            ours = (time.perf_counter() - started) / matrix.size
            started = time.perf_counter()
            values = [left[row].lin_similarity(right[column], content) for row, column in sample]
            theirs = (time.perf_counter() - started) / len(sample)
            difference = max(difference, float(np.abs(matrix[tuple(zip(*sample, strict=True))] - values).max()))
            if round_:  # the first round warms up
                samples["ours"].append(1e6 * ours)
                samples["nltk"].append(1e6 * theirs)
    result = {f"{name}_us_per_pair": round(statistics.median(times), 4) for name, times in samples.items()}
    ratios = [theirs / ours for theirs, ours in zip(samples["nltk"], samples["ours"], strict=True)]
    pairs = len(rows) * len(columns)
    ours_with_build = result["ours_us_per_pair"] + 1e6 * build_seconds / pairs
    result |= {
        "ratio": round(statistics.median(ratios), 1),
        "ratio_with_build": round(result["nltk_us_per_pair"] / ours_with_build, 1),
        "pairs": pairs,
        "build_seconds": round(build_seconds, 3),
        "largest_difference": difference,
    }
    print(json.dumps(result | {"samples": samples}, indent=2))


if __name__ == "__main__":
    main()
