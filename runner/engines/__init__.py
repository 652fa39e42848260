"""Where steps run: this process. An engine for a cluster has its place beside ``local``."""
