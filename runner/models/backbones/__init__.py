"""Vision networks whose features are open, layer by layer: timm, transformers, open_clip, convolutional ones."""
