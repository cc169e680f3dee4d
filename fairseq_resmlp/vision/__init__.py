"""The paper's image model on the encoder layers of the translation model: model, data, training and weights."""
