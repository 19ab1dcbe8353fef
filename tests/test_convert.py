"""Weights to and from PyTorch: the same logits, and no state dict is loaded in part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from unlearn_jax import convert, from_functions
from unlearn_jax.convert import from_torch, to_torch
from unlearn_jax.models import build
from unlearn_jax.models.convolution import FORMS
from unlearn_jax.types import Dense, Variables

SHAPE = (20, 8, 8, 3)
KIND = {"classes": 5, "width": 4}


def resnet(torch, stages, width=4, classes=5, norm=None, channels=3):
    """Names as in torchvision, with the stem that CIFAR has."""
    nn = torch.nn
    norm, inputs = norm or nn.BatchNorm2d, channels

    class BasicBlock(nn.Module):
        def __init__(self, channels, features, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(channels, features, 3, stride, 1, bias=False)
            self.bn1 = norm(features)
            self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
            self.bn2 = norm(features)
            self.downsample = nn.Identity()
            if stride != 1 or channels != features:
                self.downsample = nn.Sequential(nn.Conv2d(channels, features, 1, stride, bias=False), norm(features))

        def forward(self, x):
            y = torch.relu(self.bn1(self.conv1(x)))
            return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, 1, 1, bias=False), norm(width)
            self.stages, channels = len(stages), width
            for stage, depth in enumerate(stages):
                features, blocks = width * 2**stage, []
                for block in range(depth):
                    blocks.append(BasicBlock(channels, features, 2 if stage and not block else 1))
                    channels = features
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.fc = nn.Linear(channels, classes)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            for stage in range(self.stages):
                x = getattr(self, f"layer{stage + 1}")(x)
            return self.fc(x.mean((2, 3)))

    return ResNet()


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


IMAGES = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def said_by(torch, network, images=IMAGES):
    """Logits of a torch network on images as ours are."""
    with torch.no_grad():
        return network(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()


def trained(torch, network):
    """The network after a few steps, so that running statistics are no longer those of the start."""
    torch.manual_seed(0)
    optimiser = torch.optim.SGD(network.parameters(), 0.05)
    for _ in range(3):
        optimiser.zero_grad()
        labels = torch.arange(len(IMAGES)) % 5
        torch.nn.functional.cross_entropy(network(torch.tensor(IMAGES.transpose(0, 3, 1, 2))), labels).backward()
        optimiser.step()
    return network.eval()


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "stages"), [("resnet8", (1, 1, 1)), ("resnet20", (3, 3, 3)), ("resnet18", (2, 2, 2, 2))])
def test_logits_agree_with_torch_both_ways(torch, name, stages):
    torch.manual_seed(1)
    network = trained(torch, resnet(torch, stages))
    expected = said_by(torch, network)
    assert np.ptp(expected) > 0.1
    for form in FORMS if name == "resnet8" else ("xla",):
        model = build(name, **KIND, padding="torch", convolution=form)
        variables = from_torch(network.state_dict(), model)
        close(model.apply(variables, jnp.asarray(IMAGES))[0], expected)
    back = to_torch(variables, model)
    assert set(back) == set(network.state_dict())
    other = resnet(torch, stages)
    other.load_state_dict({key: torch.tensor(array) for key, array in back.items()})
    np.testing.assert_array_equal(said_by(torch, other.eval()), expected)
    same = build(name, **KIND, convolution="xla")
    assert np.abs(same.apply(variables, jnp.asarray(IMAGES))[0] - expected).max() > 1e-3  # with the other padding


def test_our_weights_give_our_logits_in_torch(torch):
    model = build("resnet8", **KIND, padding="torch", convolution="xla")
    variables = model.init(jax.random.key(0), jnp.asarray(IMAGES[:1]))
    _, statistics = model.apply(variables, jnp.asarray(IMAGES), train=True)
    variables = variables._replace(statistics=statistics)
    network = resnet(torch, (1, 1, 1))
    network.load_state_dict({key: torch.tensor(array) for key, array in to_torch(variables, model).items()}, strict=True)
    close(said_by(torch, network.eval()), model.apply(variables, jnp.asarray(IMAGES))[0])


def test_batchnorm_differs_in_training_by_the_unbiased_variance_alone(torch):
    network = resnet(torch, (1, 1, 1))
    model = build("resnet8", **KIND, padding="torch", convolution="xla")
    before = from_torch(network.state_dict(), model)
    logits, after = model.apply(before, jnp.asarray(IMAGES), train=True)
    close(logits, said_by(torch, network.train()))
    theirs = from_torch(network.state_dict(), model).statistics
    counts = {"stem_norm": 8 * 8, "stage1_block1": 8 * 8, "stage2_block1": 4 * 4, "stage3_block1": 2 * 2}
    for path, mean in jax.tree_util.tree_leaves_with_path(after):
        group, kind = path[0].key, path[-1].key
        other, start = theirs, before.statistics
        for key in path:
            other, start = other[key.key], start[key.key]
        n = len(IMAGES) * counts[group]
        unbiased = (mean - 0.9 * start) * (n / (n - 1) if kind == "var" else 1) + 0.9 * start
        np.testing.assert_allclose(unbiased, other, rtol=1e-4, atol=1e-6)


def test_group_normalisation_adds_another_number(torch):
    network = resnet(torch, (1, 1, 1), norm=lambda features: torch.nn.GroupNorm(min(8, features), features, eps=1e-6)).eval()
    model = build("resnet8", **KIND, padding="torch", normalisation="group", convolution="xla")
    close(model.apply(from_torch(network.state_dict(), model), jnp.asarray(IMAGES))[0], said_by(torch, network))


MODEL = build("resnet8", **KIND, padding="torch")


@pytest.fixture(scope="module")
def state():
    variables = jax.jit(MODEL.init)(jax.random.key(0), jnp.asarray(IMAGES[:1]))
    return to_torch(variables, MODEL)


def test_without_torch_what_goes_out_comes_back(state, tmp_path):
    safetensors.numpy.save_file(state, tmp_path / "x.safetensors")
    variables = from_torch(tmp_path / "x.safetensors", MODEL)
    assert state["conv1.weight"].shape == (4, 3, 3, 3) and state["fc.weight"].shape == (5, 16)
    np.testing.assert_array_equal(variables.params["stem"]["kernel"][1, 2, 0], state["conv1.weight"][:, 0, 1, 2])
    again = to_torch(variables, MODEL)
    assert list(again) == list(state) and all(np.array_equal(again[name], state[name]) for name in state)


def without(name):
    return lambda state: {key: array for key, array in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            without("layer2.0.downsample.1.running_mean"),
            "layer2.0.downsample.1.running_mean is missing, which is statistics/stage2",
        ),
        (lambda state: {**state, "layer4.0.conv1.weight": np.zeros(3)}, "layer4.0.conv1.weight has no place in the model"),
        (
            lambda state: {**state, "fc.weight": state["fc.weight"].T},
            r"fc.weight does not fit: params/head/kernel is float32 \(5, 16\)",
        ),
        (lambda state: {**state, "fc.bias": np.float64(state["fc.bias"])}, r"fc.bias does not fit: params/head/bias is float64"),
        (
            lambda state: {**state, "fc.weight": np.zeros(80, np.float32)},
            r"fc.weight is \(80,\), and params/head/kernel has 2 axes",
        ),
        (
            lambda state: {**state, "conv1.weight": np.zeros((4, 3, 7, 7), np.float32)},
            r"conv1.weight does not fit: .*\(7, 7, 3, 4\)",
        ),
        (lambda state: "weights.pt", "weights.pt is no .safetensors file, and a pickle is never loaded"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_with_its_first_wrong_name(state, change, said):
    with pytest.raises(ValueError, match=rf"^state_dict: {said}"):
        from_torch(change(state), MODEL)


def linear():
    """A model of the user's, which declares its one kernel."""

    def init(key, x):
        return {"scale": jnp.ones(3), "w": jax.random.normal(key, (5, 3))}, {"seen": jnp.zeros(())}

    def apply(params, state, key, x, train):
        return params["scale"][None] * (x @ params["w"]), state

    return from_functions(init, apply, example=np.zeros((1, 5), np.float32), head=Dense("w", None))


