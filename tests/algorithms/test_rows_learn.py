"""Every row, from rewards to gradient, on the smallest problem there is: prefer one of four tokens."""

from dataclasses import replace

import pytest
import torch

from algorithms.advantages import SequenceRewards, sequence_advantages
from algorithms.aggregation import LossTotals
from algorithms.algorithm import Algorithm
from algorithms.objective import LossInputs, policy_loss
from algorithms.returns import RewardInputs, token_advantages
from algorithms.table import ALGORITHMS, find_row
from algorithms.values import ValueInputs, value_loss
from algorithms.whitening import moments, whiten

NUM_PROMPTS, GROUP_SIZE, LENGTH, VOCABULARY = 4, 8, 3, 4
NUM_SEQUENCES = NUM_PROMPTS * GROUP_SIZE
NUM_TOKENS = NUM_SEQUENCES * LENGTH
IDS = torch.arange(NUM_TOKENS) // LENGTH
MASK = torch.ones(NUM_TOKENS, dtype=torch.bool)
TOTALS = LossTotals(num_loss_tokens=NUM_TOKENS, num_sequences=NUM_SEQUENCES, max_response_tokens=LENGTH)


class Bandit:
    """A policy of one logit a position and token, and a critic of one value a position."""

    def __init__(self, row: Algorithm, updates_per_batch: int) -> None:
        self.row, self.updates_per_batch = row, updates_per_batch
        self.draw = torch.Generator().manual_seed(0)
        self.logits = torch.zeros(LENGTH, VOCABULARY, requires_grad=True)
        self.values = torch.zeros(LENGTH, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits, self.values], lr=0.1)

    def chance_of_success(self) -> float:
        """Mean probability of token 0, the rewarded one."""
        return float(self.logits.detach().softmax(1)[:, 0].mean())

    def logprobs(self, tokens: torch.Tensor) -> torch.Tensor:
        chosen = self.logits.log_softmax(1).expand(NUM_SEQUENCES, -1, -1).gather(2, tokens[..., None])
        return chosen.flatten()

    def step(self) -> None:
        probabilities = self.logits.detach().softmax(1).repeat(NUM_SEQUENCES, 1)
        tokens = torch.multinomial(probabilities, 1, generator=self.draw).view(NUM_SEQUENCES, LENGTH)
        rewards = (tokens == 0).float().mean(1)
        old = self.logprobs(tokens).detach()
        ref = torch.full((NUM_TOKENS,), 1 / VOCABULARY).log()
        advantages, returns = self.advantages(rewards, old, ref)
        old_values = self.values.detach().repeat(NUM_SEQUENCES)
        for _ in range(self.updates_per_batch):
            inputs = LossInputs(
                logprobs=self.logprobs(tokens),
                entropy=torch.zeros(NUM_TOKENS),
                rollout_logprobs=old,
                advantages=advantages,
                response_mask=MASK,
                sequence_ids=IDS,
                old_logprobs=old if self.updates_per_batch > 1 else None,
                ref_logprobs=ref if self.row.needs_reference else None,
            )
            loss = policy_loss(self.row, inputs, TOTALS).loss
            if self.row.needs_critic:
                values = self.values.repeat(NUM_SEQUENCES)
                critic = ValueInputs(
                    values=values, returns=returns, response_mask=MASK, sequence_ids=IDS, old_values=old_values
                )
                loss = loss + value_loss(self.row, critic, TOTALS).loss
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def advantages(
        self, rewards: torch.Tensor, old: torch.Tensor, ref: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.row.has_token_rewards:
            groups = torch.arange(NUM_SEQUENCES) // GROUP_SIZE
            greedy = (self.logits.detach().argmax(1) == 0).float().mean().expand(NUM_SEQUENCES)
            batch = SequenceRewards(rewards=rewards, groups=groups, greedy_rewards=greedy)
            return sequence_advantages(self.row, batch)[IDS], torch.zeros(NUM_TOKENS)
        values = self.values.detach().repeat(NUM_SEQUENCES)
        given = RewardInputs(
            rewards=rewards, response_mask=MASK, sequence_ids=IDS, old_logprobs=old, ref_logprobs=ref, values=values
        )
        result = token_advantages(self.row, given)
        if self.row.whiten:
            return whiten(result.advantages, MASK, moments(result.advantages, MASK)), result.returns
        return result.advantages, result.returns


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
@pytest.mark.parametrize("updates_per_batch", [1, 3])
def test_every_row_learns_to_prefer_the_rewarded_token(name, updates_per_batch):
    bandit = Bandit(find_row(name), updates_per_batch)
    assert bandit.chance_of_success() == pytest.approx(0.25)
    for _ in range(40):
        bandit.step()
    assert bandit.chance_of_success() > 0.6


def test_a_strong_penalty_keeps_the_policy_at_its_reference():
    free, held = (Bandit(replace(find_row("grpo"), kl_coef=coef), 1) for coef in (0.0, 10.0))
    for _ in range(30):
        free.step()
        held.step()
    assert held.chance_of_success() < 0.4 < free.chance_of_success()
