"""Maker of minimum_norm.npz: results of other implementations of C&W and DeepFool on the 16 MNIST digits of lenet5_mnist.npz.

    python make_minimum_norm.py     # once with foolbox 1.8.0, then once with foolbox 3.3.4; each run adds its own values

It needs torch and one of the two releases of foolbox; nothing of a2d_jax.

- Foolbox 1.8: the forms called `foolbox`, with the number of points they judged, and C&W stopped at its first success. DeepFool also
  on softened digits, 0.25 + x / 2, so that no pixel lies on the bounds.
- Foolbox 3.3: the form of DeepFool called `original`, in L2 and Linf; C&W that respects confidence, one image at a time (because it
  leaves a constant by the loss of the whole batch).
- Literal loop in float64: C&W by the rules of Carlini's code, targeted, with confidence and TensorFlow's Adam.
- `vectors_inner`: the count of the released A2D code's copy of C&W, a column of the published test vectors, typed in here.
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
SETTINGS = {"binary_search_steps": 3, "initial_const": 0.1, "confidence": 0}
STEPS, RATE = 200, 0.02
CONFIDENCE = 3.0
INNER = (9, 7, 9, 2, 38, 5, 1, 22, 9, 20, 41, 15, 14, 5, 17, 1, 17, 3, 6, 19, 1, 525, 6, 2, 93, 6, 2, 34)


def length(delta):
    return np.linalg.norm(delta.reshape(len(delta), -1), axis=1)


def foolbox1(network, x, label):
    """Distances and numbers of judged points, the start among them."""

    class Model(foolbox.models.DifferentiableModel):
        looks = 0  # calls that DeepFool makes at the head of a step

        def num_classes(self):
            return 10

        def batch_predictions(self, images):
            with torch.no_grad():
                return network(torch.tensor(images, dtype=torch.float32)).numpy()

        def _pull(self, image, cotangent):
            leaf = torch.tensor(image[None], dtype=torch.float32, requires_grad=True)
            logits = network(leaf)
            logits[0].backward(cotangent(logits[0].detach()))
            return logits[0].detach().numpy(), leaf.grad[0].numpy()

        def predictions_and_gradient(self, image, label):
            self.looks += 1
            return self._pull(image, lambda z: torch.softmax(z, 0) - torch.eye(10)[label])

        def gradient(self, image, label):
            return self._pull(image, lambda z: torch.softmax(z, 0) - torch.eye(10)[label])[1]

        def backward(self, gradient, image):
            return self._pull(image, lambda z: torch.tensor(gradient, dtype=z.dtype))[1]

    model = Model(bounds=(0, 1), channel_axis=1)
    criterion, out = foolbox.criteria.Misclassification(), collections.defaultdict(list)
    for image, y in zip(x, label, strict=True):
        for kind, threshold in (("cw", None), ("cw_first", 1.0)):  # below a mean square of 1 every success ends the attack
            adversarial = foolbox.adversarial.Adversarial(model, criterion, image, y, threshold=threshold)
            foolbox.attacks.CarliniWagnerL2Attack()(adversarial, max_iterations=STEPS, learning_rate=RATE, **SETTINGS)
            out[f"{kind}_judged"].append(adversarial._total_prediction_calls - 1)  # the constructor judges too
            out[f"{kind}_distance"].append(np.linalg.norm(adversarial.image - image))
        soft = 0.25 + image / 2
        soft_label = int(model.batch_predictions(soft[None])[0].argmax())
        for kind, attack in (("l2", foolbox.attacks.DeepFoolL2Attack), ("linf", foolbox.attacks.DeepFoolLinfinityAttack)):
            for softness, start, start_label in (("", image, y), ("soft_", soft, soft_label)):
                model.looks = 0
                found = attack(model, criterion)(start, start_label)
                out[f"deepfool_{softness}{kind}_judged"].append(model.looks)
                out[f"deepfool_{softness}{kind}_distance"].append(np.linalg.norm((found - start).ravel(), 2 if kind == "l2" else np.inf))
    return {f"foolbox1_{name}": np.array(values) for name, values in out.items()}


def foolbox3(network, x, label, target):
    """Distances."""
    model, out = foolbox.PyTorchModel(network, bounds=(0, 1)), {}
    images, classes = torch.tensor(x), torch.tensor(label)
    for kind, attack in (("l2", foolbox.attacks.L2DeepFoolAttack), ("linf", foolbox.attacks.LinfDeepFoolAttack)):
        delta = attack(steps=50)(model, images, classes, epsilons=None)[0].numpy() - x
        out[f"foolbox3_deepfool_{kind}_distance"] = length(delta) if kind == "l2" else np.abs(delta).reshape(len(x), -1).max(1)
    settings = {**SETTINGS, "initial_const": 1.0, "confidence": CONFIDENCE}
    attack = foolbox.attacks.L2CarliniWagnerAttack(steps=STEPS, stepsize=RATE, **settings)
    found = [
        attack(model, images[i : i + 1], foolbox.criteria.TargetedMisclassification(torch.tensor(target[i : i + 1])), epsilons=None)[0]
        for i in range(len(x))
    ]
    out["foolbox3_cw_distance"] = length(torch.cat(found).numpy() - x)
    return out


def carlini(network, x, target):
    """One image in float64: distance of the nearest accepted point, and how many points were judged."""
    x = torch.tensor(x, dtype=torch.float64)
    start = torch.atanh(0.999999 * (2 * x - 1))
    image = (torch.tanh(start) + 1) / 2
    constant, lower, upper, best, judged = 1.0, 0.0, 1e10, np.inf, 0
    for _ in range(SETTINGS["binary_search_steps"]):
        p, m, v, previous, succeeded = torch.zeros_like(x), 0.0, 0.0, np.inf, False
        for t in range(1, STEPS + 1):
            p.requires_grad_()
            point = (torch.tanh(start + p) + 1) / 2
            logits = network(point[None])[0]
            others = torch.cat([logits[:target], logits[target + 1 :]]).max()
            square = ((point - image) ** 2).sum()
            loss = square + constant * torch.clamp(others - logits[target] + CONFIDENCE, min=0)
            (g,) = torch.autograd.grad(loss, p)
            judged += 1
            if logits[target] - CONFIDENCE > others:
                succeeded, best = True, min(best, float(square) ** 0.5)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            p = p.detach() - RATE * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (torch.sqrt(v) + 1e-8)
            if (t - 1) % (STEPS // 10) == 0:
                if loss > 0.9999 * previous:
                    break
                previous = float(loss)
        if succeeded:
            upper = min(upper, constant)
        else:
            lower = max(lower, constant)
        constant = (lower + upper) / 2 if upper < 1e9 else constant * 10
    return best, judged


def main():
    """Write the golden file."""
    weights = np.load(HERE / "lenet5_mnist.npz", allow_pickle=False)
    arrays = {name: weights[name] for name in weights.files if name.startswith(("conv", "fc"))}
    x = weights["digits"].astype(np.float32).transpose(0, 3, 1, 2) / 255
    network = LeNet5(arrays).eval()
    label = network(torch.tensor(x)).argmax(1).numpy()
    target = (label + 1 + np.arange(len(x)) % 9) % 10
    path = HERE / "minimum_norm.npz"
    out = dict(np.load(path, allow_pickle=False)) if path.exists() else {}
    if foolbox.__version__.startswith("1.8"):
        out |= foolbox1(network, x, label)
    else:
        out |= foolbox3(network, x, label, target)
        exact = LeNet5(arrays, torch.float64).eval()
        found = [carlini(exact, image, int(t)) for image, t in zip(x, target, strict=True)]
        out["carlini_distance"], out["carlini_judged"] = (np.array(column) for column in zip(*found, strict=True))
    np.savez_compressed(path, **out | {"target": target, "vectors_inner": np.array(INNER)})


if __name__ == "__main__":
    main()