NAMES = {"a.weight": "params/w", "gain": "params/scale", "seen": "statistics/seen"}


def test_any_model_by_a_map_of_names():
    model, weight = linear(), np.arange(15, dtype=np.float32).reshape(3, 5)
    state = {"a.weight": weight, "gain": np.ones(3, np.float32), "seen": np.float32(2)}
    example = np.zeros((1, 5))
    variables = from_torch(state, model, names=NAMES, example=example)
    np.testing.assert_array_equal(variables.params["w"], weight.T)
    back = to_torch(variables, model, names=NAMES)
    assert all(np.array_equal(back[name], state[name]) for name in state)
    with pytest.raises(ValueError, match=r"^example: needed for a model without conv1.weight"):
        from_torch(state, model, names=NAMES)
    with pytest.raises(ValueError, match=r"^names: needed for this model, whose params/scale is of none"):
        from_torch(state, model, example=example)
    for wrong, said in (
        ({**NAMES, "b": "params/b"}, "b is params/b, which is no array of the model"),
        ({**NAMES, "b": "params/w"}, "params/w stands twice"),
        ({"a.weight": "params/w"}, "none is params/scale"),
    ):
        with pytest.raises(ValueError, match=rf"^names: {said}"):
            from_torch(state, model, names=wrong, example=example)
    with pytest.raises(ValueError, match=r"^model: whether w is a kernel is not declared"):
        from_torch(state, model._replace(head=None), names=NAMES, example=example)
    assert isinstance(convert.from_torch(state, model, names=NAMES, example=example), Variables)


def test_a_resnet_that_pads_otherwise_is_refused():
    said = r"^model: built with padding 'same', and torch pads otherwise; build it with padding='torch'$"
    with pytest.raises(ValueError, match=said):
        from_torch({}, build("resnet8", classes=3, width=2))
