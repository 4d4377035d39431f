"""The speaker encoder: a ResNet that maps features of any length to one embedding.

As in the paper, the ResNet has 32 to 256 channels, a first convolution of 7x7 with stride 1, and no max-pooling.
"""

import copy
import itertools
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.nn.utils.fusion import fuse_conv_bn_eval

EMBEDDING_SIZE = 256
WIDTHS = (32, 64, 128, 256)  # channels of the four stages


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, in_channels, F, T) to (N, width, F / stride, T / stride), sizes rounded up."""
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution to 4 times the width, and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = _conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = _shortcut(in_channels, width * self.expansion, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, in_channels, F, T) to (N, 4 width, F / stride, T / stride), sizes rounded up."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class Layout(NamedTuple):
    """The structure of a backbone."""

    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, int, int, int]  # blocks of each stage


BACKBONES = {
    "resnet18": Layout(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Layout(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Layout(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Layout(Bottleneck, (3, 4, 23, 3)),
    "resnet152": Layout(Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """A residual network from features (N, 1, 40, T) to maps (N, out_channels, 5, ceil(T / 8))."""

    def __init__(self, backbone: str = "resnet34"):
        super().__init__()
        block, depths = BACKBONES[backbone]
        self.out_channels = WIDTHS[-1] * block.expansion
        self.conv1 = _conv(1, WIDTHS[0], 7)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        channels, stages = WIDTHS[0], []
        for stage, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True), start=1):
            blocks = []
            for position in range(depth):
                blocks.append(block(channels, width, stride=2 if stage > 1 and position == 0 else 1))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for module in self.modules():
            # On the meta device there is nothing to initialise, and torch would import its compiler for this.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maps (N, out_channels, 5, ceil(T / 8)) of x (N, 1, 40, T)."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class Encoder(nn.Module):
    """Mean subtraction, ResNet, mean pooling, batch norm, ReLU and a linear map (paper, section 3.1)."""

    def __init__(self, backbone: str = "resnet34"):
        super().__init__()
        self.trunk = ResNet(backbone)
        self.norm = nn.BatchNorm1d(self.trunk.out_channels)
        self.projection = nn.Linear(self.trunk.out_channels, EMBEDDING_SIZE, bias=False)
        nn.init.xavier_uniform_(self.projection.weight)

    def forward(self, x: torch.Tensor, trunk_dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return the embeddings (N, 256), not normalised, of features x (N, 1, 40, T), T >= 1.

        The mean of each coefficient over time is subtracted first. If `trunk_dtype` is bfloat16, the trunk is autocast
        to bfloat16. The pooling, the batch norm after it, the linear map and the embeddings are float32.
        """
        x = x - x.mean(dim=3, keepdim=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=trunk_dtype is torch.bfloat16):
            maps = self.trunk(x)
        with torch.autocast(x.device.type, enabled=False):  # the calling program may use it
            pooled = maps.to(x.dtype).mean(dim=(2, 3))
            return self.projection(torch.relu(self.norm(pooled)))

    def for_inference(self, device: torch.device | str = "cpu") -> "Encoder":
        """Return a copy on `device` that computes the same embeddings about 10 % faster and cannot be trained.

        The batch norms are folded into the convolutions, and the weights are frozen. A forward pass changes no state,
        so threads can share the copy.
        """
        encoder = copy.deepcopy(self).eval().requires_grad_(False)
        for module in list(encoder.modules()):
            # In each module of the trunk the batch norm of a convolution is the next child.
            for (name, convolution), (next_name, norm) in itertools.pairwise(list(module.named_children())):
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm):
                    setattr(module, name, fuse_conv_bn_eval(convolution, norm))
                    setattr(module, next_name, nn.Identity())
        return convert_conv2d_weight_memory_format(encoder.to(device), torch.channels_last)


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
