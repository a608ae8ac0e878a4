"""Who computes: models on devices, one folder a role. Plain classes; no Ray but ray.train in finetune."""
