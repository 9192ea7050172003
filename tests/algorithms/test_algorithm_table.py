import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from algorithms.advantages import find_estimator
from algorithms.losses import find_loss
from algorithms.table import ALGORITHMS, check_group_size, describe, find_row, resolve
from configs.schema.algorithm import AlgorithmConfig

EXPECTED_ROWS = [
    "cispo", "dapo", "dr_grpo", "gspo", "grpo", "ppo", "reinforce", "reinforce_pp", "reinforce_pp_baseline",
    "remax", "rloo",
]  # fmt: skip


def test_the_table_holds_the_promised_rows():
    assert sorted(ALGORITHMS) == sorted(EXPECTED_ROWS)


@pytest.mark.parametrize("name", EXPECTED_ROWS)
def test_a_row_resolves_to_itself(name):
    assert resolve(AlgorithmConfig(name=name)) == ALGORITHMS[name]


@pytest.mark.parametrize("name", EXPECTED_ROWS)
def test_a_row_cites_its_paper_and_travels_between_processes(name):
    row = ALGORITHMS[name]
    assert "arXiv:" in row.paper or "doi:" in row.paper
    assert pickle.loads(pickle.dumps(row)) == row


def test_every_column_can_be_overridden():
    columns = set(describe(find_row("grpo"))) - {"name", "paper"}
    assert columns == set(AlgorithmConfig.model_fields) - {"name", "mini_batches", "epochs"}


def test_an_override_replaces_one_column():
    row = resolve(AlgorithmConfig(name="dapo", clip_high=0.4, kl_coef=0.0))
    expected = {**describe(find_row("dapo")), "clip_high": 0.4}
    assert describe(row) == expected


def test_zero_kl_needs_no_reference():
    assert find_row("grpo").needs_reference
    assert not resolve(AlgorithmConfig(name="grpo", kl_coef=0.0)).needs_reference


@pytest.mark.parametrize(
    ("name", "critic", "greedy", "token_rewards", "min_group_size"),
    [
        ("ppo", True, False, True, 1),
        ("grpo", False, False, False, 2),
        ("reinforce", False, False, False, 1),
        ("reinforce_pp", False, False, True, 1),
        ("reinforce_pp_baseline", False, False, False, 2),
        ("remax", False, True, False, 1),
    ],
)
def test_a_row_tells_what_it_needs(name, critic, greedy, token_rewards, min_group_size):
    row = find_row(name)
    assert (row.needs_critic, row.needs_greedy, row.has_token_rewards) == (critic, greedy, token_rewards)
    assert row.min_group_size == min_group_size


def test_reinforce_moves_to_token_rewards_with_a_discount_or_a_kl_reward():
    assert resolve(AlgorithmConfig(name="reinforce", gamma=0.9)).has_token_rewards
    assert resolve(AlgorithmConfig(name="reinforce", kl_coef=0.1, kl_place="reward")).has_token_rewards
    assert not resolve(AlgorithmConfig(name="reinforce", kl_coef=0.1)).has_token_rewards


