import gzip
import io
import json
import os
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from runner.data.sources import Corpus, open_source, open_sources
from runner.data.sources.base import chunked
from runner.data.sources.tars import split_name
from runner.errors import DataError


def png(seed=0):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def uris(source):
    return [record.uri for record in source]


def reasons(source):
    for _ in source:
        pass
    return source.problems.counts()


# --- specs -----------------------------------------------------------------------------------------------------------


def errors(value):
    with pytest.raises(ValidationError) as error:
        TypeAdapter(Corpus).validate_python(value)
    return [(e["loc"], e["type"]) for e in error.value.errors()]


def test_the_key_says_the_kind_and_a_single_source_is_a_corpus(tmp_path):
    corpus = TypeAdapter(Corpus)
    one = corpus.validate_python({"folder": str(tmp_path)})
    many = corpus.validate_python([{"folder": str(tmp_path)}, {"packaged": "tuxpaint-stamps+large", "limit": 3}])
    assert one == many[0]
    assert (many[1].packaged, many[1].variant, many[1].limit) == ("asset:tuxpaint-stamps", "large", 3)
    assert corpus.validate_python(many[1].plain()) == many[1]


@pytest.mark.parametrize(
    ("value", "place", "kind"),
    [
        ({"fodler": "x"}, "folder", "missing"),
        ({"folder-tree": "x"}, "folder_tree", "missing"),
        ({"folder": "/no/such/place"}, "folder", "missing_path"),
        ({"folder": "/tmp", "limit": 0}, "limit", "greater_than_equal"),
        ({"folder": "/tmp", "limt": 1}, "limt", "extra_forbidden"),
        ({"folder": "/tmp", "parquet": "/tmp"}, "parquet", "extra_forbidden"),
        ({"something": 1}, "one source", "source_kind"),
        ("photos", "one source", "source_kind"),
        ([], "sources", "too_short"),
    ],
)
def test_a_wrong_source_gives_an_error_at_its_place(value, place, kind):
    assert (place, kind) in [(loc[-1], type_) for loc, type_ in errors(value)]


def test_the_published_schema_takes_what_pydantic_takes(tmp_path):
    import jsonschema

    schema = TypeAdapter(Corpus).json_schema()
    for good in ({"folder": "x"}, [{"webdataset": ["a.tar"]}, {"parquet": "b.parquet", "name": "b"}]):
        jsonschema.validate(good, schema)
    for bad in ({"fodler": "x"}, {"folder": "x", "parquet": "y"}, [], 3):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_two_sources_need_two_names(tmp_path):
    write(tmp_path, {"a/p/1.png": png(), "b/p/1.png": png()})
    specs = [{"folder": str(tmp_path / "a/p")}, {"folder": str(tmp_path / "b/p")}]
    with pytest.raises(DataError, match="'p'"):
        open_sources(specs)
    assert [s.source_id for s in open_sources([specs[0], {**specs[1], "name": "q"}])] == ["p", "q"]


def test_open_source_says_what_is_wrong():
    with pytest.raises(DataError, match="limit"):
        open_source({"folder": "/tmp", "limit": 0})


# --- folders ---------------------------------------------------------------------------------------------------------


def test_folder_is_read_in_the_order_of_its_paths_in_any_letter_case(tmp_path):
    names = ["b.JPG", "a/z.PnG", "a.png", "B/c.webp", "a/b/c.gif", "x.jpeg", "y.bmp"]
    write(tmp_path, {name: png() for name in names} | {"notes.md": b"", "a.mp4": b"", "noending": b""})
    assert uris(open_source({"folder": str(tmp_path)})) == sorted(names)


def test_folder_skips_what_is_hidden(tmp_path):
    write(tmp_path, {".git/a.png": png(), "a/.thumbs/b.png": png(), ".c.png": png(), "d.png": png()})
    assert uris(open_source({"folder": str(tmp_path)})) == ["d.png"]


def test_captions_come_from_the_same_stem_without_the_last_ending(tmp_path):
    texts = {
        "a.txt": b" one \n",
        "b.v2.TXT": "zw\u00f6lf".encode(),
        "c.txt": b"\xef\xbb\xbfbom",
        "d.txt": b"  ",
        "e.txt": b"\xff",
    }
    write(tmp_path, {f"{n}.png": png() for n in ("a", "b.v2", "b", "c", "d", "e")} | texts)
    found = {r.uri: r.caption for r in open_source({"folder": str(tmp_path)})}
    assert found == {
        "a.png": "one", "b.v2.png": "zw\u00f6lf", "b.png": None, "c.png": "bom", "d.png": None, "e.png": "\ufffd"
    }  # fmt: skip


