"""The network of picto's judge: a small residual CNN on pixels. It shares no weights with the generator."""

from __future__ import annotations

import torch
from torch import nn

WIDTHS = (24, 48, 96, 192)


class Block(nn.Module):
    """conv-BN-ReLU-conv-BN plus a 1×1 shortcut; halves the image."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(cin, cout, 3, 2, 1, bias=False), nn.BatchNorm2d(cout)
        self.b, self.nb = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        self.skip = nn.Conv2d(cin, cout, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.nb(self.b(self.na(self.a(x)).relu()))
        return (y + self.skip(nn.functional.avg_pool2d(x, 2))).relu()


class JudgeNet(nn.Module):
    """``(B, 3, 64, 64)`` in [-1, 1] → logits of subjects ``(B, subjects)`` and of styles ``(B, styles)``."""

    def __init__(self, *, subjects: int, styles: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTHS[0], 5, 2, 2, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
        self.blocks = nn.ModuleList(Block(a, b) for a, b in zip(WIDTHS[:-1], WIDTHS[1:], strict=True))
        self.drop = nn.Dropout(0.1)
        self.subject, self.style = nn.Linear(WIDTHS[-1], subjects), nn.Linear(sum(WIDTHS), styles)

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps after the stem and every block: widths 24, 48, 96, 192 at 32, 16, 8, 4 pixels."""
        maps = [self.stem(x)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means = [m.mean((2, 3)) for m in self.features(x)]
        return self.subject(self.drop(means[-1])), self.style(self.drop(torch.cat(means, 1)))
