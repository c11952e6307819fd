"""Small networks, each with one property that makes it hard to split or to find its layers."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from support.numbers import SEED

SIZE = 16
CLASSES = 5


def made(net: Callable[..., nn.Module], *args: object, seed: int = 0) -> nn.Module:
    """Return the net in evaluation mode, with reproducible weights and non-trivial normalisation statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + SEED)
        module = net(*args).eval()
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None:
                nn.init.uniform_(m.running_mean, -0.5, 0.5)
                nn.init.uniform_(m.running_var, 0.5, 2.0)
    return module


def pictures(count: int, height: int = SIZE, width: int | None = None, seed: int = 1, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, height, width or height, generator=torch.Generator().manual_seed(seed + SEED))


def reading_first(net: nn.Module, channels: int) -> nn.Module:
    """Return a copy of a net whose first convolution reads `channels` channels, all but the first with weight 0.

    Its output for any image depends on the image's first channel only, and is the same for any number of channels.
    """
    copied = copy.deepcopy(net)
    path, first = next((name, m) for name, m in copied.named_modules() if isinstance(m, nn.Conv2d))
    wider = nn.Conv2d(channels, first.out_channels, first.kernel_size, first.stride, first.padding, bias=first.bias is not None)
    with torch.no_grad():
        wider.weight.zero_()
        wider.weight[:, :1] = first.weight[:, :1]
        if first.bias is not None:
            wider.bias.copy_(first.bias)
    copied.set_submodule(path, wider)
    return copied.eval()


class Banded(nn.Module):
    """A small network of any number of channels, with normalisation and a pooling head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.conv = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.late = nn.ReLU()
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.late(self.conv(self.act(self.norm(self.stem(x))))).mean((2, 3)))


class Plain(nn.Module):
    """A chain without branches, with in-place ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, stride=2, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(x)).flatten(1))


class Block(nn.Module):
    """A residual block that adds in place and uses its in-place ReLU twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(6), Block(6))
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class SharedActivation(nn.Module):
    """One in-place ReLU module, used after every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), self.act)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.act(self.conv1(x)))
        x = self.act(self.conv3(self.act(self.conv2(x))))
        return self.fc(x.mean((2, 3)))


class SkipAround(nn.Module):
    """Functions, not modules, pass the first layer's output and the image around the second layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(7, 6, 3, padding=1)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.conv1(x))
        second = self.conv2(first) * F.avg_pool2d(first, 2)
        return self.fc(F.relu(self.conv3(torch.cat([second, F.max_pool2d(x, 2)], dim=1))).mean((2, 3)))


class WrittenAround(nn.Module):
    """A function overwrites the tensor that bypasses the last layer; the activation has already run inside another module."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.LeakyReLU()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), self.act)
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.inner(x))
        y += 1
        z = self.act(y)
        return self.fc((self.conv2(z) * z).mean((2, 3)))


class FiniteOnly(nn.Module):
    """Checks its values and refuses NaN, although it can be split at every layer."""

    def __init__(self, error: type[Exception] = AssertionError) -> None:
        super().__init__()
        self.error = error
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(x)
        if not (x.isfinite().all() and first.isfinite().all()):
            raise self.error("not finite")
        return self.fc(self.conv2(first).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=2)
        return self.proj(torch.softmax(q @ k.transpose(1, 2), dim=2) @ v)


class TransformerBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A vision transformer with patches of 4 px; without prefix tokens the head reads the mean of all tokens."""

    def __init__(self, prefix: int = 1, depth: int = 4, channels: int = 3) -> None:
        super().__init__()
        self.patch = nn.Conv2d(channels, 8, 4, 4)
        self.prefix = nn.Parameter(torch.randn(1, prefix, 8))
        self.blocks = nn.ModuleList(TransformerBlock(8) for _ in range(depth))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.prefix.shape[1] else x.mean(1))


class Windows(nn.Module):
    """The inner layer sees the four quarters of every image as four images, and a skip connection bypasses the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2] // 2, x.shape[3] // 2
        quarters = x.unflatten(2, (2, height)).unflatten(4, (2, width)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        folded = self.inner(quarters).unflatten(0, (len(x), 2, 2)).permute(0, 3, 1, 4, 2, 5)
        whole = folded.flatten(4, 5).flatten(2, 3)
        return self.fc((self.last(whole) * whole).mean((2, 3)))


class Dense(nn.Module):
    """Every layer reads the outputs of all previous layers from a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.fc = nn.Linear(15, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(F.relu(layer(torch.cat(outputs, dim=1))))
        return self.fc(torch.cat(outputs, dim=1).mean((2, 3)))


class Fuse(nn.Module):
    """Returns its input, unless it is armed with an exception."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None:
            raise self.error
        return x * 1


class Fused(nn.Module):
    """A skip connection around two layers, with a fuse between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.early = nn.Conv2d(4, 4, 3, padding=1)
        self.fuse = Fuse()
        self.late = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x))
        return self.fc((self.late(self.fuse(self.early(x))) + x).mean((2, 3)))


class Counting(nn.Module):
    """A 1 x 1 convolution that counts how often it runs."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, 1, 1))
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return F.conv2d(x, self.weight)


class Counted(nn.Module):
    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.first = Counting(3, 4)
        self.second = Counting(4, 4)
        self.third = Counting(4, 4)
        self.fourth = Counting(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        second = self.second(self.first(x))
        third = self.third(second)
        return self.fourth(third + second if self.skip else third).mean((2, 3))

    @property
    def runs(self) -> list[int]:
        return [m.runs for m in (self.first, self.second, self.third, self.fourth)]


class NoMaps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * SIZE * SIZE, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))
