"""Dictionaries: what is listed, embedded, centred; what is refused; what a kill loses."""

import gzip

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sith_clip import load_clip
from torch.nn.functional import normalize

from runner.context import local_context
from runner.errors import DataError
from runner.nodes.sith.coding import comp
from runner.nodes.sith.concept_steps import dictionary
from runner.nodes.sith.dictionary import CentredRows, UnitRows, centre, centred_rows
from runner.nodes.sith.dictionary_making import conceptnet_terms, listed, read_dictionary
from runner.nodes.sith.dictionary_specs import ConceptFile, ConceptList, ConceptNetTerms


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(tmp_path_factory.mktemp("clip") / "a")


@pytest.fixture
def ctx(tmp_path):
    return local_context(tmp_path / "work")


def messages(ctx):
    return [m["text"] for m in ctx.journal.messages]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 70))
def test_centring_by_chunks_is_centring(seed, count, chunk):
    E = 3 * torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)) + 1
    unit = normalize(E.double())
    wanted = normalize(unit - unit.mean(0)).float()
    centring = centre(E, chunk)
    torch.testing.assert_close(centring.mean, unit.mean(0).float(), atol=1e-6, rtol=0)
    derived = CentredRows(E, centring)
    torch.testing.assert_close(derived.rows(0, count), wanted, atol=1e-5, rtol=0)
    index = torch.tensor([[count - 1, 0], [0, 1]])
    torch.testing.assert_close(derived.take(index), wanted[index], atol=1e-5, rtol=0)
    torch.testing.assert_close(UnitRows(E, centring).take(index), unit.float()[index], atol=1e-6, rtol=0)


def test_rows_derived_from_a_file_are_coded_as_those_in_memory(tmp_path):
    g = torch.Generator().manual_seed(0)
    E, X = torch.randn(300, 16, generator=g) + 0.5, normalize(torch.randn(9, 16, generator=g))
    np.save(tmp_path / "e.npy", E.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "e.npy", mmap_mode="c"))
    centring = centre(mapped, 64)
    memory = centred_rows(mapped, centring)
    assert torch.equal(comp(X, CentredRows(mapped, centring), 5, chunk=64).support, comp(X, memory, 5).support)


def test_rows_that_vanish_are_left_out_and_places_are_kept():
    E = torch.tensor([[3.0, 0], [0, 0], [-1, 0]])  # the mean of the unit rows is 0, and so is the second
    centring = centre(E)
    assert centring.kept.tolist() == [0, 2]
    assert CentredRows(E, centring).shape == (2, 2)
    torch.testing.assert_close(CentredRows(E, centring).rows(1, 2), torch.tensor([[-1.0, 0]]))
    same = torch.cat([torch.ones(3, 2), torch.ones(1, 2)])
    with pytest.raises(ValueError, match="nothing is left of any row"):
        centre(same)
    with pytest.raises(ValueError, match="NaN"):
        centre(torch.tensor([[1.0, torch.nan]]))
    with pytest.raises(ValueError, match="at least one row"):
        centre(torch.zeros(0, 4))


def test_lines_are_taken_as_they_are_and_order_is_kept(tmp_path):
    (tmp_path / "c.txt").write_text("zebra\n a set aside \nApple\nzebra\nred\u00a0wine", "utf8")
    source = ConceptFile(file=str(tmp_path / "c.txt"))
    found = listed(source, dedupe=False, max_atoms=None, exclude=[])
    assert found.texts == ["zebra", " a set aside ", "Apple", "zebra", "red\u00a0wine"] and found.repeated == 1
    assert listed(source, dedupe=True, max_atoms=3, exclude=["Apple"]).texts == [
        "zebra",
        " a set aside ",
        "red\u00a0wine",
    ]
    hostile = ConceptList(list=["one\ntwo\x85three", "{{braces}}"])
    assert listed(hostile, dedupe=False, max_atoms=None, exclude=[]).texts == ["one two three", "{{braces}}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\n\nb\n  \n", "2 lines of the dictionary are blank: 2, 4"), ("", "empty"), ("x" * 70_000, "longer than 65536 bytes: 1")],
)  # fmt: skip
def test_lists_that_cannot_be_used_are_refused_by_line(tmp_path, text, message):
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        listed(ConceptFile(file=str(tmp_path / "c.txt")), dedupe=False, max_atoms=None, exclude=[])


