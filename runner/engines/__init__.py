"""Where steps run: this process, Ray."""
