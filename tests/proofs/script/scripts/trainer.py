"""A training with the Trainer of Hugging Face transformers."""

from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments


class Net(PreTrainedModel):
    config_class = PretrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 1))
        self.post_init()

    def forward(self, x, labels=None):
        output = self.net(x)
        return {"loss": nn.functional.mse_loss(output, labels), "logits": output}


torch.manual_seed(0)
x = torch.randn(24, 4)
data = [{"x": row, "labels": row.sum(0, keepdim=True)} for row in x]
arguments = TrainingArguments(
    "runs", num_train_epochs=4, per_device_train_batch_size=6, save_strategy="steps", save_steps=3,
    logging_steps=2, report_to=[], use_cpu=True, disable_tqdm=True, learning_rate=0.05,
)  # fmt: skip
trainer = Trainer(Net(PretrainedConfig()), arguments, train_dataset=data)
trainer.train(resume_from_checkpoint=any(Path("runs").glob("checkpoint-*")))
