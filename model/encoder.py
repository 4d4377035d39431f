"""The speaker encoder: features of any length to one embedding."""

import copy
import itertools

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.resnet import ResNet

EMBEDDING_SIZE = 256


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

        The mean over the time of each segment is subtracted first, here and nowhere else. With bfloat16 as
        `trunk_dtype` the convolutions are autocast to it; the pooling, its batch norm and the linear map stay in
        float32, as do the embeddings.
        """
        x = x - x.mean(dim=3, keepdim=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=trunk_dtype is torch.bfloat16):
            maps = self.trunk(x)
        pooled = maps.to(x.dtype).mean(dim=(2, 3))
        return self.projection(torch.relu(self.norm(pooled)))

    def for_inference(self, device: torch.device | str = "cpu") -> "Encoder":
        """Return a copy on `device` that computes the same embeddings a tenth faster, and cannot be trained.

        Its batch norms are folded into the convolutions, its weights are frozen and laid out for the device. Nothing
        is left to be changed at a call: threads may share it.
        """
        encoder = copy.deepcopy(self).eval().requires_grad_(False)
        for module in list(encoder.modules()):
            # In each of the trunk's modules a convolution is followed by its own batch norm.
            for (at, convolution), (behind, norm) in itertools.pairwise(list(module.named_children())):
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm):
                    setattr(module, at, fuse_conv_bn_eval(convolution, norm))
                    setattr(module, behind, nn.Identity())
        return convert_conv2d_weight_memory_format(encoder.to(device), torch.channels_last)
