"""The stages of pre-training and supervised fine-tuning: their parts made, joined and run to the end."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from actors.trainer import TrainerGroup
from cluster.folder import RunFolder
from cluster.inputs import check_length, data_sources, make_mixer, trained_tokenizer
from cluster.meters import open_meter
from cluster.outcome import Outcome
from cluster.session import ray_session
from cluster.signals import stop_on_signal
from configs.digest import config_digest
from configs.schema import PretrainRun, SftRun
from experience.dataset import Dataset, load_dataset
from experience.packing import plan_block
from experience.records import Batch, TokenBlock
from experience.sequences import ConversationSequences, Sequences, SequenceStream, TextSequences, first_sequences
from experience.tokenizer import build_tokenizer
from metrics.meter import Meter
from trainers.learner import LearnerSpec
from trainers.mixing import Mixer
from trainers.model_files import check_model
from trainers.saving import Saver
from trainers.supervised import SupervisedObjective
from trainers.supervised_loop import SupervisedLoop

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

SupervisedStage = PretrainRun | SftRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What was read and checked before anything heavy starts."""

    tokenizer_path: str
    sequences: SequenceStream
    held_out: Sequences | None
    mixer: Mixer | None


def read_inputs(run: SupervisedStage, folder: RunFolder) -> Inputs:
    """Everything that can be wrong with a recipe is found here; ValueError says what."""
    check_model(run.model, sequence_parallel_size=run.trainer.sequence_parallel_size)
    check_length(run, "max_sequence_tokens", run.max_sequence_tokens)
    train_source, held_out_source = data_sources(run.data, folder)
    train = load_dataset(train_source)
    tokenizer = _tokenizer(run, folder, train)
    to_sequences = TextSequences if isinstance(run, PretrainRun) else ConversationSequences
    held_out = None if held_out_source is None else load_dataset(held_out_source)
    return Inputs(
        tokenizer_path=str(folder.tokenizer),
        sequences=SequenceStream(
            to_sequences(train, tokenizer, run.data, run.max_sequence_tokens), seed=run.seed, shuffle=run.data.shuffle
        ),
        held_out=None if held_out is None else to_sequences(held_out, tokenizer, run.data, run.max_sequence_tokens),
        mixer=make_mixer(run, run.mix, tokenizer, folder) if isinstance(run, SftRun) else None,
    )


async def train(run: SupervisedStage, inputs: Inputs, folder: RunFolder, resume_from: Path | None) -> Outcome:
    """Train to the last step, or until a signal."""
    with ExitStack() as stack:
        stack.enter_context(ray_session(run.cluster, num_cpus=run.trainer.num_ranks * run.trainer.threads_per_rank))
        learner = await TrainerGroup.start(_learner_spec(run, inputs))
        stack.callback(learner.close)
        state = await learner.load(resume_from) if resume_from else {}
        return await _train(run, inputs, folder, learner, state.get("step", 0))


class SupervisedObserver:
    """Logs each step, measures held-out loss, saves."""

    def __init__(
        self, run: SupervisedStage, *, learner: TrainerGroup, meter: Meter, saver: Saver, held_out: Batch | None
    ) -> None:
        self._run, self._learner, self._meter, self._saver = run, learner, meter, saver
        self._held_out = held_out
        self.last: Mapping[str, float] = {}

    async def after_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step `step` is done (1 is the first)."""
        every = self._run.eval_every_steps
        if self._held_out is not None and (step == self._run.num_steps or (every and step % every == 0)):
            with self._meter.phase("evaluate"):
                self.last = await self._learner.evaluate(self._held_out)
            metrics = {**metrics, **self.last}
        with self._meter.phase("save"):
            await self._saver.after_step(step)
        self._meter.log(step, {**metrics, **self._meter.end_step()})


async def _train(
    run: SupervisedStage, inputs: Inputs, folder: RunFolder, learner: TrainerGroup, first_step: int
) -> Outcome:
    meter = open_meter(run, folder, first_step)
    loop = SupervisedLoop(
        learner=learner,
        make_batch=lambda step: _step_batch(run, inputs, step),
        meter=meter,
    )
    saver = Saver(run.checkpoint, learner=learner, folder=folder.checkpoints, num_steps=run.num_steps, state=dict)
    held_out = None if inputs.held_out is None else _batch(run, first_sequences(inputs.held_out, run.eval_sequences))
    observer = SupervisedObserver(run, learner=learner, meter=meter, saver=saver, held_out=held_out)
    with stop_on_signal(loop.stop):
        try:
            step = await loop.run(observer, first_step=first_step, num_steps=run.num_steps)
        finally:
            meter.close()
            meter.timeline.write(folder.timeline)
        await saver.save(step)
        is_finished = step == run.num_steps
        if is_finished:
            await learner.export(folder.export)
    return Outcome(
        step=step,
        is_finished=is_finished,
        folder=folder.path,
        export=folder.export if is_finished else None,
        seconds=meter.timeline.seconds(),
        last=observer.last,
    )


def _tokenizer(run: SupervisedStage, folder: RunFolder, train: Dataset) -> "PreTrainedTokenizerBase":
    """The checkpoint's tokenizer, or a new one; the run's folder holds it, for the ranks and the export."""
    if run.model.new is None:
        tokenizer = trained_tokenizer(run)
    else:
        column = run.data.text_column if isinstance(run, PretrainRun) else run.data.response_column
        tokenizer = build_tokenizer(run.model.new.tokenizer, train.table[column].to_pylist())
    tokenizer.save_pretrained(folder.tokenizer)
    return tokenizer


def _learner_spec(run: SupervisedStage, inputs: Inputs) -> LearnerSpec:
    return LearnerSpec(
        model=run.model,
        tokenizer_path=inputs.tokenizer_path,
        seed=run.seed,
        optimizer=run.optimizer,
        trainer=run.trainer,
        objective=SupervisedObjective(),
        total_updates=run.num_steps,
        config_digest=config_digest(run),
        use_gpu=ray.cluster_resources().get("GPU", 0) > 0,
    )


def _batch(run: SupervisedStage, block: TokenBlock) -> Batch:
    """One optimiser step on every sequence of `block`."""
    plan = plan_block(
        block,
        number=0,
        num_ranks=run.trainer.num_data_ranks,
        tokens_per_micro_batch=run.trainer.tokens_per_micro_batch,
    )
    return Batch(blocks=(block,), mini_batches=(plan,))


def _step_batch(run: SupervisedStage, inputs: Inputs, step: int) -> Batch:
    """What step `step` (from 0) learns from."""
    batch = _batch(run, inputs.sequences.block(step, run.sequences_per_step))
    return batch if inputs.mixer is None else inputs.mixer.mix(batch, step)
