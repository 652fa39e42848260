"""Layouts on disk: what is written comes back as the same function; what does not fit is refused."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from runner.errors import ModelRefused
from runner.nodes.sem.sae import SaeAbout, SparseAutoencoder, read_sae, write_sae
from runner.nodes.sem.sae_files import NameParts, file_name, parse_name

ABOUT = SaeAbout("ViT-B-16", "msae", (4, 8), "reverse", encoder="an identity", small=True, modality="text")
SEM_NAME = "MSAE_ViT-B-16_8_24_4x8_reverse.pth"


def made(about=ABOUT, scaled=False):
    torch.manual_seed(1)
    sae = SparseAutoencoder(8, 24, about)
    with torch.no_grad():
        sae.b_pre.normal_()
        if scaled:
            sae.mean.normal_()
            sae.scale.fill_(3.5)
    return sae


@pytest.fixture
def z():
    return torch.randn(20, 8, generator=torch.Generator().manual_seed(2))


def same(one, other, z):
    with torch.no_grad():
        torch.testing.assert_close(one.encode(z), other.encode(z), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one(z), other(z), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scaled", [False, True])
def test_native_keeps_everything(tmp_path, z, scaled):
    sae = made(scaled=scaled)
    assert write_sae(sae, tmp_path / "here") == tmp_path / "here"
    back = read_sae(tmp_path / "here")
    assert back.about == ABOUT and back.digest() == sae.digest()
    assert not back.training and not any(parameter.requires_grad for parameter in back.parameters())
    assert read_sae(tmp_path / "here" / "sae.safetensors", "native").digest() == sae.digest()
    same(sae, back, z)


@pytest.mark.parametrize("scaled", [False, True])
def test_sem_layout_has_the_published_names_and_shapes(tmp_path, z, scaled):
    sae = made(scaled=scaled)
    file = write_sae(sae, tmp_path, "sem")
    assert file.name == SEM_NAME
    shapes = {name: tuple(value.shape) for name, value in torch.load(file, weights_only=True).items()}
    assert shapes == {"bpre": (8,), "encoder.weight": (24, 8), "encoder.bias": (24,), "decoder.weight": (8, 24)}
    for layout in (None, "sem"):
        back = read_sae(file, layout)
        assert back.about == SaeAbout("ViT-B-16", "msae", (4, 8), "reverse")
        same(sae, back, z)


@pytest.mark.parametrize("scaled", [False, True])
def test_msae_layout_carries_mean_scale_and_target_norm(tmp_path, z, scaled):
    sae = made(SaeAbout("x", "msae", (4, 24), "uniform", target_norm=2.5), scaled)
    file = write_sae(sae, tmp_path, "msae")
    content = torch.load(file, weights_only=True)
    shapes = {name: tuple(value.shape) for name, value in content["model"].items()}
    assert shapes == {"pre_bias": (8,), "latent_bias": (24,), "encoder": (8, 24), "decoder": (24, 8)}
    assert content["target_norm"] == 2.5 and tuple(content["mean_center"].shape) == (8,)
    about = SaeAbout("given", "msae", (4, 24))
    back = read_sae(file, about=about)
    assert back.about == SaeAbout("given", "msae", (4, 24), target_norm=2.5)
    assert back.digest() == sae.digest()
    same(sae, back, z)
    with pytest.raises(ModelRefused, match="does not say its backbone"):
        read_sae(file)


def test_an_msae_file_whose_statistics_are_plain_numbers(tmp_path, z):
    sae = made(scaled=True)
    content = torch.load(write_sae(sae, tmp_path, "msae"), weights_only=True)
    torch.save(content | {"scaling_factor": 3.5, "mean_center": sae.mean[None]}, tmp_path / "plain.pth")
    same(sae, read_sae(tmp_path / "plain.pth", about=ABOUT), z)


def test_layouts_that_cannot_say_top_k_are_not_written(tmp_path):
    sae = made(SaeAbout("x", "topk", (3,)))
    with pytest.raises(ValueError, match="cannot hold an autoencoder that keeps 3"):
        write_sae(sae, tmp_path, "sem")
    write_sae(sae, tmp_path)
    assert read_sae(tmp_path).kept == 3


def test_names():
    assert parse_name(SEM_NAME) == NameParts("ViT-B-16", 8, 24, (4, 8), "reverse")
    assert parse_name("MSAE_a_b@336_8_24_4_uniform.pth") == NameParts("a_b@336", 8, 24, (4,), "uniform")
    assert parse_name("MSAE_RN101_512_16384_128x256x512_reverse.pth").levels == (128, 256, 512)
    for other in ("model.pth", "MSAE_x_8_24_4x_reverse.pth", "MSAE_x_8_24_4_reverse.txt", "xMSAE_x_8_24_4_reverse.pth"):
        assert parse_name(other) is None
    hostile = file_name(SaeAbout("../../etc/a\nb", levels=(2,)), 8, 24)
    assert "/" not in hostile and "\n" not in hostile and parse_name(hostile) is not None


def sem_tensors(**changes):
    tensors = {"bpre": torch.zeros(8), "encoder.weight": torch.ones(24, 8), "encoder.bias": torch.zeros(24),
               "decoder.weight": torch.ones(8, 24)} | changes  # fmt: skip
    return {name: value for name, value in tensors.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"bpre": torch.zeros(7)}, "b_pre has shape"), ({"encoder.bias": None}, "encoder.bias are missing"),
     ({"encoder.weight": torch.ones(24, 9)}, "the name says"), ({"encoder.weight": torch.ones(24)}, "the name says"),
     ({"decoder.weight": torch.ones(24, 8)}, "decoder.weight has shape"), ({"extra": torch.ones(1)}, "extra is not expected"),
     ({"bpre": torch.full((8,), torch.nan)}, "not all finite"), ({"bpre": torch.zeros(8, dtype=torch.int64)}, "not all finite"),
     ({"bpre": 3.0}, "bpre are missing")],
)  # fmt: skip
def test_sem_files_that_do_not_fit_are_refused(tmp_path, changes, message):
    torch.save(sem_tensors(**changes), tmp_path / SEM_NAME)
    with pytest.raises(ModelRefused, match=message):
        read_sae(tmp_path / SEM_NAME, "sem")


@pytest.mark.parametrize(
    "name", ["MSAE_x_8_24_8x4_reverse.pth", "MSAE_x_8_24_4x99_reverse.pth", "MSAE_x_8_24_0x4_reverse.pth"]
)
def test_levels_in_a_name_must_fit(tmp_path, name):
    torch.save(sem_tensors(), tmp_path / name)
    with pytest.raises(ModelRefused, match="levels"):
        read_sae(tmp_path / name)


def test_a_name_that_says_nothing_needs_a_description(tmp_path):
    torch.save(sem_tensors(), tmp_path / "model.pth")
    with pytest.raises(ModelRefused, match="does not say what"):
        read_sae(tmp_path / "model.pth")
    assert read_sae(tmp_path / "model.pth", about=ABOUT).about == ABOUT
    save_file(sem_tensors(), tmp_path / "model.safetensors")
    assert read_sae(tmp_path / "model.safetensors", about=ABOUT).d == 8


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle ran')",))


def test_pickles_that_run_code_are_refused(tmp_path):
    (tmp_path / SEM_NAME).write_bytes(pickle.dumps({"bpre": Evil()}))
    with pytest.raises(ModelRefused, match="more than tensors"):
        read_sae(tmp_path / SEM_NAME)
    torch.save({"bpre": Evil()}, tmp_path / SEM_NAME)
    with pytest.raises(ModelRefused, match="more than tensors"):
        read_sae(tmp_path / SEM_NAME)
    torch.save([1, 2], tmp_path / SEM_NAME)
    with pytest.raises(ModelRefused, match="no mapping"):
        read_sae(tmp_path / SEM_NAME)
    torch.save({"a": torch.ones(2)}, tmp_path / SEM_NAME)
    with pytest.raises(ModelRefused, match="neither SEM's tensors"):
        read_sae(tmp_path / SEM_NAME)


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda c: c.pop("mean_center"), "mean_center"), (lambda c: c.update(scaling_factor="two"), "must be 8 numbers"),
     (lambda c: c.update(mean_center=torch.zeros(3)), "must be 8 numbers"), (lambda c: c.update(scaling_factor=-1.0), "not positive"),
     (lambda c: c["model"].pop("latent_bias"), "latent_bias"), (lambda c: c.update(scaling_factor=float("nan")), "not all finite")],
)  # fmt: skip
def test_msae_files_that_do_not_fit_are_refused(tmp_path, change, message):
    content = torch.load(write_sae(made(scaled=True), tmp_path, "msae"), weights_only=True)
    change(content)
    torch.save(content, tmp_path / "changed.pth")
    with pytest.raises(ModelRefused, match=message):
        read_sae(tmp_path / "changed.pth", "msae", ABOUT)


@pytest.mark.parametrize(
    "change",
    [lambda c: c.update(format=9), lambda c: c.update(architecture="other"), lambda c: c.pop("backbone"),
     lambda c: c.update(levels="many"), lambda c: c.update(levels=[8, 4]), lambda c: c.update(levels=[4, 99])],
)  # fmt: skip
def test_damaged_descriptions_are_refused(tmp_path, change):
    write_sae(made(), tmp_path)
    content = json.loads((tmp_path / "sae.json").read_text())
    change(content)
    (tmp_path / "sae.json").write_text(json.dumps(content))
    with pytest.raises(ModelRefused, match=r"damaged description|no usable"):
        read_sae(tmp_path)


def test_folders_that_hold_something_else_are_refused(tmp_path):
    with pytest.raises(ModelRefused, match="holds no sparse autoencoder"):
        read_sae(tmp_path)
    write_sae(made(), tmp_path)
    save_file(load_file(tmp_path / "sae.safetensors") | {"more": torch.ones(1)}, tmp_path / "sae.safetensors")
    with pytest.raises(ModelRefused, match="more"):
        read_sae(tmp_path)
