"""Settings for every test: no hub, one thread, quiet tokenizers; how many examples a property is tried on."""

import os

import hypothesis

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# `make test` runs a worker a core: more threads than that wait for each other by spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline: the first call of scipy imports for longer. `--hypothesis-profile=thorough` tries eight times as many examples.
hypothesis.settings.register_profile("short", deadline=None, max_examples=50)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=400)
hypothesis.settings.load_profile("short")
