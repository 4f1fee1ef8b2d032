"""The refilling driver: order, pieces, shrinking lanes, statistics, devices, memory."""

import itertools

import jax
import numpy as np
import pytest

from a2d_jax import drivers
from a2d_jax.attacks import bim
from a2d_jax.drivers import refill
from tests.nets import batch, convnet, forget_times

pytestmark = pytest.mark.xdist_group("refill")  # one process: its fixtures take seconds

ATTACK = bim(0.3, 0.004, 60)


@pytest.fixture(scope="module")
def net():
    return convnet()


@pytest.fixture(scope="module")
def examples(net):
    return batch(net, np.random.default_rng(3).uniform(size=(150, 8, 8, 1)).astype(np.float32))


@pytest.fixture(scope="module")
def expected(net, examples):
    return drivers.attack(ATTACK, net, examples, driver="run", devices=jax.local_devices()[:1])


@pytest.fixture(params=[0.0, 1e9], ids=["shrinking", "waiting"])
def patience(request, monkeypatch):
    """Lanes that shrink as soon as most are free, and lanes that never do."""
    monkeypatch.setattr(refill, "PATIENCE", request.param)
    forget_times(monkeypatch)


def gather(stream):
    parts = list(stream)
    index = np.concatenate([part.index for part in parts])
    return index, jax.tree.map(lambda *leaves: np.concatenate(leaves), *(part.result for part in parts))


def assert_same(result, expected, index):
    """Equal to the bit, but for the crossing, a quotient of margins, whose last bits another program may round otherwise."""
    expected = jax.tree.map(lambda leaf: leaf[index], expected)
    jax.tree.map(np.testing.assert_array_equal, result._replace(crossing=None), expected._replace(crossing=None))
    np.testing.assert_allclose(result.crossing, expected.crossing, rtol=0, atol=1e-4 * ATTACK.step_size)


@pytest.mark.parametrize(("lanes", "devices"), [(2, 1), (3, 8), (16, 1), (16, 2), (300, 1), (300, 8)])
def test_any_lane_and_device_count(lanes, devices, patience, net, examples, expected):
    """Protects exactness: every example comes out once, with the same result, whatever the lanes and devices."""
    index, result = gather(drivers.stream(ATTACK, net, [examples], lanes=lanes, devices=jax.local_devices()[:devices]))
    assert sorted(index) == list(range(150))
    assert_same(result, expected, index)


@pytest.mark.parametrize("sizes", [[1, 149], [150], [7] * 21 + [3], [0, 100, 0, 50]])
def test_any_pieces(sizes, net, examples, expected):
    """Protects large data: examples arrive in pieces of any size, empty ones included, and only when asked for."""
    ends = np.cumsum([0, *sizes])
    asked = []

    def pieces():
        for begin, end in itertools.pairwise(ends):
            asked.append(end)
            yield jax.tree.map(lambda leaf, b=begin, e=end: leaf[b:e], examples)

    stream = drivers.stream(ATTACK, net, pieces(), lanes=4, devices=jax.local_devices()[:1])
    assert not asked, "nothing is read before the results are asked for"
    index, result = gather(stream)
    assert asked[-1] == 150
    assert_same(result, expected, index)


def test_pieces_are_read_as_lanes_fall_free(net, examples):
    """Protects memory: when the first results come out, only a few pieces have been read."""
    read = []

    def pieces():
        for n in range(150):
            read.append(n)
            yield jax.tree.map(lambda leaf, n=n: leaf[n : n + 1], examples)

    results = iter(drivers.stream(ATTACK, net, pieces(), lanes=2, devices=jax.local_devices()[:1]))
    next(results)
    assert len(read) < 30


def test_no_examples():
    """Protects the empty job: no pieces, no results, no steps."""
    stream = drivers.stream(ATTACK, convnet(), [])
    assert list(stream) == []
    assert stream.stats.lane_steps == 0


