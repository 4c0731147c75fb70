"""Whole commands of transformers' example scripts, and what train.py answers to them."""

from __future__ import annotations

import re
import shlex


def whole_command(answer: str) -> list[str]:
    """The words of the command that an answer to wrong names ends with."""
    command = re.search(r"the whole command:\n  ((?:.*\\\n)*.*)", answer)[1]
    return shlex.split(command.replace("\\\n", ""))


GLUE = (
    "--model_name_or_path MODEL --train_file train.csv --validation_file dev.csv --do_train --do_eval "
    "--max_seq_length 64 --per_device_train_batch_size 16 --learning_rate 2e-5 --num_train_epochs 3 "
    "--eval_strategy epoch --save_strategy epoch --load_best_model_at_end --metric_for_best_model accuracy "
    "--warmup_ratio 0.1 --output_dir out --overwrite_output_dir --report_to none --seed 7"
)
MLM = (
    "--model_name_or_path MODEL --train_file corpus.txt --line_by_line --max_seq_length 64 "
    "--mlm_probability 0.2 --per_device_train_batch_size 8 --gradient_accumulation_steps 2 --learning_rate 1e-4 "
    "--max_steps 4 --warmup_steps 2 --weight_decay 0.1 --adam_beta2 0.98 --output_dir out --logging_steps 1"
)
NER = (
    "--task_name ner --model_name_or_path MODEL --train_file train.json --validation_file dev.json "
    "--text_column_name words --label_column_name tags --per_device_train_batch_size 8 --num_train_epochs 2 "
    "--return_entity_level_metrics --learning_rate 5e-5 --save_total_limit 1 --output_dir out --fp16 False"
)
COMMANDS = {
    GLUE: "accelerate launch train.py --task classification --model MODEL --data.train_files train.csv "
    "--data.validation_files dev.csv --data.max_length 64 --batch.per_device 16 --recipe.lr 2e-5 "
    "--recipe.duration '3 epochs' --evaluation.every '1 epochs' --checkpoint.every '1 epochs' "
    "--evaluation.export best --evaluation.metric accuracy --recipe.warmup 10% --run_dir out --seed 7 "
    "--batch.global_size 16 --recipe.reference_batch_size 16",
    MLM: "accelerate launch train.py --task mlm --model MODEL --data.train_files corpus.txt "
    "--data.max_length 64 --data.mask_rate 0.2 --batch.per_device 8 --recipe.lr 1e-4 --recipe.duration '4 steps' "
    "--recipe.warmup '2 steps' --recipe.weight_decay 0.1 --recipe.betas 0.9 0.98 --run_dir out --log.every 1 "
    "--batch.global_size 16 --recipe.reference_batch_size 16",
    NER: "accelerate launch train.py --task token-classification --model MODEL --data.train_files train.json "
    "--data.validation_files dev.json --data.text_column words --data.label_column tags --batch.per_device 8 "
    "--recipe.duration '2 epochs' --recipe.lr 5e-5 --checkpoint.keep 2 --run_dir out "
    "--batch.global_size 8 --recipe.reference_batch_size 8",
}
"""What train.py says is to be written in place of each, from run_glue, run_mlm and run_ner."""
