"""Vision-language models whose weights are open: layouts, training, surgery."""
