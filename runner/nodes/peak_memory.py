"""Peak memory of this process, for results."""

from __future__ import annotations

import resource


def peak_bytes(device: str) -> int:
    """Of the accelerator where ``device`` is one (tensors that its allocator held), else of the resident set since the start."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