def test_shrinking_saves_steps(net, examples, monkeypatch):
    """Protects the tail: with fewer lanes at the end, fewer steps are executed for the same useful ones."""
    executed = {}
    for value in (0.0, 1e9):
        monkeypatch.setattr(refill, "PATIENCE", value)
        forget_times(monkeypatch)
        stream = drivers.stream(ATTACK, net, [examples], lanes=64, devices=jax.local_devices()[:1])
        gather(stream)
        executed[value] = stream.stats.lane_steps
    assert executed[0.0] < executed[1e9]


def test_statistics_are_true(net, examples, expected):
    """Protects the reported waste: useful steps are the looks that examples needed, and no fewer lane steps were executed."""
    stream = drivers.stream(ATTACK, net, [examples], lanes=8, devices=jax.local_devices()[:1])
    gather(stream)
    needed = int((expected.iterations + 1).sum())
    assert stream.stats.useful_steps == needed == int(expected.forward_queries.sum())
    assert stream.stats.finished == 150
    assert stream.stats.lane_steps >= needed
    lock_step = sum(8 * int((expected.iterations[i : i + 8] + 1).max()) for i in range(0, 150, 8))
    assert stream.stats.lane_steps < lock_step, "refilling must beat lock-step batches of the same width"
    assert stream.stats.useful_fraction > 0.85


def test_costs_without_images(net, examples, expected):
    """Protects large jobs: without `keep_x_adv` everything but the images comes out."""
    index, result = gather(drivers.stream(ATTACK, net, [examples], lanes=8, keep_x_adv=False))
    assert result.x_adv is None
    np.testing.assert_array_equal(result.cost, expected.cost[index])
    np.testing.assert_array_equal(result.distance, expected.distance[index])


def test_long_calls_are_cut(net, examples, expected, monkeypatch):
    """Protects Ctrl-C and progress: the compiled loop returns to the host every few steps and goes on where it was."""
    monkeypatch.setattr(refill, "CALL_SECONDS", 0.0)  # every call is too long: down to one step a call
    index, result = gather(drivers.stream(ATTACK, net, [examples], lanes=64, devices=jax.local_devices()[:2]))
    assert_same(result, expected, index)


@pytest.mark.parametrize("driver", ["run", "unroll", "stream"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_examples_than_devices(driver, count, net, examples, expected):
    """Protects padding: batches that do not divide by the devices come out whole, in order, without the padding."""
    few = jax.tree.map(lambda leaf: leaf[:count], examples)
    result = drivers.attack(ATTACK, net, few, driver=driver)
    assert_same(result, expected, np.arange(count))


def test_devices_stop_on_their_own(net):
    """Protects sharding: no device asks another inside the loop, so the program has no collective."""
    from jax.sharding import Mesh

    from a2d_jax.drivers.program import program

    mesh = Mesh(np.array(jax.local_devices()), ("examples",))
    examples = batch(net, np.zeros((8, 8, 8, 1), np.float32))
    text = program(mesh).lockstep.lower(ATTACK, net, examples, length=None).compile().as_text()
    assert "while" in text
    assert not any(name in text for name in ("all-reduce", "all-gather", "collective-permute", "all-to-all"))


@pytest.mark.parametrize(
    ("shape", "platform", "lanes"),
    [((28, 28, 1), "cpu", 32), ((32, 32, 3), "cpu", 8), ((64, 64, 1), "cpu", 8), ((224, 224, 3), "cpu", 4), ((224, 224, 3), "gpu", 256)],
)
def test_lanes_by_size(shape, platform, lanes):
    """Protects small sets of large photographs on a CPU: few lanes, so that few are idle."""
    assert refill.default_lanes(shape, platform) == lanes


def test_refuses_bad_arguments(net, examples):
    """Protects early failure: too few lanes and an unknown driver are refused with what to do."""
    with pytest.raises(ValueError, match="expected lanes >= 2, got 0; give"):
        drivers.stream(ATTACK, net, [examples], lanes=0)
    with pytest.raises(ValueError, match="expected a driver among stream, run, unroll, got 'fast'"):
        drivers.attack(ATTACK, net, examples, driver="fast")
