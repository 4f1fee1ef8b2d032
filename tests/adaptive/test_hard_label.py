"""A detector that shows nothing but its verdict: an integer cost inside the decision function, attacked by decisions alone."""

import jax
import jax.numpy as jnp
import numpy as np

from a2d_jax import drivers
from a2d_jax.adaptive import Evade, guarded
from a2d_jax.attacks import PGD, Boundary, bim
from a2d_jax.losses import prediction
from a2d_jax.types import Classifier, Example
from tests.nets import batch, convnet, linear

N, UPDATES = 6, 5
DETECTOR = bim(0.1, 0.002, 20)


def updates(classifier, x):
    """The integer cost of BIM for the class predicted: a loop, whose result no gradient passes."""
    example = Example(x, prediction(classifier(x)), jax.random.key(0))
    return drivers.run(DETECTOR, jax.lax.stop_gradient(classifier), jax.lax.stop_gradient(example)).cost.astype(x.dtype)


def verdict(classifier, x):
    """1 if the detector accepts, else 0, as a service answers."""
    return (updates(classifier, x) >= UPDATES).astype(x.dtype)


def test_the_boundary_attack_evades_a_detector_that_only_says_yes_or_no():
    """Protects the attacker without gradients: it finds misclassified and accepted images by decisions alone."""
    net = convnet()
    examples = batch(net, np.random.default_rng(0).uniform(0.2, 0.8, size=(N, 8, 8, 1)).astype(np.float32))
    plain = drivers.attack(Boundary(0, 150), net, examples, driver="run")
    against = drivers.attack(Evade(Boundary(0, 150)), guarded(net, verdict, 1.0), examples, driver="run")
    assert against.success.mean() > 0.8
    assert (against.backward_queries == 0).all()
    real = drivers.attack(DETECTOR, net, batch(net, against.x_adv), driver="run")
    predicted = np.asarray(jax.vmap(net)(jnp.asarray(against.x_adv))).argmax(1)
    np.testing.assert_array_equal(against.success, (predicted != examples.label) & (real.cost >= UPDATES))
    caught = drivers.attack(DETECTOR, net, batch(net, plain.x_adv), driver="run")
    assert (caught.cost < UPDATES).all(), "images on the boundary cost next to nothing"


def test_a_start_that_is_accepted_helps():
    """Protects starts: a detector that flags noise hides every image from an attack that begins at noise; from an accepted one it walks."""
    net = Classifier(jnp.float32(0.45), lambda level, x: jnp.stack([level, jnp.mean(x)]))  # bright images are of class 1

    def calm(classifier, x):
        return (jnp.mean(jnp.abs(jnp.diff(x, axis=0))) < 0.05).astype(x.dtype)  # noise has .33

    x = np.full((N, 8, 8, 1), 0.2, np.float32)
    examples = batch(net, x)
    guard = guarded(net, calm, 1.0)
    from_noise = drivers.attack(Evade(Boundary(0, 60)), guard, examples, driver="run")
    assert not from_noise.success.any()
    led = examples._replace(start=jnp.full_like(examples.x, 0.9))
    from_there = drivers.attack(Evade(Boundary(0, 60)), guard, led, driver="run")
    assert from_there.success.all()
    made = jnp.asarray(from_there.x_adv)
    assert (jax.vmap(net)(made)[:, 1] > 0.45).all()
    assert (jax.vmap(lambda one: calm(net, one))(made) == 1).all()
    np.testing.assert_allclose(from_there.x_adv.mean((1, 2, 3)), 0.45, atol=0.005)


def test_a_verdict_on_the_threshold_is_accepted_for_every_label():
    """Protects ties, which verdicts and integer costs have: an attack in `Evade` sees the detector's verdict for every label."""
    net = linear(np.eye(3, 4, dtype=np.float32))
    x = jnp.asarray([0.1, 0.9, 0.2, 0.0], jnp.float32).reshape(2, 2, 1)
    for label in (0, 2):
        examples = batch(net, np.asarray(x)[None], label=np.asarray([label], np.int32))
        for threshold, accepted in ((1.0, True), (1.5, False)):
            guard = guarded(net, lambda classifier, x: jnp.ones((), x.dtype), threshold)
            result = drivers.attack(Evade(PGD(0.0, 0.0, 0)), guard, examples, driver="run")
            assert result.success.all() == accepted


def test_gradients_do_not_lead_there():
    """Protects the comparison: against the same verdict a gradient attack only finds what it would have found without a detector."""
    net = convnet()
    examples = batch(net, np.random.default_rng(0).uniform(0.2, 0.8, size=(N, 8, 8, 1)).astype(np.float32))
    steps = PGD(0.05, 0.002, 40)
    result = drivers.attack(Evade(steps), guarded(net, verdict, 1.0), examples, driver="run")
    blind = drivers.attack(PGD(0.05, 0.002, 40), Classifier(net.variables, net.apply), examples, driver="run")
    assert blind.success.sum() >= result.success.sum()
    assert (result.iterations >= blind.iterations).all()
