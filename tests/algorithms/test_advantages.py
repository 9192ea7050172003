from dataclasses import replace
from statistics import mean, stdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.advantages import SequenceRewards, next_moving_average, sequence_advantages
from algorithms.algorithm import Algorithm
from algorithms.table import ALGORITHMS, find_row

NAN = float("nan")
SEQUENCE_ROWS = sorted(row.name for row in ALGORITHMS.values() if not row.has_token_rewards)


def batch(rewards: list[float], groups: list[int], greedy: list[float] | None = None) -> SequenceRewards:
    return SequenceRewards(
        rewards=torch.tensor(rewards, dtype=torch.float64),
        groups=torch.tensor(groups),
        greedy_rewards=None if greedy is None else torch.tensor(greedy, dtype=torch.float64),
    )


def advantages(row: Algorithm, data: SequenceRewards) -> list[float]:
    return sequence_advantages(row, data).tolist()


def slow_advantage(row: Algorithm, data: SequenceRewards, i: int) -> float:
    """The advantage of sample i before whitening, in plain Python."""
    rewards, groups = data.rewards.tolist(), data.groups.tolist()
    members = [j for j in range(len(rewards)) if groups[j] == groups[i] and rewards[j] == rewards[j]]
    scored, others = [rewards[j] for j in members], [rewards[j] for j in members if j != i]
    if rewards[i] != rewards[i] or len(members) < row.min_group_size:
        return NAN
    if row.advantage == "grpo":
        return (rewards[i] - mean(scored)) / (stdev(scored) + 1e-6)
    if row.advantage == "rloo":
        return rewards[i] - mean(others)
    if row.advantage == "remax":
        return rewards[i] - data.greedy_rewards.tolist()[i]
    return rewards[i] - (data.moving_average if row.advantage == "reinforce" else mean(scored))


def slow_advantages(row: Algorithm, data: SequenceRewards) -> list[float]:
    result = [slow_advantage(row, data, i) for i in range(len(data.rewards))]
    if row.whiten:
        kept = [a for a in result if a == a]
        centre, spread = mean(kept), (mean([a * a for a in kept]) - mean(kept) ** 2) ** 0.5
        result = [(a - centre) / spread for a in result]
    return result


@pytest.mark.parametrize("name", SEQUENCE_ROWS)
def test_every_estimator_equals_the_slow_one(name):
    data = batch(
        [1.0, 0.0, 0.5, NAN, 2.0, -1.0, 3.0, 0.25, 0.75, NAN, 4.0],
        [4, 4, 4, 4, 9, 9, 9, -2, -2, 7, 7],
        greedy=[0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 0.0, 0.0, 2.0, 2.0],
    )
    data = replace(data, moving_average=0.4)
    assert advantages(find_row(name), data) == pytest.approx(
        slow_advantages(find_row(name), data), abs=1e-6, nan_ok=True
    )


def test_grpo_by_hand():
    # Mean 0.25, deviation 0.5 with ddof 1.
    assert advantages(find_row("grpo"), batch([1, 0, 0, 0], [0] * 4)) == pytest.approx(
        [1.5, -0.5, -0.5, -0.5], abs=1e-5
    )


def test_rloo_by_hand():
    assert advantages(find_row("rloo"), batch([1, 0, 0], [0] * 3)) == pytest.approx([1, -0.5, -0.5])


def test_remax_by_hand():
    data = batch([1, 0, 1], [0, 0, 1], greedy=[0, 0, NAN])
    assert advantages(find_row("remax"), data) == pytest.approx([1, 0, NAN], nan_ok=True)


def test_remax_without_greedy_rewards_is_refused():
    with pytest.raises(ValueError, match="greedy"):
        advantages(find_row("remax"), batch([1.0], [0]))


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "reinforce_pp_baseline", "dapo", "gspo", "cispo"])
@pytest.mark.parametrize("reward", [0.0, 0.1, 1e6, -1 / 3])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_a_group_of_equal_rewards_has_advantage_zero(name, reward, size):
    assert advantages(find_row(name), batch([reward] * size, [5] * size)) == [0.0] * size


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "reinforce_pp_baseline"])
def test_a_group_with_one_scored_sample_is_dropped(name):
    given_up = advantages(find_row(name), batch([1.0, 1.0, NAN, 0.0, 1.0], [0, 1, 1, 2, 2]))
    assert [a != a for a in given_up] == [True, True, True, False, False]


