"""How fast a network reads prompts and writes replies, and the most memory that takes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.models.lvlm.batches import Writer
from runner.models.lvlm.generating import Question, forced, prompts

if TYPE_CHECKING:
    from runner.models.lvlm.loading import LoadedLvlm


class Speed(NamedTuple):
    """Tokens a second of reading and of writing (None where it took no time), seconds in all, bytes at the peak, prompt tokens."""

    prefill_tps: float | None
    decode_tps: float | None
    seconds: float
    peak_bytes: int
    prompt_tokens: int


def measure(loaded: LoadedLvlm, questions: Sequence[Question], *, new_tokens: int, repeats: int) -> Speed:
    """Median over ``repeats`` of one batch, after one run that warms up.

    Reading: the time to the first token, pictures included, over tokens that are no padding. Writing: ``new_tokens`` more, whatever they
    are. Peak: of the accelerator's allocator, or of the process's resident set (everything it ever held) on a CPU.
    """
    import torch

    inputs = prompts(Writer(loaded), loaded, questions)
    cuda = loaded.device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats(loaded.device)
    started = time.perf_counter()
    forced(loaded, inputs, 1)
    first = _median(lambda: forced(loaded, inputs, 1), repeats, loaded.device)
    whole = _median(lambda: forced(loaded, inputs, 1 + new_tokens), repeats, loaded.device)
    read = int(inputs["attention_mask"].sum())
    written = len(questions) * new_tokens
    peak = torch.cuda.max_memory_allocated(loaded.device) if cuda else resident_peak()
    return Speed(_rate(read, first), _rate(written, whole - first), time.perf_counter() - started, peak, read)


def _rate(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if seconds > 0 else None


def _median(work: Callable[[], Any], repeats: int, device: str) -> float:
    import torch

    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def resident_peak() -> int:
    """Bytes that this process held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