def test_old_logprobs_are_only_needed_for_several_updates_or_a_kl_reward():
    assert not find_row("grpo").needs_old_logprobs(updates_per_batch=1)
    assert find_row("grpo").needs_old_logprobs(updates_per_batch=2)
    assert find_row("ppo").needs_old_logprobs(updates_per_batch=1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"name": "gppo"}, r"algorithm.name='gppo': unknown; choose one of cispo, dapo.*path/to/file.py:row"),
        ({"loss": "klip"}, r"algorithm.loss='klip': unknown; choose one of cispo, clip, reinforce"),
        ({"advantage": "gea"}, r"algorithm.advantage='gea': unknown; choose one of dr_grpo, gae"),
        ({"name": "rloo", "clip_low": 0.1}, r"algorithm.clip_low has no effect: loss='reinforce' does not clip"),
        ({"name": "rloo", "loss": "clip"}, r"set algorithm.clip_low and algorithm.clip_high"),
        ({"name": "cispo", "dual_clip": 3.0}, r"algorithm.dual_clip has no effect: loss='cispo' has no dual clip"),
        ({"dual_clip": 0.5}, r"algorithm.dual_clip=0.5: must be above 1"),
        ({"name": "rloo", "ratio_level": "sequence"}, r"algorithm.ratio_level has no effect"),
        ({"gamma": 0.9}, r"algorithm.gamma has no effect: advantage='grpo' discounts nothing"),
        ({"value_clip": 0.2}, r"algorithm.value_clip has no effect: advantage='grpo' has no critic"),
        ({"critic_warmup_steps": 5}, r"algorithm.critic_warmup_steps has no effect"),
        ({"baseline_decay": 0.9}, r"algorithm.baseline_decay has no effect"),
        ({"name": "dapo", "kl_estimator": "k2"}, r"algorithm.kl_estimator has no effect: kl_coef=0"),
        ({"kl_horizon": 5}, r"algorithm.kl_horizon has no effect: kl_coef is fixed"),
        ({"kl_place": "reward"}, r"kl_place='reward' needs token rewards, which advantage='grpo' has not"),
        ({"correction_high": 2.0}, r"algorithm.correction_high has no effect: correction='none'"),
        ({"correction": "tis", "correction_low": 0.5}, r"algorithm.correction_low has no effect: correction='tis'"),
        ({"correction": "icepop", "correction_low": 6.0}, r"correction_low=6.0 must be below correction_high=5.0"),
        ({"dynamic_sampling_limit": 2.0}, r"algorithm.dynamic_sampling_limit has no effect"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(overrides, message):
    with pytest.raises(ValueError, match=message) as caught:
        resolve(AlgorithmConfig(**overrides))
    assert "\n" not in str(caught.value)


def test_a_loss_that_does_not_clip_drops_the_inherited_clip_range():
    row = resolve(AlgorithmConfig(name="grpo", loss="reinforce"))
    assert (row.clip_low, row.clip_high) == (None, None)


def test_k1_in_the_loss_of_on_policy_samples_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        resolve(AlgorithmConfig(kl_estimator="k1"))
        assert "zero expected gradient" in caplog.text
        caplog.clear()
        resolve(AlgorithmConfig(kl_estimator="k1", mini_batches=2))
        assert not caplog.records


def test_a_group_of_one_is_rejected_where_samples_are_compared():
    with pytest.raises(ValueError, match=r"rollout.group_size=1: advantage='grpo'.*set it to 2 or more"):
        check_group_size(find_row("grpo"), 1)
    check_group_size(find_row("reinforce"), 1)


USER_FILE = """
from dataclasses import replace
from algorithms.table import find_row
mine = replace(find_row("dapo"), name="mine", clip_high=0.5, loss=__file__ + ":my_loss")
not_a_row = 3
def my_loss(terms, algorithm):
    return -terms.advantages * terms.logprobs
"""


def test_a_users_row_is_found_by_path_and_overridden_like_ours(tmp_path):
    file = tmp_path / "rows.py"
    file.write_text(USER_FILE)
    row = resolve(AlgorithmConfig(name=f"{file}:mine", clip_low=0.1))
    assert (row.name, row.clip_low, row.clip_high) == ("mine", 0.1, 0.5)
    assert pickle.loads(pickle.dumps(row)) == row
    assert "mine" not in ALGORITHMS


@pytest.mark.parametrize(
    ("attribute", "message"),
    [("absent", r"has no 'absent'; it has .*mine"), ("not_a_row", r"is a int; it must be")],
)
def test_a_users_file_without_the_row_is_told(tmp_path, attribute, message):
    file = tmp_path / "rows.py"
    file.write_text(USER_FILE)
    with pytest.raises(ValueError, match=message):
        find_row(f"{file}:{attribute}")


def test_a_users_file_that_is_missing_or_broken_is_told(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        find_row(f"{tmp_path}/none.py:row")
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_that_name\n")
    with pytest.raises(ValueError, match=r"broken.py failed to load: ModuleNotFoundError"):
        find_row(f"{broken}:row")


def test_resolving_a_row_imports_no_torch():
    code = "import sys; from algorithms.table import resolve; from configs.schema.algorithm import AlgorithmConfig; "
    code += "resolve(AlgorithmConfig()); assert 'torch' not in sys.modules and 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_documentation_has_a_line_for_every_row():
    page = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text()
    missing = [name for name in ALGORITHMS if f"\n| `{name}` |" not in page]
    assert not missing


def test_the_documented_user_file_works(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    file = tmp_path / "my_rows.py"
    file.write_text(code)
    row = resolve(AlgorithmConfig(name=f"{file}:bold_dapo", loss=f"{file}:squared", advantage=f"{file}:ranks"))
    assert (row.clip_high, row.kl_coef) == (0.5, 0.0)
    assert callable(find_loss(row.loss)) and callable(find_estimator(row.advantage))