def test_terms_of_conceptnet(tmp_path):
    lines = [
        "/a/1\t/r/IsA\t/c/en/wine_glass/n\t/c/en/glass\t{}",
        "/a/2\t/r/IsA\t/c/fr/verre\t/c/en/glass/n/wn/artifact\t{}",
        "/a/3\t/r/ExternalURL\t/c/en/glass\thttp://example.org/c/en/x\t{}",
    ]
    assert list(conceptnet_terms(lines, "en")) == ["wine glass", "glass"]
    assert list(conceptnet_terms(lines, "en", 2)) == ["glass"]
    with gzip.open(tmp_path / "c.csv.gz", "wt") as stream:
        stream.write("\n".join(lines))
    source = ConceptNetTerms(conceptnet=str(tmp_path / "c.csv.gz"), language="fr")
    assert listed(source, dedupe=False, max_atoms=None, exclude=[]).texts == ["verre"]
    (tmp_path / "c.csv").write_text("only words")
    with pytest.raises(DataError, match="line 1 is no assertion"):
        listed(ConceptNetTerms(conceptnet=str(tmp_path / "c.csv")), dedupe=False, max_atoms=None, exclude=[])


def test_a_dictionary_holds_the_raw_vectors_of_its_texts(ctx, clip):
    words = ["dog", "red wine", "dog", "a house"]
    made = dictionary(ctx, clip=clip, concepts=ConceptList(list=words), batch=3)
    np.testing.assert_allclose(np.load(made.index / "embeddings.npy"), clip.raw_texts(words), atol=1e-5)
    assert (made.index / "concepts.txt").read_text() == "dog\nred wine\ndog\na house\n"
    assert made.info["count"] == 4 and made.info["encoder"]["identity"] == clip.identity
    assert any("1 concepts repeat an earlier one" in text for text in messages(ctx))
    assert read_dictionary(made, clip.identity, ctx).texts == words
    with pytest.raises(DataError, match="whose space is another"):
        read_dictionary(made, "some other tower", ctx)


def test_rows_that_vanish_are_said_by_line(ctx, clip):
    made = dictionary(ctx, clip=clip, concepts=ConceptList(list=["dog", "cat", "sun"]))
    raw = np.load(made.index / "embeddings.npy")
    raw[:] = 0
    raw[0, 0], raw[2, 0] = 2, -1
    np.save(made.index / "embeddings.npy", raw)
    assert read_dictionary(made, clip.identity, ctx).centring.kept.tolist() == [0, 2]
    assert any("1 concepts are left out" in text and text.endswith("lines 2") for text in messages(ctx))
    raw[:] = raw[0]
    np.save(made.index / "embeddings.npy", raw)
    with pytest.raises(DataError, match="nothing is left of any row"):
        read_dictionary(made, clip.identity, ctx)


def test_a_kill_loses_at_most_a_batch(ctx, clip, monkeypatch):
    words, seen = [f"word {i}" for i in range(10)], []
    original = clip.raw_texts

    def breaks(texts):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(list(texts))
        return original(texts)

    monkeypatch.setattr(clip, "raw_texts", breaks)
    with pytest.raises(KeyboardInterrupt):
        dictionary(ctx, clip=clip, concepts=ConceptList(list=words), batch=3)
    again = []
    monkeypatch.setattr(clip, "raw_texts", lambda texts: again.append(list(texts)) or original(texts))
    made = dictionary(ctx, clip=clip, concepts=ConceptList(list=words), batch=3)
    assert seen == [words[:3], words[3:6]] and again == [words[6:9], words[9:]]
    np.testing.assert_allclose(np.load(made.index / "embeddings.npy"), original(words), atol=1e-5)
