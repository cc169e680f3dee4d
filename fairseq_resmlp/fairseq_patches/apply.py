"""The list of all patches."""

from functools import cache

from fairseq_resmlp.fairseq_patches import (
    checkpoints,
    command_line,
    data,
    divergence,
    extensions,
    generation,
    hydra,
    progress,
    training,
)


@cache  # applying a patch twice would wrap fairseq's functions twice
def apply_patches() -> None:
    """Apply every patch that fairseq still needs. Further calls do nothing."""
    extensions.supply_missing_extensions()
    checkpoints.patch_checkpoint_loading()
    checkpoints.restrict_eval_to_literals()
    data.fix_dropped_last_batch()
    data.fix_batches_after_resume()
    training.respect_max_update()
    training.stop_loader_threads_at_exit()
    checkpoints.write_checkpoints_atomically()
    checkpoints.save_interval_checkpoint_at_epoch_end()
    training.fix_amp_double_unscaling()
    checkpoints.store_inferred_languages()
    generation.fix_diverse_beam_search()
    generation.refuse_nonfinite_scores()
    generation.patch_interactive_input()
    generation.fix_replace_unk()
    hydra.register_adagrad_with_hydra()
    hydra.apply_architecture_in_hydra()
    command_line.show_model_options_in_help()
    command_line.allow_bf16_without_tpu()
    training.explain_memory_efficient_adagrad()
    command_line.accept_second_copy()
    command_line.print_input_errors_in_one_line()
    command_line.silence_warnings()
    progress.log_time_left()
    divergence.stop_on_divergence()
