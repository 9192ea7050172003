"""The samples that are shown, and the intervals that are made of all of them."""

from pathlib import Path

import numpy as np
import pytest

from reports.run_data import read_run
from reports.samples import best, failure_reasons, left_out, most_changed, reward_intervals, with_id, worst
from reports.tokens import Colouring, check_colouring, load_tokenizer, pieces
from tests.reports.made_runs import PROMPTS, make_run, write_step


def test_best_and_worst_are_of_different_prompts(tmp_path: Path) -> None:
    path = read_run(make_run(tmp_path)).stored_steps()[20]
    assert [(s.id, s.reward) for s in best(path, 2)] == [("161.0", 1.0), ("163.0", 1.0)]
    assert [(s.id, s.reward) for s in worst(path, 2)] == [("160.0", 0.0), ("162.0", 0.0)]
    assert len(best(path, 99)) == PROMPTS


def test_the_prompts_that_changed_most_stand_at_their_first_and_last_step(tmp_path: Path) -> None:
    changes = most_changed(read_run(make_run(tmp_path, stored=(1, 5, 20))), 3)
    assert [(c.row, c.early.step, c.late.step, c.early_mean, c.late_mean) for c in changes] == [
        (row, 1, 20, 0.0, 1.0) for row in (1, 3, 5)
    ]


def test_a_sample_is_found_by_its_id_in_any_step(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))
    assert with_id(run, "161.2").step == 20
    with pytest.raises(ValueError, match=r"--id 161\.2: not in step 1 of"):
        with_id(run, "161.2", 1)


def test_the_reward_has_an_interval_at_stored_steps(tmp_path: Path) -> None:
    intervals = reward_intervals(read_run(make_run(tmp_path)))
    assert list(intervals) == [1, 20]
    # Step 20: four prompts whose three scored samples have 1, four with 0, 0.1 and 0.2.
    groups = np.array([1.0] * 4 + [0.1] * 4)
    half = 1.959964 * groups.std(ddof=1) / len(groups) ** 0.5
    assert intervals[20] == pytest.approx((groups.mean() - half, groups.mean() + half))


def test_failures_and_left_out_samples_are_counted_with_their_reasons(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))
    assert failure_reasons(run) == {"timeout": [("took longer than 5 s", 2 * PROMPTS)]}
    assert left_out(run) == {"not scored (timeout)": 2 * PROMPTS}


def test_a_response_is_cut_into_its_tokens_with_what_is_known_of_each(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))
    sample = with_id(run, "161.0")
    found = pieces(sample, load_tokenizer(run))
    assert [piece.text for piece in found] == ["yes", " it", " is", " 7", "<|end|>"]
    assert [piece.levels[Colouring.LOGPROB] for piece in found] == [0, -1, -2, -3, -4]
    assert [piece.levels[Colouring.VERSION] for piece in found] == [-1, -1, 0, 0, 0]
    assert [piece.levels[Colouring.ADVANTAGE] for piece in found] == [2] * 5
    assert found[3].note == "log-prob -3, version 19"


def test_ratios_are_shown_where_the_trainers_log_probs_are_stored(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))
    tokenizer = load_tokenizer(run)
    with pytest.raises(ValueError, match="--color ratio: the trainer's log-probs of this step were not stored"):
        check_colouring(with_id(run, "161.0"), Colouring.RATIO, tokenizer)
    write_step(run.stored_steps()[20], 20, ("yes it is 7",), old_logprobs=True)
    sample = with_id(run, "161.0")
    check_colouring(sample, Colouring.RATIO, tokenizer)
    # Log ratios: -0.49, -0.2, 0.5, 2.5, 5.5.
    assert [piece.levels[Colouring.RATIO] for piece in pieces(sample, tokenizer)] == [-3, -2, 3, 4, 4]
    assert pieces(sample, tokenizer)[0].note == "log-prob -0.01, version 18, ratio 0.6126"


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_without_the_tokenizer_of_its_tokens_a_response_is_one_piece(tmp_path: Path, has_tokenizer: bool) -> None:
    texts = ("the text of another tokenizer",) if has_tokenizer else ("yes it is 7",)
    run = read_run(make_run(tmp_path, texts=texts, has_tokenizer=has_tokenizer))
    sample, tokenizer = with_id(run, "161.0"), load_tokenizer(run)
    assert [(piece.text, piece.levels) for piece in pieces(sample, tokenizer)] == [(texts[0], {Colouring.ADVANTAGE: 2})]
    with pytest.raises(ValueError, match="the tokens can't be told apart"):
        check_colouring(sample, Colouring.LOGPROB, tokenizer)


def test_a_character_of_several_tokens_is_one_piece(tmp_path: Path) -> None:
    from dataclasses import replace

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE({c: n for n, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = tuple(tokenizer.encode("a中b").ids)
    sample = with_id(read_run(make_run(tmp_path)), "161.0")
    sample = replace(
        sample, response="a中b", tokens=tokens, mask=(True,) * 5, versions=(19,) * 5,
        rollout_logprobs=(-0.01, -0.01, -5.0, -0.01, -0.01),
    )  # fmt: skip
    found = pieces(sample, tokenizer)
    assert [(piece.text, piece.levels[Colouring.LOGPROB]) for piece in found] == [("a", 0), ("中", -4), ("b", 0)]
