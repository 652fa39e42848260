"""Locks for what two threads must not do at the same time: steps run side by side in threads.

``importing``: transformers puts a lazy module in its own place while it is imported; a second thread may then see the
first one's half-made module ("cannot import name"). Whoever imports it, or a package that does, holds this lock::

    with importing:
        from transformers import AutoModel

``building``: while transformers builds a network it replaces the functions of ``torch.nn.init`` for the whole process and
keeps ties of weights aside; another network built meanwhile keeps arbitrary memory for weights, or misses tied ones. Whoever loads or
builds a network of transformers, or draws weights by ``torch.nn.init``, holds this lock. It is the same lock, since loading imports.
"""

from __future__ import annotations

import threading

importing = threading.RLock()
building = importing
