"""What the stages read that learn from comparisons: a reward model, direct preference optimisation."""

from cluster.folder import RunFolder
from cluster.inputs import check_length, data_sources, trained_tokenizer
from cluster.supervise import Inputs, plan_batch
from configs.schema import DpoRun, RewardModelRun
from experience.comparisons import ComparisonSet
from experience.conversations import JudgedEncoder, LastTurnEncoder
from experience.dataset import load_dataset
from experience.encoding import Encoder
from experience.records import Batch, TokenBlock
from experience.sequences import SequenceStream, first_sequences
from trainers.model_files import check_model
from trainers.preferences import DpoObjective, RewardObjective


def read_inputs(run: RewardModelRun | DpoRun, folder: RunFolder) -> Inputs:
    """Everything that can be wrong with a recipe is found here; ValueError says what."""
    check_model(run.model, sequence_parallel_size=run.trainer.sequence_parallel_size)
    check_length(run, "max_sequence_tokens", run.max_sequence_tokens)
    train_source, held_out_source = data_sources(run.data, folder)
    tokenizer = trained_tokenizer(run)
    tokenizer.save_pretrained(folder.tokenizer)
    encoder = Encoder(tokenizer, run.data.system_prompt)
    is_reward_model = isinstance(run, RewardModelRun)
    to_tokens = JudgedEncoder(encoder) if is_reward_model else LastTurnEncoder(encoder)

    def read(source: str) -> ComparisonSet:
        comparisons = ComparisonSet(load_dataset(source), to_tokens, run.data, run.max_sequence_tokens)
        _check_micro_batch(run, comparisons.longest_tokens)
        return comparisons

    def plan(block: TokenBlock) -> Batch:
        return plan_batch(block, run.trainer)

    train = read(train_source)
    stream = SequenceStream(train, seed=run.seed, shuffle=run.data.shuffle)
    held_out = None
    if held_out_source is not None:
        held_out = plan(first_sequences(read(held_out_source), run.eval_comparisons))
    return Inputs(
        tokenizer_path=str(folder.tokenizer),
        objective=_objective(run),
        make_batch=lambda step: plan(stream.block(step, run.comparisons_per_step)),
        held_out=held_out,
        # Held-out responses where there are any: rewards of those that were trained on are further apart.
        centred=(held_out or plan(first_sequences(train, run.eval_comparisons))) if is_reward_model else None,
        unit_deviation=isinstance(run, RewardModelRun) and run.normalize == "mean_and_deviation",
    )


def _objective(run: RewardModelRun | DpoRun) -> RewardObjective | DpoObjective:
    if isinstance(run, RewardModelRun):
        return RewardObjective(margin_scale=run.margin_scale)
    return DpoObjective(beta=run.beta, label_smoothing=run.label_smoothing)


def _check_micro_batch(run: RewardModelRun | DpoRun, longest: int) -> None:
    """ValueError when a micro-batch can't hold all responses of one comparison."""
    budget = run.trainer.tokens_per_micro_batch
    if longest > budget:
        raise ValueError(
            f"trainer.tokens_per_micro_batch={budget}: the responses of one prompt have {longest} tokens together, and "
            f"are compared in one pass; set it to {longest} or more"
        )