def test_links_never_lead_out_of_the_root(tmp_path):
    outside = write(tmp_path / "outside", {"secret.png": png(1), "deep/secret.png": png(2)})
    root = write(tmp_path / "root", {"real.png": png(3), "sub/x.png": png(4)})
    (root / "out.png").symlink_to(outside / "secret.png")
    (root / "outdir").symlink_to(outside / "deep")
    (root / "loop").symlink_to(root)
    (root / "inside.png").symlink_to(root / "sub/x.png")
    (root / "dangling.png").symlink_to(root / "nowhere.png")
    source = open_source({"folder": str(root)})
    assert uris(source) == ["inside.png", "real.png", "sub/x.png"]
    assert source.problems.counts() == {"link_out_of_root": 2, "link_to_folder": 1, "broken_link": 1}


@pytest.mark.parametrize("uri", ["../outside/secret.png", "/etc/hostname", "out.png", "a/../../outside/secret.png"])
def test_random_access_never_leads_out_of_the_root_either(tmp_path, uri):
    outside = write(tmp_path / "outside", {"secret.png": png(1)})
    root = write(tmp_path / "root", {"real.png": png(3)})
    (root / "out.png").symlink_to(outside / "secret.png")
    with pytest.raises(DataError):
        list(open_source({"folder": str(root)}).read_many([uri]))


def test_a_pipe_named_like_a_picture_does_not_hang(tmp_path):
    write(tmp_path, {"a.png": png()})
    os.mkfifo(tmp_path / "b.png")
    source = open_source({"folder": str(tmp_path)})
    assert uris(source) == ["a.png"]
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    assert reasons(source) == {"special_file": 1, "unreadable_file": 1}


def test_a_file_that_vanished_is_reported_and_asked_for_by_name_it_is_an_error(tmp_path):
    write(tmp_path, {"a.png": png(), "b.png": png()})
    source = open_source({"folder": str(tmp_path)})
    source.shards()
    (tmp_path / "a.png").unlink()
    assert uris(source) == ["b.png"] and source.problems.counts() == {"unreadable_file": 1}
    with pytest.raises(DataError, match=r"a\.png"):
        list(source.read_many(["a.png"]))


def test_reading_again_does_not_count_problems_twice(tmp_path):
    write(tmp_path, {"a.png": png(), "b.png": png()})
    source = open_source({"folder": str(tmp_path)})
    source.shards()
    (tmp_path / "a.png").unlink()
    assert reasons(source) == reasons(source) == {"unreadable_file": 1}


def test_the_fingerprint_follows_content_and_captions_not_the_place(tmp_path):
    root = write(tmp_path / "x", {"a.png": png(), "a.txt": b"one"})
    first = open_source({"folder": str(root)}).fingerprint()
    root = root.rename(tmp_path / "moved")
    assert open_source({"folder": str(root)}).fingerprint() == first
    (root / "a.txt").write_bytes(b"other")
    changed = open_source({"folder": str(root)}).fingerprint()
    write(root, {"b.png": png(1)})
    assert len({first, changed, open_source({"folder": str(root)}).fingerprint()}) == 3


def test_limit_reads_the_first_so_many(tmp_path):
    write(tmp_path, {f"{n}.png": png(n) for n in range(9)})
    assert uris(open_source({"folder": str(tmp_path), "limit": 4})) == [f"{n}.png" for n in range(4)]


def test_folder_labels_are_apart_from_the_records(tmp_path):
    write(tmp_path, {"cat/1.png": png(), "dog/x/2.png": png(), "3.png": png()})
    source = open_source({"folder": str(tmp_path), "label_from_folder": True})
    assert source.labels() == {"cat/1.png": "cat", "dog/x/2.png": "dog"}
    assert all(record.metadata == {} and record.caption is None for record in source)
    assert open_source({"folder": str(tmp_path)}).labels() is None


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=300), st.text(min_size=1, max_size=6))
def test_runs_cover_everything_and_one_more_name_changes_few(names, extra):
    def runs(listed):
        listed = sorted(listed)
        return [tuple(listed[a:b]) for a, b in chunked(listed, mean=8, largest=10**6)]

    before, after = runs(names), runs({*names, extra})
    assert [n for run in before for n in run] == sorted(names)
    assert len(set(before) - set(after)) <= 1 and len(set(after) - set(before)) <= 2


# --- folder tree -----------------------------------------------------------------------------------------------------


