"""Samples as comparisons and as responses to imitate."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experience.sampled_data import Sample, SampledPrompt, comparison, imitable, share_of_flipped_pairs


def prompt(*rewards: float | None, texts: str = "abcdefghi", ordinal: int = 0) -> SampledPrompt:
    samples = tuple(Sample(response=text, reward=reward) for text, reward in zip(texts, rewards, strict=False))
    return SampledPrompt(ordinal=ordinal, prompt="1+1", answer="2", samples=samples)


def test_all_responses_to_a_prompt_are_one_row_with_the_rewards_as_ratings() -> None:
    assert comparison(prompt(0.0, 1.0, 0.5), temperature=0, seed=0) == {
        "prompt": "1+1",
        "answer": "2",
        "responses": ["a", "b", "c"],
        "ratings": [0.0, 1.0, 0.5],
        "rewards": [0.0, 1.0, 0.5],
    }


def test_what_says_nothing_is_left_out() -> None:
    same = prompt(1.0, 0.0, 1.0, texts=["x", "y", " x "])  # type: ignore[arg-type]
    row = comparison(same, temperature=0, seed=0)
    assert row is not None and row["responses"] == ["x", "y"]
    assert comparison(prompt(1.0, 0.0, texts=["x", "x"]), temperature=0, seed=0) is None  # type: ignore[arg-type]
    assert comparison(prompt(1.0, 0.0, texts=["x", " "]), temperature=0, seed=0) is None  # type: ignore[arg-type]
    assert comparison(prompt(1.0, None), temperature=0, seed=0) is None
    assert comparison(prompt(1.0, 1.0), temperature=0, seed=0) is None
    assert comparison(prompt(), temperature=1, seed=0) is None


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_noisy_labels_follow_bradley_terry_for_every_pair(temperature: float) -> None:
    """Each of the K choose 2 pairs is the right way round with probability sigmoid(difference / temperature)."""
    rewards, num_rows = (0.0, 0.4, 1.0), 4000
    rows = [comparison(prompt(*rewards, ordinal=n), temperature=temperature, seed=3) for n in range(num_rows)]
    for a, b in itertools.combinations(range(3), 2):
        share = sum(row is not None and row["ratings"][b] > row["ratings"][a] for row in rows) / num_rows
        expected = 1 / (1 + math.exp((rewards[a] - rewards[b]) / temperature))
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / num_rows)


def test_labels_depend_on_the_seed_and_the_prompt_alone() -> None:
    one, again = (comparison(prompt(0.0, 1.0, ordinal=7), temperature=1, seed=3) for _ in range(2))
    assert one == again
    assert one != comparison(prompt(0.0, 1.0, ordinal=8), temperature=1, seed=3)
    assert one != comparison(prompt(0.0, 1.0, ordinal=7), temperature=1, seed=4)


def test_flipped_pairs_are_counted_among_those_that_differ() -> None:
    rows = [{"rewards": [0, 1, 1], "ratings": [2, 1, 3]}, {"rewards": [0, 0], "ratings": [0, 5]}]
    assert share_of_flipped_pairs(rows) == 1 / 2
    assert share_of_flipped_pairs(rows[1:]) == 0


def test_the_first_right_readable_and_different_responses_are_kept() -> None:
    sampled = prompt(1.0, 0.0, 1.0, 1.0, None, 1.0, texts=["a", "b", "a ", "c!", "d", "e"])  # type: ignore[arg-type]

    def is_plain(sample: Sample) -> bool:
        return "!" not in sample.response

    rows = imitable(sampled, threshold=1.0, is_readable=is_plain, at_most=9)
    assert [row["response"] for row in rows] == ["a", "e"]
    assert rows[0] == {"prompt": "1+1", "answer": "2", "response": "a", "reward": 1.0}
    assert [row["response"] for row in imitable(sampled, threshold=1.0, is_readable=is_plain, at_most=1)] == ["a"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 1.0, None])), max_size=8), st.integers(1, 4)
)
def test_what_is_kept_is_right_and_no_text_stands_twice(samples: list[tuple[str, float | None]], at_most: int) -> None:
    sampled = SampledPrompt(
        ordinal=0, prompt="", answer=None, samples=tuple(Sample(response=t, reward=r) for t, r in samples)
    )
    rows = imitable(sampled, threshold=0.5, is_readable=lambda _: True, at_most=at_most)
    texts = [row["response"] for row in rows]
    assert len(set(texts)) == len(texts) <= at_most
    assert all(row["reward"] >= 0.5 and (row["response"], row["reward"]) in samples for row in rows)
