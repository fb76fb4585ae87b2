"""Catches balls of the wrong set, a row taken for its own neighbour, a collapse or a lost mode that is not seen."""

import numpy as np
import pytest

from recipes.common.scores.intervals import halves, share_interval
from recipes.common.scores.manifold import Distances, expected_coverage, manifold, radii
from recipes.common.threads import one_thread


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


def normal(seed: int, rows: int, features: int = 4, mean: float = 0.0) -> np.ndarray:
    return mean + np.random.default_rng(seed).standard_normal((rows, features))


def figures(real: np.ndarray, generated: np.ndarray, neighbours: int = 5) -> dict[str, float]:
    return vars(manifold(Distances.of(real, generated), neighbours))


def slowly(real: np.ndarray, generated: np.ndarray, neighbours: int) -> dict[str, float]:
    """The definitions, one pair at a time."""

    def apart(one, other):
        return float(np.sqrt(np.square(one - other).sum()))

    def reach(rows):
        return [sorted(apart(row, other) for other in rows)[neighbours] for row in rows]

    real_reach, generated_reach = reach(real), reach(generated)
    inside = [[apart(x, y) <= r for y in generated] for x, r in zip(real, real_reach, strict=True)]
    within = [[apart(x, y) <= r for y, r in zip(generated, generated_reach, strict=True)] for x in real]
    return {
        "precision": np.mean([any(column) for column in zip(*inside, strict=True)]),
        "recall": np.mean([any(row) for row in within]),
        "density": np.sum(inside) / (neighbours * len(generated)),
        "coverage": np.mean([any(row) for row in inside]),
    }


def test_the_figures_are_their_definitions():
    real, generated = normal(0, 40), normal(1, 30, mean=0.7)
    assert figures(real, generated, 3) == pytest.approx(slowly(real, generated, 3), abs=1e-12)


def test_a_row_is_not_its_own_neighbour():
    line = np.array([[0.0], [1.0], [3.0], [7.0]])
    distances = Distances.of(line, line).real_NN
    assert radii(distances, 1).tolist() == [1, 1, 2, 4]
    assert radii(distances, 2).tolist() == [3, 2, 3, 6]


def test_equal_sets_are_in_each_other():
    rows = normal(0, 100)
    found = figures(rows, rows[::-1].copy())
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)


def test_sets_drawn_alike_have_the_figures_of_theory():
    found = [figures(normal(2 * seed, 200), normal(2 * seed + 1, 200)) for seed in range(40)]
    for name, expected in (("density", 1.0), ("coverage", expected_coverage(200, 200, 5))):
        values = [one[name] for one in found]
        assert np.mean(values) == pytest.approx(expected, abs=3 * np.std(values) / np.sqrt(40))
    assert expected_coverage(200, 200, 5) == pytest.approx(1 - 0.5**5, abs=0.002)


def test_sets_apart_have_nothing_in_common():
    found = figures(normal(0, 100), normal(1, 100, mean=50.0))
    assert list(found.values()) == [0, 0, 0, 0]


def test_a_collapsed_set_is_precise_and_covers_little():
    real = normal(0, 300)
    collapsed = real[np.argmin(np.square(real).sum(axis=1))] + 0.01 * normal(1, 300)
    found = figures(real, collapsed)
    assert found["precision"] == 1
    assert found["recall"] == pytest.approx(0, abs=0.01)
    assert found["coverage"] < 0.1
    assert found["density"] > 1


def test_a_lost_mode_costs_recall_and_coverage_and_no_precision():
    modes = np.concatenate([normal(0, 200), normal(1, 200, mean=20.0)])
    one = normal(2, 400)
    found = figures(modes, one)
    whole = figures(modes, np.concatenate([normal(3, 200), normal(4, 200, mean=20.0)]))
    assert found["precision"] == pytest.approx(whole["precision"], abs=0.05)
    assert found["recall"] == pytest.approx(whole["recall"] / 2, abs=0.05)
    assert found["coverage"] == pytest.approx(whole["coverage"] / 2, abs=0.05)


def test_distances_among_some_rows_are_those_of_sets_of_them():
    real, generated, places = normal(0, 50), normal(1, 50, mean=0.5), halves(50, 1, 0)[0]
    found = vars(manifold(Distances.of(real, generated).among(places), 5))
    assert found == figures(real[places], generated[places])


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="5 neighbours of each row need more than 5 rows"):
        figures(normal(0, 5), normal(1, 9))


def test_intervals_hold_the_mean_as_often_as_they_say():
    found = []
    for seed in range(60):
        distances = Distances.of(normal(2 * seed, 150), normal(2 * seed + 1, 150, mean=0.5))
        values = vars(manifold(distances, 5))
        halved = [vars(manifold(distances.among(places), 5)) for places in halves(150, 40, seed)]
        found.append(
            {
                name: (value, *share_interval(value, np.array([one[name] for one in halved]), 150))
                for name, value in values.items()
                if name != "density"
            }
        )
    for name in found[0]:
        values, lows, highs = np.array([one[name] for one in found]).T
        held = ((lows <= values.mean()) & (values.mean() <= highs)).mean()
        assert held >= 0.9, name
        assert (highs - lows).mean() < 2 * 1.96 * 2 * values.std(), name
