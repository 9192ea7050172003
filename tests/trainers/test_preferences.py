"""Reward model and DPO on one rank's micro-batches, against transformers one sequence at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from algorithms.measures import finish, merge
from configs.schema import ModelConfig, TokenizerConfig
from configs.schema.model import Architecture, NewModelConfig
from experience.packing import plan_block
from experience.records import MiniBatch, Ranking, TokenBlock
from experience.tokenizer import build_tokenizer
from tests.actors.tiny_reward_models import make_reward_model
from trainers.model import PolicyModel, SpecialTokens, checkpoint_name, new_model
from trainers.objective import Model, Objective
from trainers.packed import pack
from trainers.preferences import DpoObjective, RewardObjective
from trainers.reward_model import RewardModel, exported_config, load_classifier, new_classifier, score_head
from trainers.value_model import value_model_of_rewards

VOCAB_SIZE = 50
RATINGS = [[2.0, 0.0, 1.0, 1.0], [1.0, 3.0], [0.5, -1.0, 4.0], [0.0, 1.0]]


def causal_lm(seed: int = 0, architecture: Architecture = "qwen3") -> PreTrainedModel:
    sizes = NewModelConfig(
        architecture=architecture, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2, num_kv_heads=1
    )
    tokens = SpecialTokens(bos=None, eos=1, pad=0)
    model = new_model(sizes, vocab_size=VOCAB_SIZE, seed=seed, tokens=tokens, dtype="float32")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model


def comparisons(seed: int = 0) -> TokenBlock:
    """Four prompts with two to four responses of random tokens."""
    random = np.random.default_rng(seed)
    lengths = random.integers(4, 14, size=sum(map(len, RATINGS)))
    mask = np.concatenate([np.arange(length) >= random.integers(1, length) for length in lengths])
    return TokenBlock(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        tokens=random.integers(2, VOCAB_SIZE, size=len(mask)).astype(np.int32),
        response_mask=mask,
        rollout_logprobs=np.zeros(len(mask), dtype=np.float32),
        versions=np.full(len(mask), -1, dtype=np.int32),
        ranking=Ranking(edges=np.cumsum([0, *map(len, RATINGS)]), ratings=np.concatenate(RATINGS).astype(np.float32)),
    )


def rows(block: TokenBlock) -> list[tuple[Tensor, Tensor]]:
    """Tokens and mask of each sequence."""
    spans = [block.span(row) for row in range(len(block))]
    return [
        (torch.from_numpy(block.tokens[span].astype(np.int64)), torch.from_numpy(block.response_mask[span].copy()))
        for span in spans
    ]


def slow_loss(rewards: list[Tensor], margin_scale: float = 0.0, label_smoothing: float = 0.0) -> Tensor:
    """Mean over prompts of the mean over pairs."""
    remaining, losses = iter(rewards), []
    for ratings in RATINGS:
        own = [(rating, next(remaining)) for rating in ratings]
        gaps = [a - b - margin_scale * (x - y) for x, a in own for y, b in own if x > y]
        pairs = [-(1 - label_smoothing) * logsigmoid(g) - label_smoothing * logsigmoid(-g) for g in gaps]
        losses.append(torch.stack(pairs).mean())
    return torch.stack(losses).mean()


@contextmanager
def eager(model: PreTrainedModel) -> Iterator[None]:
    """Inside, transformers' own attention: one sequence at a time."""
    packed = model.config._attn_implementation
    model.set_attn_implementation("eager")
    yield
    model.set_attn_implementation(packed)


def slow_logprob(model: PreTrainedModel, tokens: Tensor, mask: Tensor) -> Tensor:
    logprobs = model(tokens[None]).logits[0, :-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
    return logprobs[mask[1:]].sum()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {checkpoint_name(n): p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def cuts(block: TokenBlock) -> list[MiniBatch]:
    """All in one pass, one prompt a pass, and dealt to three ranks of which some have an empty pass."""
    shapes = [(1, 1000), (1, 60), (3, 60)]
    return [plan_block(block, number=0, num_ranks=ranks, tokens_per_micro_batch=budget) for ranks, budget in shapes]


def backward(objective: Objective, model: Model, block: TokenBlock, plan: MiniBatch, reference: Model | None) -> float:
    """The sum of all ranks' shares, with their gradients."""
    total = 0.0
    for micro_batch in (micro for rank in plan.ranks for micro in rank):
        output = objective.loss(model, pack([block], micro_batch), plan, reference)
        output.loss.backward()
        total += float(output.loss.detach())
    return total


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "qwen2"])
def test_a_reward_model_s_gradient_is_autograd_s_however_it_is_cut(architecture: Architecture) -> None:
    classifier, block = new_classifier(causal_lm(architecture=architecture), seed=1), comparisons()
    with eager(classifier):
        loss = slow_loss([classifier(tokens[None]).logits[0, 0] for tokens, _ in rows(block)], margin_scale=0.2)
        loss.backward()
    expected = gradients(classifier)
    model, objective = RewardModel(classifier), RewardObjective(margin_scale=0.2)
    for plan in cuts(block):
        model.zero_grad()
        assert backward(objective, model, block, plan, None) == pytest.approx(float(loss.detach()), abs=1e-6)
        assert_same(gradients(model), expected)


