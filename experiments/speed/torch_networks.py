"""The networks of `models/` in PyTorch, written from their papers: references for tests and for the benchmark.

All take images `n h w c` in [0, 1] and normalise inside. Arrays have the names of the public checkpoints.
"""

import itertools

import torch
from torch import nn
from torch.nn import functional

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """Images `n h w c` in [0, 1] to normalised `n c h w`."""

    def __init__(self, mean=(0.0,), sd=(1.0,)):
        super().__init__()
        self.mean, self.sd = mean, sd

    def forward(self, x):
        return ((x - x.new_tensor(self.mean)) / x.new_tensor(self.sd)).permute(0, 3, 1, 2)


class Basic(nn.Module):
    """Block of ResNet-18 and 34, and of the CIFAR networks, which have no weights on the shortcut."""

    expansion = 1

    def __init__(self, inputs, width, stride, option_a=False):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.option_a = option_a
        if stride > 1 and not option_a:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "downsample"):
            x = self.downsample(x)
        elif x.shape[1] != y.shape[1]:
            zeros = torch.zeros_like(x[:, ::2, ::2, ::2])
            x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], 1)
        return functional.relu(x + y)


class Bottleneck(nn.Module):
    """Block of the deeper ImageNet networks."""

    expansion = 4

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample = None
        if inputs != 4 * width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (self.downsample(x) if self.downsample else x))


class CifarResNet(nn.Module):
    """Depth `6 blocks + 2`."""

    def __init__(self, blocks):
        super().__init__()
        self.normalise = Normalise(*IMAGENET)
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        channels = 16
        for stage, width in enumerate((16, 32, 64), 1):
            stack = []
            for block in range(blocks):
                stack.append(Basic(channels, width, 2 if stage > 1 and block == 0 else 1, option_a=True))
                channels = width
            setattr(self, f"layer{stage}", nn.Sequential(*stack))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(self.normalise(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class ResNet(nn.Module):
    """ImageNet network of four stages."""

    def __init__(self, block, depths):
        super().__init__()
        self.normalise = Normalise(*IMAGENET)
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        channels = 64
        for stage, (width, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True), 1):
            stack = []
            for number in range(depth):
                stack.append(block(channels, width, 2 if stage > 1 and number == 0 else 1))
                channels = width * block.expansion
            setattr(self, f"layer{stage}", nn.Sequential(*stack))
        self.fc = nn.Linear(channels, 1000)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(self.normalise(x)))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Inception(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs, one, three_reduce, three, five_reduce, five, pool):
        super().__init__()

        def unit(inputs, outputs, size):
            return nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.BatchNorm2d(outputs), nn.ReLU()

        self.b1 = nn.Sequential(*unit(inputs, one, 1))
        self.b2 = nn.Sequential(*unit(inputs, three_reduce, 1), *unit(three_reduce, three, 3))
        self.b3 = nn.Sequential(*unit(inputs, five_reduce, 1), *unit(five_reduce, five, 3), *unit(five, five, 3))
        self.b4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), *unit(inputs, pool, 1))

    def forward(self, x):
        return torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], 1)


class GoogLeNet(nn.Module):
    """For CIFAR-10."""

    def __init__(self):
        super().__init__()
        self.normalise = Normalise((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
        self.pre_layers = nn.Sequential(nn.Conv2d(3, 192, 3, padding=1), nn.BatchNorm2d(192), nn.ReLU())
        self.a3 = Inception(192, 64, 96, 128, 16, 32, 32)
        self.b3 = Inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.a4 = Inception(480, 192, 96, 208, 16, 48, 64)
        self.b4 = Inception(512, 160, 112, 224, 24, 64, 64)
        self.c4 = Inception(512, 128, 128, 256, 24, 64, 64)
        self.d4 = Inception(512, 112, 144, 288, 32, 64, 64)
        self.e4 = Inception(528, 256, 160, 320, 32, 128, 128)
        self.a5 = Inception(832, 256, 160, 320, 32, 128, 128)
        self.b5 = Inception(832, 384, 192, 384, 48, 128, 128)
        self.avgpool = nn.AvgPool2d(8)
        self.linear = nn.Linear(1024, 10)

    def forward(self, x):
        x = self.b3(self.a3(self.pre_layers(self.normalise(x))))
        x = self.e4(self.d4(self.c4(self.b4(self.a4(self.maxpool(x))))))
        x = self.b5(self.a5(self.maxpool(x)))
        return self.linear(self.avgpool(x).flatten(1))


class SameConv(nn.Conv2d):
    """TensorFlow's padding: of an odd number of rows one more at the end."""

    def forward(self, x):
        for axis in (3, 2):
            size, stride, kernel = x.shape[axis], self.stride[0], self.kernel_size[0]
            rows = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            x = functional.pad(x, (*([0, 0] * (3 - axis)), rows // 2, rows - rows // 2))
        return super().forward(x)


class MBConv(nn.Module):
    """Inverted residual block."""

    def __init__(self, inputs, outputs, size, stride, expansion):
        super().__init__()
        width = inputs * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = SameConv(inputs, width, 1, bias=False), nn.BatchNorm2d(width, eps=1e-3)
        self._depthwise_conv, self._bn1 = SameConv(width, width, size, stride, groups=width, bias=False), nn.BatchNorm2d(width, eps=1e-3)
        self._project_conv, self._bn2 = SameConv(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x):
        y = functional.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """For ImageNet."""

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2, bias=False), nn.BatchNorm2d(32, eps=1e-3)
        blocks, inputs = [], 32
        for outputs, depth, size, stride in (
            (16, 1, 3, 1),
            (24, 2, 3, 2),
            (40, 2, 5, 2),
            (80, 3, 3, 2),
            (112, 3, 5, 1),
            (192, 4, 5, 2),
            (320, 1, 3, 1),
        ):
            for number in range(depth):
                blocks.append(MBConv(inputs, outputs, size, 1 if number else stride, 6 if blocks else 1))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = SameConv(320, 1280, 1, bias=False), nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x):
        x = ((x * 255 - 127) / 128).permute(0, 3, 1, 2)
        x = self._blocks(functional.relu6(self._bn0(self._conv_stem(x))))
        x = functional.relu6(self._bn1(self._conv_head(x)))
        return self._fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class LeNetEnv1(nn.Module):
    """Of Keras, so that the map is flattened as row, column, channel."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 64, 3), nn.Conv2d(64, 64, 3)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x):
        x = functional.relu(self.conv2(functional.relu(self.conv1(x.permute(0, 3, 1, 2)))))
        x = functional.max_pool2d(x, 2).permute(0, 2, 3, 1).flatten(1)
        return self.fc2(functional.relu(self.fc1(x)))


class ConvNet12(nn.Module):
    """Of Keras, as above."""

    def __init__(self):
        super().__init__()
        channels = (3, 32, 32, 64, 64, 128, 128)
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in itertools.pairwise(channels))
        self.fcs = nn.ModuleList([nn.Linear(2048, 1024), nn.Linear(1024, 512), nn.Linear(512, 10)])

    def forward(self, x):
        x = x.permute(0, 3, 1, 2)
        for number, conv in enumerate(self.convs):
            x = functional.relu(conv(x))
            x = functional.max_pool2d(x, 2) if number % 2 else x
        x = x.permute(0, 2, 3, 1).flatten(1)
        return self.fcs[2](functional.relu(self.fcs[1](functional.relu(self.fcs[0](x)))))
