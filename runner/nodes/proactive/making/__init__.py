"""A small benchmark of all seven scenarios, drawn from packaged material. Ours: for trying methods, not a published one."""
