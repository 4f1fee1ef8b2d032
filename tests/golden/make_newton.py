"""Maker of newton.npz: Newton written from its definition, in NumPy and float64, on a 36-8-5 network that is defined by formulas.

    python make_newton.py

It uses nothing of a2d_jax and no automatic gradient: the network's gradient is written out. Inputs and labels are those of vectors.npy.
Columns of `linf`, `l2` and `rms`: updates, whether the class changed, the crossing, and the distance of the last point.
"""

import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
SETTINGS = {"linf": 0.1, "l2": 0.5, "rms": 0.08}  # epsilon
OVERSHOOT, SHORTEST, LONGEST, MOST = 1.05, 0.002, 1 / 6, 8

h, i, k = np.arange(8), np.arange(36), np.arange(5)
W1 = (((5 * h[:, None] + 3 * i + h[:, None] * i) % 11) - 5) / 4
B1 = ((h % 3) - 1) / 2
W2 = (((7 * k[:, None] + 2 * h + k[:, None] * h) % 9) - 4) / 3


def point(x, label):
    """Predicted class, margin of the label and its gradient."""
    before = W1 @ x + B1
    logits = W2 @ np.maximum(before, 0)
    other = max((j for j in range(5) if j != label), key=lambda j: logits[j])
    return int(np.argmax(logits)), logits[label] - logits[other], ((W2[label] - W2[other]) * (before > 0)) @ W1


def length(v, norm):
    return {"linf": np.abs(v).max(), "l2": np.sqrt((v**2).sum()), "rms": np.sqrt((v**2).mean())}[norm]


def newton(x, label, norm, epsilon):
    x0, radius, margin = x, 0.0, 0.0
    for updates in range(MOST + 1):
        predicted, m, g = point(x, label)
        now = max(radius, length(x - x0, norm))
        if predicted != label:
            total = margin - m
            crossing = radius + (now - radius) * (margin / total if total > 0 else 0)
            return updates, True, crossing, length(x - x0, norm)
        radius, margin = now, m
        g = np.array([0.0 if (p <= 0 and d > 0) or (p >= 1 and d < 0) else d for p, d in zip(x, g, strict=True)])
        if updates == MOST or not g.any():
            break
        direction = np.sign(g) if norm == "linf" else g / length(g, norm)
        dual = {"linf": np.abs(g).sum(), "l2": length(g, "l2"), "rms": np.sqrt(g.size) * length(g, "l2")}[norm]
        step = min(max(OVERSHOOT * m / dual, SHORTEST * epsilon), max(LONGEST * epsilon, radius))
        x = np.clip(x - step * direction, 0, 1)
    return updates, False, radius, length(x - x0, norm)


def main():
    vectors = np.load(HERE / "vectors.npy")
    found = {}
    for norm, epsilon in SETTINGS.items():
        rows = []
        for s, offset, label in vectors[:, :3]:
            x = np.maximum(0, ((i * (int(s) + 2) + 3 * int(s)) % 17) / 16 - offset)
            rows.append(newton(x, int(label), norm, epsilon))
        found[norm] = np.array(rows, float)
    np.savez(HERE / "newton.npz", **found)
    for norm, rows in found.items():
        print(norm, rows.mean(0), np.bincount(rows[:, 0].astype(int)))


if __name__ == "__main__":
    main()
