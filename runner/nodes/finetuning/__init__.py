"""Training of vision-language models: projector, LoRA or all, with or without a teacher. Shared by rooms that train."""
