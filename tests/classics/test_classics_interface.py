"""timm's interface on the three classics."""

import copy

import pytest
import timm
import torch
from timm.models import group_parameters
from torch import nn

import hf_tl.classics
from hf_tl.errors import ModelError

assert hf_tl.classics  # registers AlexNet, ZFNet and GoogLeNet with timm

NAMES = ("alexnet", "zfnet", "googlenet")


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    """Return a model for one-channel images and ten classes; tests do not change it."""
    torch.manual_seed(0)
    return timm.create_model(request.param, num_classes=10, in_chans=1).eval()


def on_meta(name: str, **kwargs: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def test_the_names_are_timms() -> None:
    assert {*NAMES, "inception_v1"} <= set(timm.list_models())
    assert set(timm.list_pretrained("*tv_in1k")) >= {"alexnet.tv_in1k", "googlenet.tv_in1k"}
    assert not timm.is_model_pretrained("zfnet")


def test_logits_are_the_classifier_on_the_head_on_the_features(model: nn.Module) -> None:
    images = torch.randn(2, 1, 80, 70)
    with torch.no_grad():
        logits = model(images)
        features = model.forward_features(images)
        hidden = model.forward_head(features, pre_logits=True)
        assert logits.shape == (2, 10)
        assert features.shape[:2] == (2, model.num_features)
        assert hidden.shape == (2, model.head_hidden_size)
        assert torch.equal(model.forward_head(features), logits)
        assert torch.equal(model.get_classifier()(hidden), logits)


def test_first_conv_and_classifier_are_where_the_cfg_says(model: nn.Module) -> None:
    assert model.get_submodule(model.pretrained_cfg["first_conv"]).in_channels == 1
    assert model.get_submodule(model.default_cfg["classifier"]) is model.get_classifier()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("coarse", [False, True])
def test_groups_cover_the_parameters_in_order_and_end_with_the_head(name: str, coarse: bool) -> None:
    model = on_meta(name)
    groups = group_parameters(model, model.group_matcher(coarse))
    names = [parameter for _, group in sorted(groups.items()) for parameter in group]
    assert names == [name for name, _ in model.named_parameters()]
    assert groups[max(groups)] == [f"{model.pretrained_cfg['classifier']}.{leaf}" for leaf in ("weight", "bias")]


@pytest.mark.parametrize(
    ("name", "coarse", "count"),
    [
        ("alexnet", False, 5 + 2 + 1),
        ("zfnet", False, 5 + 2 + 1),
        ("googlenet", False, 1 + 9 + 1),
        ("alexnet", True, 4),
        ("zfnet", True, 4),
        ("googlenet", True, 5),
    ],
)
def test_groups_are_layers_or_coarse(name: str, coarse: bool, count: int) -> None:
    model = on_meta(name)
    assert len(group_parameters(model, model.group_matcher(coarse))) == count


@pytest.mark.parametrize("name", NAMES)
def test_modules_are_registered_in_the_order_in_which_they_run(name: str) -> None:
    model = on_meta(name)
    leaves = {module: path for path, module in model.named_modules() if not list(module.children())}
    called: list[str] = []
    for module in leaves:
        module.register_forward_hook(lambda module, *_: called.append(leaves[module]))
    model(torch.empty(2, 3, 224, 224, device="meta"))
    assert called == list(leaves.values())


@pytest.mark.parametrize("name", NAMES)
def test_features_have_the_channels_and_reductions_of_feature_info(name: str) -> None:
    images = torch.empty(1, 3, 224, 224, device="meta")
    features_only = on_meta(name, features_only=True)
    features = features_only(images)
    assert [feature.shape[1] for feature in features] == features_only.feature_info.channels()
    for feature, reduction in zip(features, features_only.feature_info.reduction(), strict=True):
        assert abs(224 / reduction - feature.shape[2]) <= 2  # unpadded convolutions lose a pixel or two
    intermediates = on_meta(name).forward_intermediates(images, intermediates_only=True)
    assert [feature.shape for feature in intermediates] == [feature.shape for feature in features]


def test_intermediates_are_those_of_features_only(model: nn.Module) -> None:
    name = model.pretrained_cfg["architecture"]
    features_only = timm.create_model(name, in_chans=1, features_only=True).eval()
    state = {key.replace("features.", "features_"): tensor for key, tensor in model.state_dict().items()}
    features_only.load_state_dict({key: state[key] for key in features_only.state_dict()})
    images = torch.randn(2, 1, 70, 70)
    with torch.no_grad():
        last, intermediates = model.forward_intermediates(images)
        assert torch.equal(last, model.forward_features(images))
        for ours, timms in zip(intermediates, features_only(images), strict=True):
            assert torch.equal(ours, timms)
        (second,) = model.forward_intermediates(images, indices=[1], stop_early=True, intermediates_only=True)
    assert torch.equal(second, intermediates[1])


def test_another_format_of_intermediates_is_an_error(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="NCHW"):
        model.forward_intermediates(torch.randn(1, 1, 64, 64), output_fmt="NLC")


@pytest.mark.parametrize("name", NAMES)
def test_resetting_the_classifier_replaces_it_alone(name: str) -> None:
    model = on_meta(name).to(torch.bfloat16).eval()
    before = dict(model.named_parameters())
    model.reset_classifier(5)
    classifier = model.get_classifier()
    changed = {name for name, parameter in model.named_parameters() if parameter is not before[name]}
    assert changed == {f"{model.pretrained_cfg['classifier']}.{leaf}" for leaf in ("weight", "bias")}
    assert classifier.weight.shape == (5, model.head_hidden_size)
    assert (classifier.weight.dtype, classifier.weight.device.type) == (torch.bfloat16, "meta")
    assert not classifier.training
    assert model.num_classes == 5
    model.reset_classifier(0)
    images = torch.empty(2, 3, 96, 96, dtype=torch.bfloat16, device="meta")
    assert model(images).shape == (2, model.head_hidden_size)


@pytest.mark.parametrize("name", ["alexnet", "zfnet"])
@pytest.mark.parametrize(("classes", "pool"), [(10, "max"), (0, "max"), (10, "")])
def test_fully_connected_layers_keep_their_pooling(name: str, classes: int, pool: str) -> None:
    with pytest.raises(ModelError, match=rf"global_pool 'avg'.*found '{pool}' for {classes} classes.*forward_features"):
        on_meta(name).reset_classifier(classes, pool)


@pytest.mark.parametrize("name", NAMES)
def test_the_output_without_classifier_and_pooling_is_the_features(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    images, parameters = torch.randn(2, 3, 96, 80), dict(model.named_parameters())
    with torch.no_grad():
        features = model.forward_features(images)
        hidden = model.forward_head(features, pre_logits=True)
        model.reset_classifier(0, "")
        assert model.head_hidden_size == model.num_features == features.shape[1]
        assert torch.equal(model(images), features)
        assert torch.equal(model.forward_head(features, pre_logits=True), features)
        model.reset_classifier(0)
        assert torch.equal(model(images), features)
        model.reset_classifier(5, "avg")
        assert torch.equal(model.forward_head(features, pre_logits=True), hidden)
        assert model(images).shape == (2, 5)
    classifier = {f"{model.pretrained_cfg['classifier']}.{leaf}" for leaf in ("weight", "bias")}
    assert {key for key, value in model.named_parameters() if value is not parameters[key]} == classifier


@pytest.mark.parametrize("name", NAMES)
def test_a_network_without_classifier_and_pooling_can_be_created(name: str) -> None:
    model = on_meta(name, num_classes=0, global_pool="")
    height, width = model.pretrained_cfg["pool_size"]
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, model.num_features, height, width)


def test_googlenets_pooling_can_be_changed() -> None:
    model = on_meta("googlenet", num_classes=4, global_pool="catavgmax")
    images = torch.empty(2, 3, 96, 96, device="meta")
    assert (model(images).shape, model.head_hidden_size) == ((2, 4), 2048)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_scripts_of_the_model_compute_what_it_computes(model: nn.Module, checkpointing: bool) -> None:
    images = torch.randn(2, 1, 70, 80)
    model.set_grad_checkpointing(checkpointing)
    scripted = torch.jit.script(model)
    with torch.no_grad():
        features = model.forward_features(images)
        assert torch.equal(scripted(images), model(images))
        assert torch.equal(scripted.forward_features(images), features)
        hidden = model.forward_head(features, pre_logits=True)
        assert torch.equal(scripted.forward_head(features, pre_logits=True), hidden)
    model.set_grad_checkpointing(False)
    assert scripted.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_traced_graphs_and_their_scripts_compute_what_the_model_computes(name: str, training: bool) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, drop_rate=0.0).train(training)
    images = torch.randn(2, 3, 70, 80)
    graph = torch.fx.symbolic_trace(model)
    logits = model(images)
    assert torch.equal(graph(images), logits)
    assert torch.equal(torch.jit.script(graph)(images), logits)
    graph(images).mean().backward()
    assert [key for key, parameter in graph.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("feature_cls", ["getter", "fx", "list", "dict", "hook"])
def test_each_feature_extractor_of_timm_has_the_channels_of_feature_info(name: str, feature_cls: str) -> None:
    features_only = on_meta(name, features_only=True, feature_cls=feature_cls)
    features = features_only(torch.empty(1, 3, 96, 96, device="meta"))
    features = list(features.values()) if isinstance(features, dict) else features
    assert [feature.shape[1] for feature in features] == features_only.feature_info.channels()


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_moves_every_parameter_and_lowers_the_loss(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, drop_rate=0.0).train()
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    before = copy.deepcopy(dict(model.named_parameters()))
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []
    with torch.no_grad():
        assert nn.functional.cross_entropy(model(images), labels) < loss


@pytest.mark.long
@pytest.mark.parametrize("name", ["alexnet", "googlenet"])
def test_checkpointed_gradients_are_the_plain_ones(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, drop_rate=0.0).train()
    images = torch.randn(2, 3, 64, 64)
    calls: list[str] = []
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    convolutions[0].register_forward_hook(lambda *_: calls.append("first"))
    convolutions[-1].register_forward_hook(lambda *_: calls.append("last"))
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    # Plainly; then forward, and recomputed level by level from the last.
    assert calls == ["first", "last", "first", "last", "last", "first"]
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.long
def test_compilation_needs_no_graph_break(model: nn.Module) -> None:
    images = torch.randn(2, 1, 64, 64)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(images), model(images))


def test_a_config_of_earlier_versions_that_names_auxiliary_heads_still_builds() -> None:
    model = on_meta("googlenet", num_classes=3, aux_logits=True)
    assert model.state_dict().keys() == on_meta("googlenet").state_dict().keys()
