"""Things whose key says their kind."""

from runner.keyed import meant

KINDS = {"folder": 1, "folder_tree": 2, "urls": 3}


def test_the_named_kind_comes_before_near_and_implied_ones() -> None:
    assert meant(["name", "urls", "foldr"], KINDS) == ["urls"]
    assert meant(["Folder-Tree"], KINDS)[0] == "folder_tree"
    assert meant(["root"], KINDS, {"root": "folder"}) == ["folder"]
    assert meant(["root", "url"], KINDS, {"root": "folder"}) == ["urls"]
    assert meant(["k"], KINDS) == []