def test_folder_tree_reads_the_three_names_with_or_without_one_level_on_top(tmp_path):
    write(tmp_path / "t", {"cat/light/dark/1.png": png(), "dog/light/dark/2.png": png(), "dog/3.png": png()})
    write(tmp_path / "u", {"animal/cat/light/dark/1.png": png()})
    flat, deep = (open_source({"folder_tree": str(tmp_path / name)}) for name in "tu")
    assert [r.metadata for r in flat] == [{"target": t, "attribute": "light", "value": "dark"} for t in ("cat", "dog")]
    assert flat.problems.counts() == {"unexpected_depth": 1}
    assert [r.metadata["target"] for r in deep] == ["cat"]


def test_folder_tree_refuses_to_merge_two_classes_of_one_name(tmp_path):
    write(tmp_path, {"smile/yes/light/dark/1.png": png(), "hat/yes/light/dark/1.png": png()})
    with pytest.raises(DataError, match="two places"):
        open_source({"folder_tree": str(tmp_path)}).shards()


# --- webdataset ------------------------------------------------------------------------------------------------------


def tar_bytes(members, *, end=True):
    """A tar of (name, data) pairs; a TarInfo in the place of a name is taken as it is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
        size = tar.offset
    return buffer.getvalue() if end else buffer.getvalue()[:size]


def shard(tmp_path, members, name="s.tar", **options):
    (tmp_path / name).write_bytes(tar_bytes(members, **options))
    return open_source({"webdataset": str(tmp_path / name)})


def member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.seg.png", ("a/b", "seg.png")), ("a.b/c.JPG", ("a.b/c", "jpg")), ("x.jpg", ("x", "jpg")),
        ("./x.Txt", ("./x", "txt")), ("dir.v1/00.cls.txt", ("dir.v1/00", "cls.txt")),
    ],
)  # fmt: skip
def test_a_key_ends_at_the_first_dot_of_the_base_name(name, expected):
    assert split_name(name) == expected


def test_webdataset_samples_are_neighbours_with_one_key(tmp_path):
    meta = json.dumps({"camera": "x"}).encode()
    source = shard(
        tmp_path,
        [
            ("a.jpg", png(1)),
            ("a.txt", b"one"),
            ("a.json", meta),
            ("__meta__.txt", b"-"),
            ("d/b.PNG", png(2)),
            ("d/b.seg.png", png(3)),
        ],
    )
    first, second = source
    assert (first.uri, first.caption, first.metadata) == ("s.tar#a.jpg", "one", {"camera": "x"})
    assert (second.uri, second.caption, second.data) == ("s.tar#d/b.PNG", None, png(2))
    assert not len(source.problems)


def test_a_mask_is_not_taken_for_the_picture_unless_asked(tmp_path):
    source = shard(tmp_path, [("a.seg.png", png(1))])
    assert reasons(source) == {"no_image": 1}
    asked = open_source({"webdataset": str(tmp_path / "s.tar"), "image_field": "SEG.png"})
    assert uris(asked) == ["s.tar#a.seg.png"]


def test_webdataset_rejects_links_special_members_and_unsafe_names(tmp_path):
    source = shard(
        tmp_path,
        [
            (member("l.jpg", tarfile.SYMTYPE, "/etc/passwd"), b""),
            (member("h.jpg", tarfile.LNKTYPE, "ok.jpg"), b""),
            (member("f.jpg", tarfile.FIFOTYPE), b""),
            (member("c.jpg", tarfile.CHRTYPE), b""),
            (member("folder.d", tarfile.DIRTYPE), b""),
            ("../../up.jpg", png()),
            ("/abs.jpg", png()),
            ("plain", b"x"),
            ("ok.jpg", png()),
        ],
    )
    assert uris(source) == ["s.tar#ok.jpg"]
    assert source.problems.counts() == {"link_member": 2, "no_field": 1, "special_member": 2, "unsafe_name": 2}


def test_a_duplicate_field_spoils_its_sample_only(tmp_path):
    source = shard(tmp_path, [("a.jpg", png(1)), ("a.JPG", png(2)), ("b.jpg", png(3))])
    assert uris(source) == ["s.tar#b.jpg"] and source.problems.counts() == {"duplicate_field": 1}


def test_a_key_that_returns_is_a_new_partial_sample(tmp_path):
    source = shard(tmp_path, [("a.jpg", png(1)), ("b.jpg", png(2)), ("a.txt", b"late")])
    assert [(r.uri, r.caption) for r in source] == [("s.tar#a.jpg", None), ("s.tar#b.jpg", None)]
    assert source.problems.counts() == {"no_image": 1, "returning_key": 1}


def test_a_uri_names_one_picture(tmp_path):
    source = shard(tmp_path, [("a.jpg", png(1)), ("b.jpg", png(2)), ("a.jpg", png(3))])
    assert [r.data for r in source] == [png(1), png(2)]
    assert source.problems.counts() == {"repeated_member": 1, "returning_key": 1}
    assert dict(source.read_many(["s.tar#a.jpg"])) == {"s.tar#a.jpg": png(1)}


THREE = [
    ("a.jpg", png(1)),
    ("a.txt", b"one"),
    ("b.jpg", png(2)),
    ("b.txt", b"two"),
    ("c.jpg", png(3)),
    ("c.txt", b"three"),
]


def test_every_cut_of_a_tar_is_reported_and_no_cut_sample_gets_through(tmp_path):
    whole = tar_bytes(THREE)
    end = len(tar_bytes(THREE, end=False))
    assert len(uris(shard(tmp_path, THREE))) == 3
    for length in [*range(0, end, 173), *range(512, end + 1, 512)]:
        (tmp_path / "s.tar").write_bytes(whole[:length])
        source = open_source({"webdataset": str(tmp_path / "s.tar")})
        records = list(source)
        expected = "truncated_shard" if length >= 512 else "damaged_shard"
        assert source.problems.counts() == {expected: 1}, length
        assert [(r.data, r.caption) for r in records] == [(png(n), t) for n, t in ((1, "one"), (2, "two"))][
            : len(records)
        ]


def test_a_damaged_header_in_the_middle_is_reported(tmp_path):
    data = bytearray(tar_bytes(THREE))
    second = 512 + (len(png(1)) + 511) // 512 * 512
    data[second : second + 20] = b"\xff" * 20
    (tmp_path / "s.tar").write_bytes(data)
    assert reasons(open_source({"webdataset": str(tmp_path / "s.tar")})) == {"truncated_shard": 1}


def test_a_cut_compressed_tar_is_reported(tmp_path):
    packed = gzip.compress(tar_bytes(THREE))
    (tmp_path / "s.tar.gz").write_bytes(packed)
    assert len(uris(open_source({"webdataset": str(tmp_path / "s.tar.gz")}))) == 3
    (tmp_path / "s.tar.gz").write_bytes(packed[:-60])
    assert reasons(open_source({"webdataset": str(tmp_path / "s.tar.gz")})) == {"truncated_shard": 1}


def test_one_bad_shard_does_not_cost_the_others(tmp_path):
    (tmp_path / "0.tar").write_bytes(tar_bytes(THREE[:2]))
    (tmp_path / "1.tar").write_bytes(b"this is no tar file" * 100)
    (tmp_path / "2.tar").write_bytes(tar_bytes(THREE[2:4]))
    source = open_source({"webdataset": str(tmp_path / "*.tar")})
    assert uris(source) == ["0.tar#a.jpg", "2.tar#b.jpg"]
    assert source.problems.counts() == {"damaged_shard": 1}


def test_webdataset_limit_and_random_access_over_several_shards(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.tar").write_bytes(tar_bytes([(f"{i}.jpg", png(10 * n + i)) for i in range(4)]))
    source = open_source({"webdataset": [str(tmp_path / "2.tar"), str(tmp_path / "[01].tar")], "limit": 6})
    assert uris(source) == [f"0.tar#{i}.jpg" for i in range(4)] + ["1.tar#0.jpg", "1.tar#1.jpg"]
    asked = ["2.tar#3.jpg", "0.tar#1.jpg", "2.tar#0.jpg"]
    assert dict(source.read_many(asked)) == {"2.tar#3.jpg": png(23), "0.tar#1.jpg": png(1), "2.tar#0.jpg": png(20)}
    for gone in ("9.tar#0.jpg", "0.tar#nothing.jpg"):
        with pytest.raises(DataError):
            list(source.read_many([gone]))


def test_webdataset_labels_are_apart_from_the_records(tmp_path):
    (tmp_path / "s.tar").write_bytes(tar_bytes([("a.jpg", png()), ("a.cls", b"7"), ("b.jpg", png(1))]))
    source = open_source({"webdataset": str(tmp_path / "s.tar"), "label_field": "cls"})
    assert source.labels() == {"s.tar#a.jpg": "7"}


def test_a_shard_name_with_a_hash_sign_stays_unambiguous(tmp_path):
    source = shard(tmp_path, [("a#1.jpg", png(5))], name="s#2.tar")
    assert dict(source.read_many(uris(source))) == {"s%232.tar#a#1.jpg": png(5)}
