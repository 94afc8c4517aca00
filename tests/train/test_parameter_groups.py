"""What weight decay spares: vectors, as norms and biases are."""

import pytest
import tiny_stages as tiny
from torch import nn

from chatlib.settings.stages import Lora
from chatlib.train import engine, models


@pytest.mark.parametrize("lora", [None, Lora(lora_dim=2, lora_learning_rate=1e-4)])
def test_weight_decay_shrinks_matrices_and_spares_vectors(lora, policy, tmp_path):
    config = tiny.sft(model=str(policy.model_dir), weight_decay=0.1, lora=lora)
    tokenizer = models.load_tokenizer(config.model)
    model = models.load_policy(config.model, tokenizer)
    module = nn.Sequential(models.AnswerLM(model), nn.Linear(3, 2))
    if lora:
        models.add_lora(model, lora, "CAUSAL_LM")
    decay = {
        weight: group.get("weight_decay", config.weight_decay)  # the optimizer's, if it has none
        for group in engine.parameter_groups(config, module)
        for weight in group["params"]
    }
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    assert {id(w) for w in decay} == {id(w) for w in trained}
    assert all(decay[w] == (0.0 if w.ndim < 2 else 0.1) for w in trained)
    assert {w.ndim for w in trained} == {1, 2}
