import zlib

import numpy as np
import pytest
import torch
from conftest import GOLDEN, present
from torch.nn.utils import convert_conv2d_weight_memory_format

from loss import Objective
from model.checkpoint import Checkpoint, parameters_of
from model.encoder import Encoder
from model.resnet import BACKBONES
from training.loop import EpisodeLoss

N_SPEAKERS = 50  # of the golden network


def golden_state_dict() -> dict[str, torch.Tensor]:
    """Make the golden network's weights by their rule: from each parameter's name and shape."""
    state = {}
    for line in (GOLDEN / "state_dict_keys.txt").read_text().splitlines():
        name, written = line[: line.rindex(")") + 1].split(" ", 1)
        shape = tuple(int(n) for n in written.strip("()").split(",") if n.strip())
        r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
            continue
        if name.endswith("running_var"):
            value = 1 + 0.1 * np.abs(r)
        elif name.endswith("running_mean") or name.endswith("bias"):
            value = 0.1 * r
        elif len(shape) == 1:
            value = 1 + 0.1 * r
        elif len(shape) == 4:
            value = r * np.sqrt(2 / (shape[0] * shape[2] * shape[3]))
        else:
            value = 0.05 * r
        state[name] = torch.from_numpy(value.astype(np.float32))
    return state


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    arrays = np.load(GOLDEN / "encoder_and_losses.npz")
    return {name: torch.from_numpy(arrays[name]) for name in arrays}


def golden_encoder() -> Encoder:
    return Checkpoint(epoch=0, state_dict=golden_state_dict()).encoder()


def relative_error(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours.detach() - expected).norm() / expected.norm())


@pytest.mark.parametrize("n_frames", [200, 137, 31])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_embeddings_equal_the_release(
    golden: dict[str, torch.Tensor], n_frames: int, layout: torch.memory_format
) -> None:
    encoder = convert_conv2d_weight_memory_format(golden_encoder().eval(), layout)
    with torch.no_grad():
        assert relative_error(encoder(golden[f"in_{n_frames}"]), golden[f"eval_{n_frames}"]) <= 1e-5


def episode_loss(loss_type: str, use_GC: bool) -> EpisodeLoss:
    objective = Objective(loss_type, use_GC, N_SPEAKERS, 256)
    if objective.class_vectors is not None:
        objective.class_vectors.data.copy_(golden_state_dict()["weight"])
    return EpisodeLoss(golden_encoder(), objective).train()


@pytest.mark.parametrize("use_GC", [False, True])
def test_losses_gradients_statistics_and_step_equal_the_release(golden: dict[str, torch.Tensor], use_GC: bool) -> None:
    model = episode_loss("prototypical", use_GC)
    class_vectors = model.objective.class_vectors
    terms = model(golden["ep_support"][None], golden["ep_query"].unflatten(0, (2, 8)), golden["ep_speaker"])
    expected = golden[f"proto_gc{int(use_GC)}"]
    for at in (0, 1, 2, 3, 4) if use_GC else (0, 1, 3):
        assert float(terms[at].detach()) == pytest.approx(float(expected[at]), rel=1e-5, abs=1e-9)
    terms.loss.backward()
    tag = f"grad_gc{int(use_GC)}"
    assert relative_error(present(model.encoder.trunk.conv1.weight.grad), golden[f"{tag}_conv1"]) <= 1e-4
    assert relative_error(present(model.encoder.projection.weight.grad)[:8], golden[f"{tag}_fc1"]) <= 1e-4
    if class_vectors is None:
        return
    assert relative_error(present(class_vectors.grad)[:8], golden["grad_gc1_weight"]) <= 1e-4
    assert relative_error(present(model.encoder.trunk.bn1.running_mean), golden["bn1_running_mean"]) <= 1e-4
    assert relative_error(present(model.encoder.norm.running_var), golden["avg_bn_running_var"]) <= 1e-4
    parameters = parameters_of(model.encoder, class_vectors)
    torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True).step()
    assert relative_error(model.encoder.projection.weight[:8], golden["stepped_fc1"]) <= 1e-4


def test_softmax_equals_the_release(golden: dict[str, torch.Tensor]) -> None:
    support = golden["ep_support"][None]
    terms = episode_loss("softmax", False)(support, support[:0], golden["ep_speaker"])
    assert float(terms.loss.detach()) == pytest.approx(float(golden["softmax"][0]), rel=1e-5)
    assert float(terms.global_accuracy) == pytest.approx(float(golden["softmax"][1]))
    assert torch.equal(terms.loss, terms.global_loss) and terms.episodic_loss.isnan()


def test_the_mean_over_time_does_not_matter() -> None:
    encoder, x = golden_encoder().eval(), torch.randn(2, 1, 40, 60)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x + torch.randn(2, 1, 40, 1)), encoder(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_takes_any_length_and_is_recognised(backbone: str) -> None:
    encoder = Encoder(backbone).eval()
    with torch.no_grad():
        for n_frames in (1, 2, 9):
            assert encoder(torch.randn(1, 1, 40, n_frames)).shape == (1, 256)
    state = {name.replace("trunk.", "pretrained."): v for name, v in encoder.state_dict().items()}
    assert Checkpoint(epoch=0, state_dict=state).backbone == backbone


def test_resnet34_has_the_papers_size_and_start() -> None:
    torch.manual_seed(0)
    encoder = Encoder()
    n_parameters = sum(p.numel() for p in encoder.parameters())
    assert 5.3e6 < n_parameters < 5.5e6
    for name in ("conv1", "layer3.2.conv1", "layer4.0.downsample.0"):
        convolution = encoder.trunk.get_submodule(name)
        assert isinstance(convolution, torch.nn.Conv2d)
        k, _ = convolution.kernel_size
        expected = (2 / (k * k * convolution.out_channels)) ** 0.5
        assert float(convolution.weight.detach().std()) == pytest.approx(expected, rel=0.1)
    assert float(encoder.projection.weight.detach().abs().max()) <= (6 / 512) ** 0.5  # Xavier-uniform's bound


def test_folded_batch_norms_leave_the_embeddings_as_they_are() -> None:
    torch.manual_seed(0)
    for backbone in ("resnet34", "resnet50"):
        encoder = Encoder(backbone)
        with torch.no_grad():
            for module in encoder.modules():
                if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
                    present(module.running_mean).normal_(0, 0.2)
                    present(module.running_var).uniform_(0.5, 2)
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.2)
            folded, x = encoder.for_inference(), 20 * torch.randn(3, 1, 40, 57)
            assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
            expected = encoder.eval()(x)
            assert float((folded(x) - expected).norm() / expected.norm()) < 1e-5
