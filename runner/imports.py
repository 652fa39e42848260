"""One lock for imports that two threads must not make at the same time.

transformers puts a lazy module in its own place while it is imported; a second thread may then see the first one's
half-made module ("cannot import name"). Steps run side by side in threads, so whoever imports it, or a package that
does, holds this lock::

    with importing:
        from transformers import AutoModel
"""

from __future__ import annotations

import threading

importing = threading.RLock()
