"""A network that records what it is given."""

from torch import Tensor, nn


class Recorded(nn.Module):
    """A network that records its inputs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.net(x)
