"""ResNet trunks over (N, 1, 40, T) features: the paper's widths, 7x7 first convolution, no max-pooling."""

from typing import NamedTuple

import torch
from torch import nn

WIDTHS = (32, 64, 128, 256)  # of the four stages


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
    """A 1x1, a 3x3 and a widening 1x1 convolution and a shortcut."""

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
    """What tells one backbone from another."""

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
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maps (N, out_channels, 5, ceil(T / 8)) of x (N, 1, 40, T)."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
