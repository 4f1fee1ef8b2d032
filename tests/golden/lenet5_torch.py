"""LeNet-5 in PyTorch for the scripts in this folder that make golden files. They need nothing of a2d_jax."""

import torch
from torch.nn import functional


class LeNet5(torch.nn.Module):
    """Logits of `n 1 28 28` in [0, 1], from the arrays of the golden file."""

    def __init__(self, arrays, dtype=torch.float32):
        super().__init__()
        self.arrays = {name: torch.tensor(array, dtype=dtype) for name, array in arrays.items()}

    def forward(self, x):
        a = self.arrays
        x = (x - 0.1307) / 0.3081
        x = functional.max_pool2d(functional.relu(functional.conv2d(x, a["conv1.0.weight"], a["conv1.0.bias"], padding=2)), 2)
        x = functional.max_pool2d(functional.relu(functional.conv2d(x, a["conv2.0.weight"], a["conv2.0.bias"])), 2)
        x = functional.relu(functional.linear(torch.flatten(x, 1), a["fc1.0.weight"], a["fc1.0.bias"]))
        x = functional.relu(functional.linear(x, a["fc2.0.weight"], a["fc2.0.bias"]))
        return functional.linear(x, a["fc3.weight"], a["fc3.bias"])
