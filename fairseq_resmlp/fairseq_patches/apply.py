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
    mixed_precision,
    option_checks,
    preprocessing,
    progress,
    resuming,
    save_directory,
    tasks,
    tensorboard,
    training,
    training_state,
    validation,
)


@cache  # applying a patch twice would wrap fairseq's functions twice
def apply_patches() -> None:
    """Apply every patch that fairseq still needs. Further calls do nothing."""
    extensions.supply_missing_extensions()
    checkpoints.patch_checkpoint_loading()
    checkpoints.restrict_eval_to_literals()
    data.fix_dropped_last_batch()
    data.fix_batches_after_resume()
    resuming.resume_with_other_batches()
    resuming.explain_changed_options()
    data.explain_unusable_data()
    data.complete_language_pair()
    training.stop_loader_threads_at_exit()
    checkpoints.write_checkpoints_atomically()
    checkpoints.save_interval_checkpoint_at_epoch_end()
    mixed_precision.fix_amp_double_unscaling()
    mixed_precision.repeat_overflows_in_float32()
    training.compute_gradient_norms_together()
    checkpoints.store_inferred_languages()
    generation.fix_diverse_beam_search()
    generation.explain_failed_search()
    generation.explain_large_topk()
    generation.refuse_translation_model_as_language_model()
    generation.patch_interactive_input()
    generation.fix_replace_unk()
    tasks.refuse_multilingual_models()
    hydra.register_adagrad_with_hydra()
    hydra.apply_architecture_in_hydra()
    command_line.show_model_options_in_help()
    command_line.allow_bf16_without_tpu()
    training.explain_memory_efficient_adagrad()
    option_checks.check_options()
    preprocessing.check_preprocessing()
    validation.check_bleu_options()
    command_line.accept_second_copy()
    command_line.explain_missing_devices()
    command_line.report_unusable_output()
    command_line.print_input_errors_in_one_line()
    command_line.silence_warnings()
    progress.log_time_left()
    progress.write_log_file_once()
    tensorboard.explain_full_disk()
    training_state.keep_state_with_its_training()
    training_state.resume_lr_schedule()
    training_state.leave_finished_training_unchanged()
    validation.check_best_checkpoint_metric()
    divergence.stop_on_divergence()
    training_state.resume_after_restore_file()
    save_directory.check_directory_with_unique_name()
    save_directory.refuse_second_training()
