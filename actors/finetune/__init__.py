"""Fine-tuning of the classifier with DeepSpeed, under Ray Train or in-process."""
