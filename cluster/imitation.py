"""What pre-training and supervised fine-tuning read: texts and conversations."""

from typing import TYPE_CHECKING

from cluster.folder import RunFolder
from cluster.inputs import check_length, data_sources, make_mixer, trained_tokenizer
from cluster.supervise import Inputs, plan_batch
from configs.schema import PretrainRun, SftRun
from experience.dataset import Dataset, load_dataset
from experience.records import Batch, TokenBlock
from experience.sequences import ConversationSequences, SequenceStream, TextSequences, first_sequences
from experience.tokenizer import build_tokenizer
from trainers.model_files import check_model
from trainers.supervised import SupervisedObjective

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase


def read_inputs(run: PretrainRun | SftRun, folder: RunFolder) -> Inputs:
    """Everything that can be wrong with a recipe is found here; ValueError says what."""
    check_model(run.model, sequence_parallel_size=run.trainer.sequence_parallel_size)
    check_length(run, "max_sequence_tokens", run.max_sequence_tokens)
    train_source, held_out_source = data_sources(run.data, folder)
    train = load_dataset(train_source)
    tokenizer = _tokenizer(run, folder, train)
    to_sequences = TextSequences if isinstance(run, PretrainRun) else ConversationSequences

    def plan(block: TokenBlock) -> Batch:
        return plan_batch(block, run.trainer)

    sequences = to_sequences(train, tokenizer, run.data, run.max_sequence_tokens)
    stream = SequenceStream(sequences, seed=run.seed, shuffle=run.data.shuffle)
    held_out = None
    if held_out_source is not None:
        rows = to_sequences(load_dataset(held_out_source), tokenizer, run.data, run.max_sequence_tokens)
        held_out = plan(first_sequences(rows, run.eval_sequences))
    mixer = make_mixer(run, run.mix, tokenizer, folder) if isinstance(run, SftRun) else None

    def make_batch(step: int) -> Batch:
        batch = plan(stream.block(step, run.sequences_per_step))
        return batch if mixer is None else mixer.mix(batch, step)

    return Inputs(
        tokenizer_path=str(folder.tokenizer),
        objective=SupervisedObjective(),
        make_batch=make_batch,
        held_out=held_out,
    )


def _tokenizer(run: PretrainRun | SftRun, folder: RunFolder, train: Dataset) -> "PreTrainedTokenizerBase":
    """The checkpoint's tokenizer, or a new one; the run's folder holds it, for the ranks and the export."""
    if run.model.new is None:
        tokenizer = trained_tokenizer(run)
    else:
        column = run.data.text_column if isinstance(run, PretrainRun) else run.data.response_column
        tokenizer = build_tokenizer(run.model.new.tokenizer, train.table[column].to_pylist())
    tokenizer.save_pretrained(folder.tokenizer)
    return tokenizer
