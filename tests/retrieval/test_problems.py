"""What is said of a corpus: what was left out, what was used and should be known, and an example of each."""

import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from retrieval.index import build
from retrieval.problems import MAX_EXAMPLES, examples, report
from runner.data.sources import NOTES

found = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 99).map(str), st.just("")).map(list), max_size=60)


@given(found)
def test_every_reason_has_its_first_example_before_any_second(items):
    shown = examples(items)
    reasons = list(dict.fromkeys(reason for reason, *_ in items))
    assert len(shown) == min(len(items), MAX_EXAMPLES)
    assert shown[: len(reasons)] == [next(item for item in items if item[0] == reason) for reason in reasons]


def test_what_is_used_is_noted_and_what_is_not_is_left_out(tmp_path, ctx, encoder, make_picture):
    """A tar file of img2dataset without its Parquet file: its pictures are used; a broken one is not."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as archive:
        for name, data in (("000000000.png", make_picture(1)), ("000000001.png", b"no picture")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    index = build(tmp_path / "index", {"img2dataset": str(folder)}, encoder, ctx)
    texts = [message["text"] for message in ctx.journal.messages]
    assert len(index) == 1
    assert any(text.startswith("noted: 1 missing_parquet; first: missing_parquet 00000") for text in texts)
    left = [text for text in texts if text.startswith("left out")]
    assert len(left) == 1 and "1 undecodable" in left[0] and not any(note in left[0] for note in NOTES)


def test_nothing_to_say_is_not_said(ctx):
    report([{"source_id": "s", "embedded": 1, "problems": {"counts": {}, "examples": []}}], ctx)
    assert ctx.journal.messages == []