def test_dpo_s_gradient_is_autograd_s_however_it_is_cut() -> None:
    policy, first, block = causal_lm(seed=0), causal_lm(seed=1), comparisons()
    with eager(policy), eager(first):
        ref = [slow_logprob(first, *row).detach() for row in rows(block)]
        rewards = [0.3 * (slow_logprob(policy, *row) - own) for row, own in zip(rows(block), ref, strict=True)]
        loss = slow_loss(rewards, label_smoothing=0.1)
        loss.backward()
    expected = gradients(policy)
    model, reference, objective = PolicyModel(policy), PolicyModel(first), DpoObjective(beta=0.3, label_smoothing=0.1)
    for plan in cuts(block):
        model.zero_grad()
        assert backward(objective, model, block, plan, reference) == pytest.approx(float(loss.detach()), abs=1e-5)
        assert_same(gradients(model), expected)
    assert not gradients(reference)


def test_dpo_starts_at_log_2_without_any_preference() -> None:
    policy, block = causal_lm(), comparisons()
    (plan, *_) = cuts(block)
    loss = backward(
        DpoObjective(beta=0.1, label_smoothing=0), PolicyModel(policy), block, plan, PolicyModel(causal_lm())
    )
    assert loss == pytest.approx(np.log(2), abs=1e-6)


@pytest.mark.parametrize("kind", ["reward_model", "dpo"])
def test_held_out_measures_are_the_same_however_they_are_cut(kind: str) -> None:
    block = comparisons()
    if kind == "dpo":
        objective, model = DpoObjective(beta=1.0, label_smoothing=0.0), PolicyModel(causal_lm(0))
        reference = PolicyModel(causal_lm(1))
    else:
        objective, model, reference = (
            RewardObjective(margin_scale=1.0),
            RewardModel(new_classifier(causal_lm(), seed=0)),
            None,
        )
    found = []
    for plan in cuts(block):
        with torch.no_grad():
            parts = [objective.measure(model, pack([block], micro), reference) for rank in plan.ranks for micro in rank]
        metrics = finish(merge(parts))
        found.append({**metrics, **objective.derived(metrics)})
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[2] == pytest.approx(found[0], rel=1e-4)
    assert found[0]["eval/preference_accuracy_low"] < found[0]["eval/preference_accuracy"]


def test_mean_and_deviation_are_those_of_all_responses() -> None:
    block, model, objective = (
        comparisons(),
        RewardModel(new_classifier(causal_lm(), seed=0)),
        RewardObjective(margin_scale=0),
    )
    plan = cuts(block)[2]
    with torch.no_grad():
        parts = [objective.measure(model, pack([block], micro), None) for rank in plan.ranks for micro in rank]
        with eager(model.classifier):
            values = np.array([float(model.classifier(tokens[None]).logits) for tokens, _ in rows(block)])
    metrics = finish(merge(parts))
    assert metrics["eval/reward_mean"] == pytest.approx(values.mean(), abs=1e-5)
    assert objective.derived(metrics)["eval/reward_std"] == pytest.approx(values.std(), abs=1e-5)


def test_a_policy_s_folder_gives_its_body_under_a_new_head_of_the_seed(tmp_path: Path) -> None:
    policy = causal_lm()
    policy.save_pretrained(tmp_path)
    one, same, other = (load_classifier(ModelConfig(path=str(tmp_path)), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(score_head(one).weight, score_head(same).weight)
    assert not torch.equal(score_head(one).weight, score_head(other).weight)
    body = policy.base_model.state_dict()
    assert all(torch.equal(tensor, body[name]) for name, tensor in one.base_model.state_dict().items())


def test_a_reward_model_s_folder_gives_its_body_and_its_head(tmp_path: Path) -> None:
    make_reward_model(tmp_path)
    loaded = load_classifier(ModelConfig(path=str(tmp_path)), seed=0)
    expected = AutoModelForSequenceClassification.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    with pytest.raises(ValueError, match="2 labels"):
        load_classifier(ModelConfig(path=str(make_reward_model(tmp_path / "two", num_labels=2))), seed=0)


def test_a_critic_from_a_reward_model_values_what_is_there_so_far() -> None:
    """The value before token t is the reward of the tokens before t."""
    classifier, block = new_classifier(causal_lm(), seed=0), comparisons()
    (micro_batch,) = cuts(block)[0].ranks[0]
    packed = pack([block], micro_batch)
    with torch.no_grad():
        values = value_model_of_rewards(classifier)(packed)
        with eager(classifier):
            for (tokens, mask), own in zip(rows(block), packed.split(values), strict=True):
                for place in mask.nonzero().squeeze(1).tolist():
                    expected = classifier(tokens[None, :place]).logits[0, 0]
                    torch.testing.assert_close(own[place], expected, rtol=1e-4, atol=1e-5)


def test_a_critic_has_the_unit_of_the_rewards_that_it_predicts() -> None:
    block = comparisons()
    (micro_batch,) = cuts(block)[0].ranks[0]
    packed = pack([block], micro_batch)
    with torch.no_grad():
        raw = value_model_of_rewards(new_classifier(causal_lm(), seed=0))(packed)
        divided = value_model_of_rewards(new_classifier(causal_lm(), seed=0), deviation=4.0)(packed)
    assert raw.abs().max() > 0
    torch.testing.assert_close(divided, raw / 4)


def test_a_new_classifier_survives_a_folder(tmp_path: Path) -> None:
    classifier = new_classifier(causal_lm(), seed=0)
    classifier.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    tokens = torch.tensor([[5, 6, 7]])
    with eager(classifier):
        torch.testing.assert_close(again(tokens).logits, classifier(tokens).logits)


def test_padding_that_ends_turns_is_no_padding_for_a_reward_model() -> None:
    tokenizer = build_tokenizer(TokenizerConfig(kind="characters"), ())
    classifier = new_classifier(causal_lm(), seed=0)
    assert exported_config(classifier, tokenizer).pad_token_id == tokenizer.pad_token_id
    tokenizer.pad_token = tokenizer.eos_token
    assert exported_config(classifier, tokenizer).pad_token_id is None