def test_an_unscored_sample_leaves_the_baseline_of_its_group():
    with_failure = advantages(find_row("dr_grpo"), batch([1.0, NAN, 0.0], [0, 0, 0]))
    assert with_failure == pytest.approx([0.5, NAN, -0.5], nan_ok=True)


@pytest.mark.parametrize("name", SEQUENCE_ROWS)
def test_an_empty_batch_has_no_advantages(name):
    assert advantages(find_row(name), batch([], [], greedy=[])) == []


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(SEQUENCE_ROWS),
    samples=st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0, NAN, -2.0]), st.integers(0, 3)), min_size=1, max_size=12
    ),
    data=st.data(),
)
def test_permuting_samples_permutes_their_advantages(name, samples, data):
    order = data.draw(st.permutations(range(len(samples))))
    rewards, groups = [r for r, _ in samples], [g for _, g in samples]
    straight = advantages(find_row(name), batch(rewards, groups, greedy=rewards))
    shuffled = [rewards[i] for i in order]
    permuted = advantages(find_row(name), batch(shuffled, [groups[i] for i in order], greedy=shuffled))
    assert permuted == pytest.approx([straight[i] for i in order], abs=1e-9, nan_ok=True)


def test_advantages_are_clipped_after_whitening():
    row = replace(find_row("dr_grpo"), advantage_clip=0.6, whiten=True)
    assert advantages(row, batch([1, 0, 0, 0, NAN], [0] * 5)) == pytest.approx(
        [0.6, -0.57735, -0.57735, -0.57735, NAN], abs=1e-5, nan_ok=True
    )


def test_truncated_responses_are_dropped_but_stay_in_the_baseline():
    data = replace(batch([3.0, 0.0, 0.0], [0, 0, 0]), is_truncated=torch.tensor([False, True, False]))
    row = replace(find_row("dr_grpo"), mask_truncated=True)
    assert advantages(row, data) == pytest.approx([2, NAN, -1], nan_ok=True)
    assert advantages(find_row("dr_grpo"), data) == pytest.approx([2, -1, -1])
    with pytest.raises(ValueError, match="is_truncated"):
        advantages(row, batch([3.0, 0.0], [0, 0]))


def test_whitening_centres_and_scales_what_is_kept():
    row = replace(find_row("reinforce"), whiten=True)
    values = sequence_advantages(row, batch([3.0, 1.0, NAN, 5.0, 2.0], [0, 1, 2, 3, 4]))
    kept = values[~values.isnan()]
    assert float(kept.mean()) == pytest.approx(0, abs=1e-9)
    assert float(kept.std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_the_moving_average_starts_at_the_first_mean_and_then_follows():
    first = next_moving_average(None, torch.tensor([1.0, NAN, 3.0]), decay=0.9)
    assert first == 2.0
    assert next_moving_average(first, torch.tensor([4.0]), decay=0.9) == pytest.approx(2.2)
    assert next_moving_average(first, torch.tensor([NAN]), decay=0.9) == 2.0
    assert next_moving_average(None, torch.tensor([5.0]), decay=0.0) == 0.0


def test_a_users_estimator_is_found_by_path(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def double(batch):\n    return 2 * batch.rewards\ndef short(batch):\n    return batch.rewards[:1]\n"
    )
    row = find_row("dr_grpo")
    assert advantages(replace(row, advantage=f"{file}:double"), batch([1, 3], [0, 0])) == [2, 6]
    with pytest.raises(ValueError, match="one advantage for each reward"):
        advantages(replace(row, advantage=f"{file}:short"), batch([1, 3], [0, 0]))
