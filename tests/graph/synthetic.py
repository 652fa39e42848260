"""What the damage tests read back, in a module that their child processes can import."""


def sealed_rows(store):
    return store.query("SELECT target, n, k, acc FROM c2b_gate ORDER BY ALL").to_pylist()
