import zlib

import numpy as np
import pytest
import torch
from conftest import GOLDEN, present
from torch.nn.utils import convert_conv2d_weight_memory_format

from loss import Objective
from model.checkpoint import Checkpoint, parameters_of
from model.encoder import BACKBONES, Encoder
from training.step import EpisodeLoss

N_SPEAKERS = 50  # of the golden network


def golden_state_dict() -> dict[str, torch.Tensor]:
    """Return the weights of the golden network: a function of the name and shape of each parameter."""
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


def golden_arrays(name: str) -> dict[str, torch.Tensor]:
    """Return values of the official code: encoder.npz in float32, losses.npz in float64 (inputs: float32)."""
    return {key: torch.from_numpy(array) for key, array in np.load(GOLDEN / name).items()}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return golden_arrays("losses.npz")


def golden_encoder() -> Encoder:
    return Checkpoint(epoch=0, state_dict=golden_state_dict()).encoder()


def relative_error(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours.detach() - expected).norm() / expected.norm())


@pytest.mark.parametrize("n_frames", [200, 137, 31])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_embeddings_equal_the_official_ones(n_frames: int, layout: torch.memory_format) -> None:
    arrays, encoder = golden_arrays("encoder.npz"), golden_encoder().eval()
    encoder = convert_conv2d_weight_memory_format(encoder, layout)
    with torch.no_grad():
        assert relative_error(encoder(arrays[f"in_{n_frames}"]), arrays[f"eval_{n_frames}"]) <= 1e-5


def episode_loss(loss_type: str, use_GC: bool) -> EpisodeLoss:
    objective = Objective(loss_type, use_GC, N_SPEAKERS, 256)
    if objective.class_vectors is not None:
        objective.class_vectors.data.copy_(golden_state_dict()["weight"])
    return EpisodeLoss(golden_encoder(), objective).train()


@pytest.mark.parametrize("dtype", [pytest.param(torch.float64, marks=pytest.mark.slow), torch.float32], ids=str)
def test_losses_gradients_statistics_and_step_equal_the_official_ones(
    golden: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    """In float64 the rounding is far below the tolerance on any processor.

    In float32 it changes the first convolution's gradient by about 1 %, differently on each kind of processor.
    """
    model = episode_loss("prototypical", True).to(dtype)
    encoder, class_vectors = model.encoder, present(model.objective.class_vectors)
    conv1, fc1 = encoder.trunk.conv1.weight, encoder.projection.weight
    support, query = golden["ep_support"][None], golden["ep_query"].unflatten(0, (2, 8))
    embeddings: list[torch.Tensor] = []  # the arguments of the objective, speakers included
    model.objective.register_forward_pre_hook(lambda _, given: embeddings.extend(given))
    terms = model(support.to(dtype), query.to(dtype), golden["ep_speaker"])
    without_global = Objective("prototypical", False, N_SPEAKERS, 256)(*embeddings)
    gradients = torch.autograd.grad(without_global.loss, (conv1, fc1), retain_graph=True)
    terms.loss.backward()
    ours = {
        "proto_gc0": torch.stack(without_global).nan_to_num(0),  # unused terms of the official code are 0
        "proto_gc1": torch.stack(terms),
        "grad_gc0_conv1": gradients[0],
        "grad_gc0_fc1": gradients[1],
        "grad_gc1_conv1": present(conv1.grad),
        "grad_gc1_fc1": present(fc1.grad),
        "grad_gc1_weight": present(class_vectors.grad),
        "bn1_running_mean": present(encoder.trunk.bn1.running_mean),
        "avg_bn_running_var": present(encoder.norm.running_var),
    }
    parameters = parameters_of(encoder, class_vectors)
    torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True).step()
    ours["stepped_fc1"] = fc1
    for name, value in ours.items():
        expected = golden[name]  # the first 8 rows of the larger ones
        tolerance = 1e-10 if dtype is torch.float64 else 0.05 if name.endswith("conv1") else 1e-3
        error = relative_error(value[: len(expected)], expected)
        assert error <= tolerance, f"{name}: {error}"


def test_softmax_equals_the_official_one(golden: dict[str, torch.Tensor]) -> None:
    support = golden["ep_support"][None].double()
    terms = episode_loss("softmax", False).double()(support, support[:0], golden["ep_speaker"])
    assert float(terms.loss.detach()) == pytest.approx(float(golden["softmax"][0]), rel=1e-10)
    assert float(terms.global_accuracy) == pytest.approx(float(golden["softmax"][1]))
    assert torch.equal(terms.loss, terms.global_loss) and terms.episodic_loss.isnan()


def test_the_mean_over_time_has_no_effect() -> None:
    encoder, x = golden_encoder().eval(), torch.randn(2, 1, 40, 60)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x + torch.randn(2, 1, 40, 1)), encoder(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_accepts_any_length_and_is_identified(backbone: str) -> None:
    encoder = Encoder(backbone).eval()
    with torch.no_grad():
        for n_frames in (1, 2, 9):
            assert encoder(torch.randn(1, 1, 40, n_frames)).shape == (1, 256)
    state = {name.replace("trunk.", "pretrained."): v for name, v in encoder.state_dict().items()}
    assert Checkpoint(epoch=0, state_dict=state).backbone == backbone


def test_folded_batch_norms_do_not_change_the_embeddings() -> None:
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
