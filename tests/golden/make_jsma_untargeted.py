"""Maker of jsma_untargeted.npz: Foolbox 1.8's saliency map attack without a target, on the 16 MNIST digits of lenet5_mnist.npz.

    python make_jsma_untargeted.py

It needs torch and foolbox 1.8.0; nothing of a2d_jax. Stored per digit: whether the attack succeeded, if so the class and the number of
scalars that differ, and the number of predictions and of gradients that the attack asked for.
"""

import collections
import collections.abc
import pathlib

import numpy as np
import torch
from lenet5_torch import LeNet5

collections.Iterable = collections.abc.Iterable  # Foolbox 1.8 is older than Python 3.10
import foolbox  # noqa: E402 (after the line it needs)

HERE = pathlib.Path(__file__).parent


class Model(foolbox.models.DifferentiableModel):
    """LeNet-5 in float32, as the released code evaluates its networks."""

    def __init__(self, network):
        super().__init__(bounds=(0, 1), channel_axis=1)
        self.network = network

    def num_classes(self):
        """Of MNIST."""
        return 10

    def batch_predictions(self, images):
        """Logits."""
        with torch.no_grad():
            return self.network(torch.tensor(images, dtype=torch.float32)).numpy()

    def predictions_and_gradient(self, image, label):
        """Logits, and the gradient of the cross entropy of the label."""
        leaf = torch.tensor(image[None], dtype=torch.float32, requires_grad=True)
        logits = self.network(leaf)
        torch.nn.functional.cross_entropy(logits, torch.tensor([label])).backward()
        return logits[0].detach().numpy(), leaf.grad[0].numpy()

    def backward(self, gradient, image):
        """Not asked for."""
        raise NotImplementedError


def main():
    """Write the golden file."""
    arrays = np.load(HERE / "lenet5_mnist.npz", allow_pickle=False)
    model = Model(LeNet5({name: arrays[name] for name in arrays.files if name.startswith(("conv", "fc"))}).eval())
    out = collections.defaultdict(list)
    for digit in arrays["digits"]:
        image = digit.reshape(1, 28, 28).astype(np.float64) / 255
        label = int(model.predictions(image).argmax())
        adversarial = foolbox.attacks.SaliencyMapAttack(model)(image, label, unpack=False)
        found = adversarial.image is not None
        out["success"].append(found)
        out["reached"].append(int(model.predictions(adversarial.image).argmax()) if found else -1)
        out["differing"].append(int((adversarial.image != image).sum()) if found else -1)
        out["predictions"].append(adversarial._total_prediction_calls)
        out["gradients"].append(adversarial._total_gradient_calls)
    np.savez_compressed(HERE / "jsma_untargeted.npz", **{name: np.array(values) for name, values in out.items()})


if __name__ == "__main__":
    main()
